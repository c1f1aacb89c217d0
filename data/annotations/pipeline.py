"""The data of detection and of segmentation: the pipeline of data/pipeline.py on other records."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from data import datasets
from data.annotations import catalogues, transforms
from data.annotations.annotated import IGNORE, Annotated, Annotations
from data.annotations.average_precision import Detections, in_pixels
from data.annotations.digits_scenes import Scenes
from data.annotations.drawing import draw_boxes, draw_segments
from data.images import as_channels
from data.pipeline import Data
from harness.arguments import check_range, problem
from harness.errors import BadAnnotation, BadImage


def start(image: np.ndarray, label: Annotations) -> Annotated:
    """Returns an image with its annotations, before any augmentation."""
    if label.size not in (None, image.shape[:2]):  # such as a photo turned by its EXIF data
        what = f"its annotations are for {label.size}, the image is {image.shape[:2]}"
        raise BadImage(f"{what}, height first")
    segments = label.read_segments()
    if segments is not None and segments.shape != image.shape[:2]:
        raise BadImage(f"its mask is {segments.shape}, the image {image.shape[:2]}, height first")
    return Annotated(image, label.objects_in(image.shape[:2]), image.shape[:2], segments)


class Boxes:
    """Form of the batches of detection.

    In each row image, uint8 [H, W, c], in its top left corner; image_mask, bool [H, W], True where
    it is; boxes, float32 [n, 4]: centre x, centre y, width and height as shares of the image
    without padding; labels, int32 [n], -1 in rows without an object; area, float32 [n], and
    is_crowd, bool [n], see Objects; image_id, int32; and size, int32 [2]: height and width of the
    image as it is stored.
    """

    def __init__(self, image_shape: tuple[int, int, int], max_objects: int):
        """Takes the sizes.

        Args:
            image_shape: (H, W, channels), in which every image has to fit.
            max_objects: n.
        """
        n = max_objects
        self.empty = {
            "image": np.zeros(image_shape, np.uint8),
            "image_mask": np.zeros(image_shape[:2], bool),
            "boxes": np.zeros((n, 4), np.float32),
            "labels": np.full(n, -1, np.int32),
            "area": np.zeros(n, np.float32),
            "is_crowd": np.zeros(n, bool),
            "image_id": np.zeros((), np.int32),
            "size": np.zeros(2, np.int32),
        }

    def start(self, image: np.ndarray, label: Annotations) -> Annotated:
        return start(image, label)

    def finish(self, item: Annotated, label: Annotations) -> dict[str, np.ndarray]:
        row = {name: array.copy() for name, array in self.empty.items()}
        objects, (height, width) = item.objects, item.size
        if (count := len(objects)) > len(row["labels"]):
            most = len(row["labels"])
            what = f"image {label.image_id} has {count} objects"
            allowed = f"from {count} on"
            raise BadAnnotation(problem("config.data.max_objects", most, what, allowed))
        row["image"][:height, :width] = item.image
        row["image_mask"][:height, :width] = True
        left, top, right, bottom = objects.boxes.T
        centre_x, centre_y = (left + right) / 2, (top + bottom) / 2
        boxes = np.stack([centre_x, centre_y, right - left, bottom - top], axis=1)
        row["boxes"][:count] = boxes / np.array([width, height, width, height], np.float32)
        row["labels"][:count] = objects.labels
        row["area"][:count] = objects.areas
        row["is_crowd"][:count] = objects.is_crowd
        row["image_id"], row["size"] = np.int32(label.image_id), np.int32(item.stored_size)
        return row

    def classes(self, row: dict[str, np.ndarray]) -> Sequence[int]:
        return row["labels"][row["labels"] >= 0]

    def drawn(self, row: dict[str, np.ndarray], class_names: Sequence[str]) -> np.ndarray:
        """Returns the image of a row with its boxes, uint8 [h, w, 3], padding included."""
        real = row["labels"] >= 0
        boxes = in_pixels(row["boxes"][real], real_size(row))
        objects = Detections(boxes, np.ones(len(boxes)), row["labels"][real])
        return draw_boxes(as_channels(row["image"], 3), objects, class_names, 0.0)


class Segments:
    """Form of the batches of segmentation.

    In each row image, uint8 [H, W, c], in its top left corner, and segments, int32 [H, W]: the
    class of each pixel, IGNORE where it counts for nothing, as in the padding; image_mask and size
    as in Boxes.
    """

    def __init__(self, image_shape: tuple[int, int, int]):
        """Takes (H, W, channels), in which every image has to fit."""
        self.empty = {
            "image": np.zeros(image_shape, np.uint8),
            "image_mask": np.zeros(image_shape[:2], bool),
            "segments": np.full(image_shape[:2], IGNORE, np.int32),
            "size": np.zeros(2, np.int32),
        }

    def start(self, image: np.ndarray, label: Annotations) -> Annotated:
        return start(image, label)

    def finish(self, item: Annotated, label: Annotations) -> dict[str, np.ndarray]:
        row = {name: array.copy() for name, array in self.empty.items()}
        height, width = item.size
        row["image"][:height, :width] = item.image
        row["image_mask"][:height, :width] = True
        row["size"] = np.int32(item.stored_size)
        if item.segments is not None:
            row["segments"][:height, :width] = item.segments
        return row

    def classes(self, row: dict[str, np.ndarray]) -> Sequence[int]:
        return np.setdiff1d(row["segments"], IGNORE)

    def drawn(self, row: dict[str, np.ndarray], class_names: Sequence[str]) -> np.ndarray:
        """Returns the image of a row with its classes in colour, uint8 [h, w, 3]."""
        return draw_segments(as_channels(row["image"], 3), row["segments"], class_names)


def real_size(row: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """Returns height and width of the image of a row without its padding."""
    return int(row["image_mask"][:, 0].sum()), int(row["image_mask"][0].sum())


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnnotatedData(Data, Scenes):
    """Images of any size, in the top left corner of larger ones of `image_size`.

    Attributes:
        image_size: height and width in pixels, or one number for both, in which all images have to
            fit: those that do not are made smaller.
        eval_short_side: length of the shorter side in evaluation, pixels; None: as it is stored.
        eval_longest_side: most that the longer side may have there; None: what fits.
    """

    augmentations: ClassVar[Mapping[str, Callable]] = transforms.TRANSFORMS

    image_size: int | tuple[int, int]
    batch_size: int
    eval_short_side: int | None = None
    eval_longest_side: int | None = None

    def __post_init__(self):
        Scenes.__post_init__(self)
        for key in ("eval_short_side", "eval_longest_side"):
            if (value := getattr(self, key)) is not None:
                check_range(f"config.data.{key}", value, 1)
        unset = {field.name: field.default for field in dataclasses.fields(Data)}
        for key in _FOR_CLASSES:
            if (value := getattr(self, key)) != unset[key]:
                what = "only for images with classes"
                raise ValueError(problem(f"config.data.{key}", value, what, repr(unset[key])))
        super().__post_init__()

    def _opened(self) -> datasets.Dataset:
        dataset = self.catalogue.open(self.name, self.data_dir, made=self._made())
        if self.class_names and dataset.class_names not in (None, self.class_names):
            what = "its classes are others than those that were trained on, or in another order"
            raise ValueError(problem("config.data.name", self.name, what))
        return dataset

    def _made(self) -> dict[str, Any]:
        keys = (field.name for field in dataclasses.fields(Scenes))
        return {"scenes": Scenes(**{key: getattr(self, key) for key in keys})}

    @functools.cached_property
    def _crop(self) -> Callable[[Annotated], Annotated]:
        limits, sides = self.height_and_width, (self.eval_short_side, self.eval_longest_side)
        return lambda item: transforms.resized(item, transforms.fitting(item.size, limits, *sides))

    @functools.cached_property
    def _train_steps(self) -> list[transforms.Transform]:
        return transforms.create_transforms(self.augment, self.height_and_width, self._crop)


# Keys of the section that ask for something of classes, or would move an image from under its
# annotations.
_FOR_CLASSES = (
    *("classes", "examples_per_class", "eval_crop_ratio", "eval_crop_interpolation"),
    *("exif_orientation", "among"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoxData(AnnotatedData):
    """Of detection.

    Attributes:
        max_objects: most objects that an image has.
    """

    catalogue: ClassVar[datasets.Catalogue] = catalogues.BOXES

    max_objects: int = 100

    def __post_init__(self):
        check_range("config.data.max_objects", self.max_objects, 1, 10_000)
        super().__post_init__()

    def _made(self) -> dict[str, Any]:
        return super()._made() | {"max_objects": self.max_objects}

    @functools.cached_property
    def form(self) -> Boxes:
        """What records become in a batch."""
        return Boxes(self.image_shape, self.max_objects)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentData(AnnotatedData):
    """Of segmentation.

    Attributes:
        ignore_label: number of the pixels of masks:/path that count for nothing, besides 255; if it
            is 0, as ADE20K's, the classes are 1, 2, ...
    """

    catalogue: ClassVar[datasets.Catalogue] = catalogues.SEGMENTS

    ignore_label: int = IGNORE

    def __post_init__(self):
        check_range("config.data.ignore_label", self.ignore_label, 0, IGNORE)
        super().__post_init__()

    @functools.cached_property
    def form(self) -> Segments:
        """What records become in a batch."""
        return Segments(self.image_shape)

    def _made(self) -> dict[str, Any]:
        return super()._made() | {"ignore_label": self.ignore_label}
