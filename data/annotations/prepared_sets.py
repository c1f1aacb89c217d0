"""Boxes and masks of sets that TensorFlow Datasets has prepared, such as coco/2017.

Reference: https://www.tensorflow.org/datasets/catalog/coco and .../scene_parse150
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from data.annotations.annotated import Annotations, Objects
from data.annotations.coco_files import MAX_ID
from data.annotations.mask_files import as_segments, decode_mask
from data.datasets import Dataset
from data.sources.arrays import Record
from data.sources.tfds_prepared import Prepared, class_of_boxes, open_prepared
from data.sources.tfds_records import ArrayRecordSource
from harness.files import read_lines

_IMAGE_ID = "image/id"
# What each class is called, the set does not say. Its masks are those of ADE20K's instances: the
# first channel has 100 classes, where the benchmark of 150 classes has masks of its own.
_MASK_CLASSES = {"scene_parse150": 100}
_NOTES = {
    "scene_parse150": "scene_parse150 has the masks of ADE20K's 100 classes of instances; its 150 "
    "classes are in ADEChallengeData2016: masks:/path"
}


class BoxRecords(ArrayRecordSource):
    """Images and the objects in them."""

    def __init__(self, prepared: Prepared, split: str, label_key: str):
        """Takes the split.

        Args:
            prepared: the set.
            split: one of its splits.
            label_key: feature that holds the class of each object, such as "objects/label".
        """
        super().__init__(prepared, split)
        group, _, _ = label_key.partition("/")
        self._keys = {"image": prepared.image_key, "boxes": prepared.boxes_key}
        self._keys |= {"labels": label_key, "areas": f"{group}/area"}
        self._keys |= {"is_crowd": f"{group}/is_crowd"}

    def __getitem__(self, index: int) -> Record:
        features = self.features(index)
        (encoded,) = features[self._keys["image"]].bytes_list.value
        ids = features[_IMAGE_ID].int64_list.value if _IMAGE_ID in features else ()
        number = ids[0] if len(ids) and 0 <= ids[0] <= MAX_ID else index
        columns = {
            "boxes": np.reshape(features[self._keys["boxes"]].float_list.value, (-1, 4)),
            "labels": np.asarray(features[self._keys["labels"]].int64_list.value, np.int32),
        }
        for key, kind in (("areas", np.float32), ("is_crowd", bool)):
            if self._keys[key] in features:
                columns[key] = np.asarray(_numbers(features[self._keys[key]]), kind)
        objects = functools.partial(_objects, columns)
        return {"image": encoded, "label": Annotations(int(number), objects)}


def _numbers(feature: Any) -> Any:
    return feature.int64_list.value or feature.float_list.value


def _objects(columns: Mapping[str, np.ndarray], size: tuple[int, int]) -> Objects:
    """Returns the objects in an image of a size, whose boxes are in fractions of it."""
    height, width = size
    top, left, bottom, right = columns["boxes"].astype(np.float32).T
    boxes = np.stack([left * width, top * height, right * width, bottom * height], axis=1)
    count = len(columns["labels"])
    sides = boxes[:, 2:] - boxes[:, :2]
    areas, is_crowd = columns.get("areas", ()), columns.get("is_crowd", ())
    return Objects(
        boxes,
        columns["labels"],
        areas if len(areas) == count else sides.prod(axis=1),
        is_crowd if len(is_crowd) == count else np.zeros(count, bool),
    )


class MaskRecords(ArrayRecordSource):
    """Images and the classes of their pixels."""

    def __init__(self, prepared: Prepared, split: str, num_classes: int):
        super().__init__(prepared, split)
        self._key, self._image_key = prepared.mask_key, prepared.image_key
        self._num_classes = num_classes

    def __getitem__(self, index: int) -> Record:
        features = self.features(index)
        (encoded,) = features[self._image_key].bytes_list.value
        (mask,) = features[self._key].bytes_list.value
        read = functools.partial(self._segments, mask, index)
        return {"image": encoded, "label": Annotations(index, segments=read)}

    def _segments(self, encoded: bytes, index: int) -> np.ndarray:
        mask = decode_mask(encoded, first_channel=True)
        return as_segments(mask, self._num_classes, 0, self.describe(index))


def open_boxes(name: str, data_dir: str | None, exif_orientation: bool = False) -> Dataset:
    """Opens a prepared set of images with boxes, of which each has a class.

    Raises:
        ValueError: not prepared, or without such boxes.
    """
    prepared = open_prepared(name, data_dir)
    if (found := class_of_boxes(prepared.features, prepared.boxes_key)) is None:
        raise ValueError(f"data set {name!r} has no boxes with a class each")
    label_key, num_classes = found
    file = prepared.folder / f"{label_key.replace('/', '-')}.labels.txt"
    return Dataset(
        name=name,
        num_classes=num_classes,
        num_channels=3,
        load=functools.cache(lambda split, _: BoxRecords(prepared, split, label_key)),
        splits=tuple(prepared.splits),
        class_names=tuple(read_lines(file)) if file.is_file() else None,
    )


def open_masks_of(name: str, data_dir: str | None, exif_orientation: bool = False) -> Dataset:
    """Opens a prepared set of images with masks.

    Raises:
        ValueError: not prepared, or without masks, or nobody says how many classes they have.
    """
    prepared = open_prepared(name, data_dir)
    base = prepared.info["name"]
    if not prepared.mask_key or base not in _MASK_CLASSES:
        known = ", ".join(_MASK_CLASSES)
        raise ValueError(f"data set {name!r} has no masks that are known here; allowed: {known}")
    count = _MASK_CLASSES[base]
    return Dataset(
        name=name,
        num_classes=count,
        num_channels=3,
        load=functools.cache(lambda split, _: MaskRecords(prepared, split, count)),
        splits=tuple(prepared.splits),
        note=_NOTES[base],
    )
