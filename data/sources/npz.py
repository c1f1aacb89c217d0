"""Images and labels as arrays in one .npz file, held in memory.

train_images, test_images, validation_images    uint8 [n, h, w], [n, h, w, 1] or [n, h, w, 3]
train_labels, test_labels, validation_labels    integers [n] or [n, 1]; [n, classes] of 0 and 1
                                                where an image has several labels
class_names                                     text [classes], may be left out

One of the evaluation splits is enough. The names that MedMNIST has, val_images and val_labels, and
Keras, x_train and y_train, do as well.
"""

import itertools
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.sources.arrays import ArraySource
from harness.errors import one_line

_EVALUATION = ("test", "validation")
_SPLITS = ("train", *_EVALUATION)
_SHORT = {"train": ("train",), "test": ("test",), "validation": ("validation", "val")}
# Our name of an array -> the names that it may have.
_NAMES = {
    **{
        f"{split}_{kind}": tuple(
            name for word in words for name in (f"{word}_{kind}", f"{letter}_{word}")
        )
        for split, words in _SHORT.items()
        for kind, letter in (("images", "x"), ("labels", "y"))
    },
    "class_names": ("class_names",),
}


@dataclass(frozen=True)
class Arrays:
    """The contents of a file.

    Attributes:
        sources: name of a split -> its records.
        aliases: {"test": "validation"} or the reverse: the only evaluation split answers to both.
        num_classes: number of class names, else the largest label of the training split plus one.
        multi_label: whether images have several labels; num_classes is then that of the columns.
        class_names: None if the file has none.
        num_channels: 1 or 3.
    """

    sources: dict[str, ArraySource]
    num_classes: int
    multi_label: bool
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
    named = _named(path, arrays)
    for key in ("train_images", "train_labels"):
        if key not in named:
            raise ValueError(f"{path} has no array {key!r}; it has: {', '.join(sorted(arrays))}")
    class_names = None
    if "class_names" in named and arrays["class_names"].size:
        class_names = tuple(map(_text, arrays["class_names"].ravel()))
    rows = {s: arrays[named[key]] for s in _SPLITS if (key := f"{s}_labels") in named}
    keys = {split: named[f"{split}_labels"] for split in rows}
    multi_label = _are_rows_of_classes(path, keys, rows)
    num_classes = len(class_names) if class_names else None
    if multi_label:
        columns = rows["train"].shape[1]
        if num_classes not in (None, columns):
            what = f"{keys['train']} have {columns} columns but class_names {num_classes} names"
            raise ValueError(f"{path}: {what}")
        num_classes = columns
        labels = {s: [tuple(np.flatnonzero(row).tolist()) for row in rows[s]] for s in rows}
    else:
        labels = {split: _one_label_each(path, keys[split], rows[split]) for split in rows}
        _check_range(path, keys["train"], labels["train"], num_classes)
        if num_classes is None:
            num_classes = int(labels["train"].max()) + 1
            _check_no_gaps(path, keys["train"], labels)

    sources, num_channels = {}, None
    for split in labels:
        key, labels_key = named[f"{split}_images"], keys[split]
        images = _check_images(path, key, arrays[key])
        if not multi_label:
            _check_range(path, labels_key, labels[split], num_classes)
        if len(images) != len(labels[split]):
            raise ValueError(
                f"{path}: there are {len(images)} {key} but {len(labels[split])} {labels_key}"
            )
        num_channels = num_channels or images.shape[3]
        if images.shape[3] != num_channels:
            raise ValueError(
                f"{path}: {key} have {images.shape[3]} channels but {named['train_images']} "
                f"{num_channels}"
            )
        sources[split] = ArraySource(images, labels[split], f"{path.name} {split}")
    pairs = (_EVALUATION, _EVALUATION[::-1])
    aliases = {a: b for a, b in pairs if a not in sources and b in sources}
    return Arrays(sources, num_classes, multi_label, class_names, num_channels, aliases)


def _named(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Returns our name -> the file's name of each array that is there."""
    named = {}
    for ours, names in _NAMES.items():
        there = [name for name in names if name in arrays]
        if len(there) > 1:
            raise ValueError(f"{path} has {' and '.join(there)}, which mean the same")
        if there:
            named[ours] = there[0]
    for split, (kind, other) in itertools.product(
        _EVALUATION, (("images", "labels"), ("labels", "images"))
    ):
        if f"{split}_{kind}" in named and f"{split}_{other}" not in named:
            wanted = " or ".join(_NAMES[f"{split}_{other}"])
            raise ValueError(f"{path} has {named[f'{split}_{kind}']} but no {wanted}")
    return named


def _text(name: bytes | str) -> str:
    return name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else str(name)


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


def _are_rows_of_classes(path: Path, keys: dict[str, str], rows: dict[str, np.ndarray]) -> bool:
    """Returns whether labels are rows of 0 and 1, several classes an image; refuses half of it."""
    if not any(labels.ndim == 2 and labels.shape[1] > 1 for labels in rows.values()):
        return False
    found = ", ".join(f"{keys[s]} are {rows[s].dtype} {rows[s].shape}" for s in rows)
    what = f"{path}: {found}: several numbers for an image"
    if len({labels.shape[1:] for labels in rows.values()}) > 1:
        raise ValueError(f"{what} in a part of them; one class each is [n] or [n, 1] in all splits")
    if not all(
        x.size and x.dtype.kind in "biu" and np.isin(x, (0, 1)).all() for x in rows.values()
    ):
        raise ValueError(f"{what}; they must be 1 for each of its classes and 0 for the others")
    if all((labels.sum(axis=1) == 1).all() for labels in rows.values()):
        raise ValueError(f"{what} of one class; give the argmax of one-hot rows, [n] or [n, 1]")
    return True


def _one_label_each(path: Path, key: str, labels: np.ndarray) -> np.ndarray:
    """Returns labels [n]; refuses those that are no whole numbers."""
    what = f"{path}: {key} are {labels.dtype} {labels.shape}"
    if labels.ndim == 2:
        labels = labels[:, 0] if labels.shape[1] else labels
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or not len(labels):
        raise ValueError(f"{what}; they must be integers [n] or [n, 1], not empty")
    return labels


def _check_range(path: Path, key: str, labels: np.ndarray, num_classes: int | None) -> None:
    if labels.min() < 0 or (num_classes is not None and labels.max() >= num_classes):
        last = "the number of classes less 1" if num_classes is None else num_classes - 1
        raise ValueError(
            f"{path}: {key} lie in {labels.min()} to {labels.max()}; they must lie in 0 to {last}"
        )


def _check_no_gaps(path: Path, key: str, labels: Mapping[str, np.ndarray]) -> None:
    """Refuses a label above those without an example: one outlier would make a million classes."""
    last = int(labels["train"].max())
    there = np.unique(np.concatenate([*labels.values()]).astype(np.int64))
    there = there[(there >= 0) & (there <= last)]
    above = np.concatenate([there, [last + 1]])
    below = np.concatenate([[-1], there])
    gaps = [
        str(low + 1) if high - low == 2 else f"{low + 1} to {high - 1}"
        for low, high in zip(below.tolist(), above.tolist(), strict=True)
        if high - low > 1
    ]
    if gaps:
        listed = ", ".join(gaps[:5]) + (", ..." if len(gaps) > 5 else "")
        raise ValueError(
            f"{path}: {key} go up to {last}, but no image has label {listed}; number the classes "
            "from 0 without gaps, or add an array class_names with the name of every class"
        )


def _read(path: Path) -> dict[str, np.ndarray]:
    wanted = set(itertools.chain(*_NAMES.values()))
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no zip archive")
        with np.load(path, allow_pickle=False) as file:
            # Others are named in an error, but not read.
            return {key: file[key] if key in wanted else None for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as an .npz file: {one_line(error)}") from None
