"""Images and labels as arrays in one .npz file, held in memory.

train_images, test_images (or validation_images)    uint8 [n, h, w], [n, h, w, 1] or [n, h, w, 3]
train_labels, test_labels (or validation_labels)    integers [n]
class_names                                         strings [classes], may be left out
"""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.sources.arrays import ArraySource
from harness.errors import one_line

_EVALUATION = ("test", "validation")


@dataclass(frozen=True)
class Arrays:
    """The contents of a file.

    Attributes:
        sources: name of a split -> its records.
        aliases: {"test": "validation"} or the reverse: the only evaluation split answers to both.
        num_classes: number of class names, else the largest label of the training split plus one.
        class_names: None if the file has none.
        num_channels: 1 or 3.
    """

    sources: dict[str, ArraySource]
    num_classes: int
    class_names: tuple[str, ...] | None
    num_channels: int
    aliases: dict[str, str]


def read_npz(path: Path) -> Arrays:
    """Reads all splits of a file.

    Args:
        path: of a file as `numpy.savez` or `numpy.savez_compressed` writes it; pickled objects
            in it are refused.

    Raises:
        ValueError: it is not such a file, or its arrays are not what they have to be.
    """
    arrays = _read(path)
    for key in ("train_images", "train_labels"):
        if key not in arrays:
            raise ValueError(f"{path} has no array {key!r}; it has: {', '.join(sorted(arrays))}")
    class_names = None
    num_classes = None
    if "class_names" in arrays:
        class_names = tuple(str(name) for name in arrays["class_names"].ravel())
        num_classes = len(class_names)
    _check_labels(path, "train_labels", arrays["train_labels"], num_classes)
    if num_classes is None:
        num_classes = int(arrays["train_labels"].max()) + 1

    sources, num_channels = {}, None
    for split in ("train", *_EVALUATION):
        if {f"{split}_images", f"{split}_labels"} <= arrays.keys():
            images = _check_images(path, f"{split}_images", arrays[f"{split}_images"])
            labels = arrays[f"{split}_labels"]
            _check_labels(path, f"{split}_labels", labels, num_classes)
            if len(images) != len(labels):
                raise ValueError(
                    f"{path}: there are {len(images)} {split}_images but {len(labels)} "
                    f"{split}_labels"
                )
            num_channels = num_channels or images.shape[3]
            if images.shape[3] != num_channels:
                raise ValueError(
                    f"{path}: {split}_images have {images.shape[3]} channels but train_images "
                    f"{num_channels}"
                )
            sources[split] = ArraySource(images, labels, f"{path.name} {split}")
    pairs = (_EVALUATION, _EVALUATION[::-1])
    aliases = {a: b for a, b in pairs if a not in sources and b in sources}
    return Arrays(sources, num_classes, class_names, num_channels, aliases)


def _check_images(path: Path, key: str, images: np.ndarray) -> np.ndarray:
    with_channels = images[..., None] if images.ndim == 3 else images
    if (
        images.dtype != np.uint8
        or with_channels.ndim != 4
        or with_channels.shape[3] not in (1, 3)
        or not with_channels.size
    ):
        raise ValueError(
            f"{path}: {key} are {images.dtype} {images.shape}; they must be uint8 [n, h, w], "
            "[n, h, w, 1] or [n, h, w, 3], not empty"
        )
    return with_channels


def _check_labels(path: Path, key: str, labels: np.ndarray, num_classes: int | None) -> None:
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or not len(labels):
        raise ValueError(
            f"{path}: {key} are {labels.dtype} {labels.shape}; they must be integers [n], not empty"
        )
    if labels.min() < 0 or (num_classes is not None and labels.max() >= num_classes):
        last = "the number of classes less 1" if num_classes is None else num_classes - 1
        raise ValueError(
            f"{path}: {key} lie in {labels.min()} to {labels.max()}; they must lie in 0 to {last}"
        )


def _read(path: Path) -> dict[str, np.ndarray]:
    splits = ("train", *_EVALUATION)
    wanted = {"class_names", *(f"{s}_{kind}" for s in splits for kind in ("images", "labels"))}
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no zip archive")
        with np.load(path, allow_pickle=False) as file:
            # Others are named in an error, but not read.
            return {key: file[key] if key in wanted else None for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as an .npz file: {one_line(error)}") from None
