"""The data sets that detection and segmentation can name.

digits_scenes   ships with the code: both boxes and masks (data/annotations/digits_scenes.py)
coco:/path      images with COCO-style JSON files: boxes (data/annotations/coco_files.py)
masks:/path     images with masks: masks (data/annotations/mask_files.py)
anything else   a set of TensorFlow Datasets: boxes, as coco/2017, or masks, scene_parse150
                (data/annotations/prepared_sets.py)
"""

import functools
import os
from pathlib import Path

from data.annotations.coco_files import CocoSource, open_coco
from data.annotations.digits_scenes import Scenes, digits_scenes_source
from data.annotations.mask_files import MaskSource, open_masks
from data.annotations.prepared_sets import open_boxes, open_masks_of
from data.datasets import Catalogue, Dataset

_DIGITS = tuple("0123456789")


def _digits_scenes(class_names: tuple[str, ...], scenes: Scenes, **others) -> Dataset:
    return Dataset(
        name="digits_scenes",
        num_classes=len(class_names),
        num_channels=1,
        load=lambda split, image_size: digits_scenes_source(split, image_size, scenes),
        aliases={"validation": "test"},
        class_names=class_names,
    )


def _from_coco(name: str, path: Path, max_objects: int, **others) -> Dataset:
    folder = open_coco(path)

    def load(split: str, image_size: object) -> CocoSource:
        folder.sources[split].check_count(max_objects)
        return folder.sources[split]

    return Dataset(
        name=name,
        num_classes=len(folder.class_names),
        num_channels=3,
        load=load,
        splits=tuple(folder.sources),
        aliases=_one_evaluation(folder.sources),
        class_names=folder.class_names,
    )


def _from_masks(name: str, path: Path, ignore_label: int, **others) -> Dataset:
    folder = open_masks(path)
    count = len(folder.class_names)
    return Dataset(
        name=name,
        num_classes=count,
        num_channels=3,
        load=lambda split, _: MaskSource(folder.pairs[split], count, ignore_label),
        splits=tuple(folder.pairs),
        note=_numbering(folder.class_names, ignore_label),
        aliases=_one_evaluation(folder.pairs),
        class_names=folder.class_names,
    )


def _numbering(class_names: tuple[str, ...], ignore_label: int) -> str:
    """Returns a note on which number the names begin with, where that is easily mistaken, or ""."""
    number, key = None, f"config.data.ignore_label={ignore_label}"
    if ignore_label == 0 and class_names[0].lower() in ("background", "unlabeled", "void"):
        number = 1
    elif 0 < ignore_label < len(class_names):
        number = ignore_label + 1
    if number is not None:
        name = class_names[number - 1]
        return f"{key} has no name: {name!r} is that of pixels of number {number}"
    return ""


def _one_evaluation(splits) -> dict[str, str]:
    """Returns the other name of the split to evaluate on, where there is only one."""
    names = ("test", "validation")
    return {a: b for a, b in (names, names[::-1]) if a not in splits and b in splits}


BOXES = Catalogue(
    built_in={"digits_scenes": functools.partial(_digits_scenes, _DIGITS)},
    paths={"coco": (os.path.isdir, _from_coco)},
    from_tfds=open_boxes,
    usual=("coco/2017",),
)
SEGMENTS = Catalogue(
    built_in={"digits_scenes": functools.partial(_digits_scenes, ("background", *_DIGITS))},
    paths={"masks": (os.path.isdir, _from_masks)},
    from_tfds=open_masks_of,
    usual=("scene_parse150",),
)
