"""Images of a split as evaluation sees them, with the boxes of their objects.

Both go through the same orientation, resize and crop.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from data.augment.crops import center_crop
from data.images import decode_as_stored, turned, upright
from data.pipeline import Data
from data.sources.arrays import Source
from harness.errors import BadImage
from process.cores import num_cores

_AT_ONCE = 64  # images in flight between the threads and whoever takes them


@dataclass(frozen=True)
class BoxedImage:
    """An image that is ready for the model.

    Attributes:
        image: uint8 [h, w, c].
        labels: of the image, ascending: one, or several in a multi-label set.
        boxes: float32 [m, 5], a row (label, top, left, bottom, right) per object, in fractions of
            this image. What lay outside of the crop is cut off.
    """

    image: np.ndarray
    labels: tuple[int, ...]
    boxes: np.ndarray


def crop_boxes(boxes: np.ndarray, window: tuple[float, ...]) -> np.ndarray:
    """Maps boxes into a part of their image, cuts them off at its edges and drops those outside.

    Args:
        boxes: [m, 5], see BoxedImage; fractions of the image.
        window: (top, left, bottom, right) of the part, in the same fractions.

    Returns:
        float32 [m', 5], fractions of the part.
    """
    top, left, bottom, right = window
    start = np.array([top, left, top, left])
    length = np.array([bottom - top, right - left] * 2)
    sides = np.clip((boxes[:, 1:].astype(np.float64) - start) / length, 0.0, 1.0)
    inside = (sides[:, 0] < sides[:, 2]) & (sides[:, 1] < sides[:, 3])
    return np.concatenate([boxes[:, :1], sides], axis=1)[inside].astype(np.float32)


def read_boxed_images(data: Data, source: Source) -> Iterator[BoxedImage | None]:
    """Yields the images of a source in order; None for one that cannot be read.

    Args:
        data: how evaluation prepares its images.
        source: of images; one without `boxes` gives none.
    """
    crop = center_crop(
        image_size=data.height_and_width,
        ratio=data.eval_crop_ratio,
        interpolation=data.eval_crop_interpolation,
    )

    def read(index: int) -> BoxedImage | None:
        try:
            record = source[index]
            boxes = source.boxes(index) if hasattr(source, "boxes") else np.zeros((0, 5))
            image, orientation = record["image"], None
            if isinstance(image, bytes):
                with_orientation = data.exif_orientation
                image, orientation = decode_as_stored(image, with_orientation=with_orientation)
        except (BadImage, OSError):
            return None
        image = upright(image, orientation)
        boxes = np.concatenate([boxes[:, :1], turned(boxes[:, 1:], orientation)], axis=1)
        boxes = crop_boxes(boxes, crop.window(*image.shape[:2]))
        labels = tuple(sorted(np.atleast_1d(record["label"]).tolist()))
        return BoxedImage(crop(image), labels, boxes)

    with ThreadPoolExecutor(num_cores()) as threads:
        for start in range(0, len(source), _AT_ONCE):
            yield from threads.map(read, range(start, min(start + _AT_ONCE, len(source))))
