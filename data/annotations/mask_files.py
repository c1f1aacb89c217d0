"""A folder of images and of masks that give the class of each pixel.

    ade/images/training/a.jpg          ade/annotations/training/a.png
    ade/images/validation/b.jpg        ade/annotations/validation/b.png
    ade/classes.txt                    names of the classes, one a line

In place of `annotations`, `masks`; in place of classes.txt, ADE20K's objectInfo150.txt. A mask is a
PNG file of grey levels or of palette indices: the numbers of the classes, 255 where a pixel counts
for nothing. If 0 counts for nothing, too (config.data.ignore_label), the classes are 1, 2, ...

Reference: https://github.com/CSAILVision/sceneparsing (ADE20K's layout, in which 0 counts for
nothing).
"""

import functools
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from data.annotations.annotated import IGNORE, Annotations
from data.annotations.coco_files import read_image, split_of
from data.sources.arrays import Record, check_index
from data.sources.image_search import Tally, find_images
from harness.errors import BadAnnotation, BadImage, one_line
from harness.files import read_lines

_FOLDERS = ("annotations", "masks")
_NAMES, _ADE_NAMES = "classes.txt", "objectInfo150.txt"


def decode_mask(encoded: bytes, *, first_channel: bool = False) -> np.ndarray:
    """Returns the numbers in a mask, [h, w], of the type that the file has.

    Args:
        encoded: contents of the file.
        first_channel: take the first of several channels, which else are an error.

    Raises:
        BadImage: it cannot be read, or has several channels.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            mask = np.asarray(image)  # of a palette, the indices
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise BadImage(f"the mask cannot be read: {one_line(error)}") from None
    if mask.ndim == 3 and first_channel:
        mask = mask[..., 0]
    if mask.ndim != 2:
        raise BadImage(f"the mask has {mask.shape[2]} channels; its pixels must be class numbers")
    return mask


def as_segments(mask: np.ndarray, num_classes: int, ignore_label: int, name: str) -> np.ndarray:
    """Returns the classes of pixels, from 0.

    Args:
        mask: [h, w] numbers of classes.
        num_classes: how many there are.
        ignore_label: the number that counts for nothing besides 255; classes above it move down.
        name: of the mask, for the error.

    Returns:
        uint8 [h, w], IGNORE for what counts for nothing.

    Raises:
        BadAnnotation: a number is none of the classes.
    """
    ignored = (mask == ignore_label) | (mask == IGNORE)
    classes = mask.astype(np.int64) - (mask > ignore_label)
    if (wrong := mask[~ignored & (classes >= num_classes)]).size:
        numbers = [n for n in range(num_classes + 1) if n != ignore_label]
        others = " and ".join(map(str, sorted({ignore_label, IGNORE})))
        allowed = f"allowed: {numbers[0]} to {numbers[num_classes - 1]}, {others}"
        raise BadAnnotation(f"{name}: the mask has a pixel of class {wrong[0]}; {allowed}")
    return np.where(ignored, IGNORE, classes).astype(np.uint8)


class MaskSource:
    """Images of one split and their masks."""

    def __init__(self, pairs: list[tuple[str, str]], num_classes: int, ignore_label: int):
        """Takes pairs of paths, of image and mask."""
        self._pairs = pairs
        self._num_classes = num_classes
        self._ignore_label = ignore_label

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Record:
        check_index(index, len(self))
        read = functools.partial(self._segments, index)
        encoded = read_image(Path(self._pairs[index][0]))
        return {"image": encoded, "label": Annotations(index, segments=read)}

    def _segments(self, index: int) -> np.ndarray:
        path = self._pairs[index][1]
        try:
            encoded = Path(path).read_bytes()
        except OSError as error:
            raise BadImage(f"the mask cannot be read: {error.strerror or error}") from error
        mask = decode_mask(encoded)
        return as_segments(mask, self._num_classes, self._ignore_label, path)

    def describe(self, index: int) -> str:
        check_index(index, len(self))
        return self._pairs[index][0]


@dataclass(frozen=True)
class MaskFolder:
    """What is known of a folder.

    Attributes:
        class_names: in the order of the labels.
        pairs: split -> paths of each image and its mask, in the order of the images' names.
    """

    class_names: tuple[str, ...]
    pairs: dict[str, list[tuple[str, str]]]


def open_masks(path: Path) -> MaskFolder:
    """Finds the images of a folder and their masks.

    Raises:
        ValueError: it is not laid out as above, its split is there twice, or an image has no mask.
    """
    masks = next((path / name for name in _FOLDERS if (path / name).is_dir()), None)
    if masks is None or not (path / "images").is_dir():
        raise ValueError(f"{path}: it must have a folder images and one of {', '.join(_FOLDERS)}")
    pairs, folders = {}, {}
    for folder in sorted(entry for entry in (path / "images").iterdir() if entry.is_dir()):
        if not (masks / folder.name).is_dir():
            continue  # such as images to be tested on, whose masks are not published
        names = sorted(map(os.fsdecode, find_images(folder, Tally())))
        found = [
            (str(folder / name), str((masks / folder.name / name).with_suffix(".png")))
            for name in names
        ]
        there = {
            str(masks / folder.name / os.fsdecode(name))
            for name in find_images(masks / folder.name, Tally())
        }
        if missing := [pair for pair in found if pair[1] not in there]:
            what = f"{len(missing)} of its {len(found)} images have no mask, such as {missing[0]}"
            raise ValueError(f"{folder}: {what}")
        if not found:
            continue
        split = split_of(folder.name)
        if split in pairs:
            both = f"{folders[split]}, {folder}"
            raise ValueError(f"{path}: the split {split!r} is there twice: {both}; rename one")
        pairs[split], folders[split] = found, folder
    if not pairs:
        raise ValueError(f"{path}: no folder of images/ has images and a folder of masks")
    return MaskFolder(_class_names(path), pairs)


def _class_names(path: Path) -> tuple[str, ...]:
    """Returns the names of the classes, all different: results of classes go by their names."""
    heading = 0
    if (path / _NAMES).is_file():
        names = tuple(line.strip() for line in read_lines(path / _NAMES))
    elif (path / _ADE_NAMES).is_file():  # after a heading: index, shares, and the name last
        heading = 1
        rows = read_lines(path / _ADE_NAMES)[1:]
        names = tuple(
            re.split(r"\t| {2,}", row.strip())[-1].split(",")[0] for row in rows if row.strip()
        )
    else:
        what = f"no {_NAMES} with the names of the classes, one a line, in the order of the numbers"
        raise ValueError(f"{path}: {what}")
    if not 0 < len(names) < IGNORE:
        raise ValueError(f"{path}: {len(names)} classes; allowed: 1 to {IGNORE - 1}")
    for number, name in enumerate(names):
        if name and (first := names.index(name)) < number:
            lines = f"lines {first + heading + 1} and {number + heading + 1}"
            raise ValueError(f"{path}: {lines} of the names of the classes are both {name!r}")
    return names
