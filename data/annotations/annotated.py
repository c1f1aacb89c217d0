"""What is known about an image besides its pixels, and the two together."""

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.errors import BadImage

IGNORE = 255  # class of a pixel that counts for nothing


@dataclass(frozen=True)
class Objects:
    """The m objects of an image.

    Attributes:
        boxes: float32 [m, 4]: left, top, right, bottom in pixels of the image; they may reach
            beyond it.
        labels: int32 [m], from 0.
        areas: float32 [m], in pixels of the image as it is stored, whatever becomes of it: COCO
            tells small, medium and large objects by it.
        is_crowd: bool [m]: a box of many objects that nobody told apart.
    """

    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    is_crowd: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, which: np.ndarray) -> "Objects":
        """Returns some of the objects: bool [m], or their indices."""
        return Objects(**{name: array[which] for name, array in vars(self).items()})


def objects_of(boxes: Any = (), labels: Any = (), areas: Any = (), is_crowd: Any = ()) -> Objects:
    """Returns Objects of sequences of equal length; without any, an image without objects."""
    return Objects(
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.asarray(labels, np.int32).reshape(-1),
        np.asarray(areas, np.float32).reshape(-1),
        np.asarray(is_crowd, bool).reshape(-1),
    )


@dataclass(frozen=True, repr=False)
class Annotations:
    """A record's label.

    Attributes:
        image_id: as the data set numbers its images.
        objects: what the image shows; or a function that returns it for an image of (height, width)
            pixels.
        segments: class of each pixel, uint8 [h, w] with IGNORE; or a function without arguments
            that reads it and raises BadImage; None: not known.
        size: (height, width) in pixels of the image that they are for; None: nobody says.
    """

    image_id: int = 0
    objects: Objects | Callable[[tuple[int, int]], Objects] = field(default_factory=objects_of)
    segments: np.ndarray | Callable[[], np.ndarray] | None = None
    size: tuple[int, int] | None = None

    def objects_in(self, size: tuple[int, int]) -> Objects:
        """Returns the objects in the image, of (height, width) pixels."""
        return self.objects(size) if callable(self.objects) else self.objects

    def read_segments(self) -> np.ndarray | None:
        """Returns the class of each pixel; raises BadImage if it cannot be read."""
        return self.segments() if callable(self.segments) else self.segments

    def __repr__(self) -> str:
        """Tells contents apart, and is the same everywhere: see data/digest.py."""
        digest = hashlib.blake2b(digest_size=8)
        arrays = [*vars(self.objects_in((1, 1))).values()]
        try:
            segments = self.read_segments()
            arrays += [] if segments is None else [segments]
        except (BadImage, OSError):  # as an image that cannot be read
            arrays.append(np.zeros(0))
        for array in arrays:
            digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        return f"Annotations(image_id={self.image_id}, digest={digest.hexdigest()})"


@dataclass(frozen=True)
class Annotated:
    """An image with its annotations; the augmentations take and return it.

    Attributes:
        image: uint8 [h, w, c].
        objects: their boxes lie on the image as it now is.
        stored_size: height and width of the image before all augmentations, pixels.
        segments: uint8 [h, w], None: not known.
    """

    image: np.ndarray
    objects: Objects
    stored_size: tuple[int, int]
    segments: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image, pixels."""
        return self.image.shape[:2]

    def with_boxes(self, boxes: np.ndarray, **changes: Any) -> "Annotated":
        """Returns a copy with other boxes, and with the changes."""
        objects = dataclasses.replace(self.objects, boxes=boxes.astype(np.float32))
        return dataclasses.replace(self, objects=objects, **changes)
