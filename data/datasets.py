"""The table of data sets: how each is loaded, its classes and its statistics."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from data import sources


@dataclass(frozen=True)
class Dataset:
    """What the rest of the code has to know about a data set.

    Attributes:
        name: key in `DATASETS`.
        num_classes: number of labels, which are 0 to num_classes - 1.
        num_channels: 1 for grey, 3 for colour.
        mean: per channel, of pixels scaled to 0..1, over the training split before resizing.
        std: likewise.
        load: `load(split, image_size, data_dir) -> Source` for a whole split.
        splits: names of the splits.
    """

    name: str
    num_classes: int
    num_channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    load: Callable[[str, tuple[int, int], str | None], sources.Source]
    splits: tuple[str, ...] = ("train", "test")


def _load_digits(split: str, image_size: tuple[int, int], data_dir: str | None):
    del data_dir  # ships with scikit-learn
    return sources.digits_source(split, image_size)


def _load_synthetic(split: str, image_size: tuple[int, int], data_dir: str | None):
    del data_dir  # made, not read
    num_examples, seed = {"train": (512, 0), "test": (128, 1)}[split]
    return sources.SyntheticSource(num_examples, (*image_size, 3), num_classes=10, seed=seed)


DATASETS = {
    "digits": Dataset(
        name="digits",
        num_classes=10,
        num_channels=1,
        mean=(0.3054,),
        std=(0.3760,),
        load=_load_digits,
    ),
    "synthetic": Dataset(
        name="synthetic",
        num_classes=10,
        num_channels=3,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        load=_load_synthetic,
    ),
}

# Data sets of the papers' recipes that cannot be read yet.
PLANNED_DATASETS = {
    "cifar10": "data set 'cifar10' (TFDS sources)",
    "cifar100": "data set 'cifar100' (TFDS sources)",
    "imagenet2012": "data set 'imagenet2012' (TFDS sources)",
}

_SPLIT = re.compile(r"(?P<base>\w+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


def parse_split(name: str, split: str) -> tuple[str, str | None, str | None]:
    """Takes a split like "train[:80%]" apart.

    Args:
        name: a data set.
        split: a name in its `splits`, optionally with a slice: whole percents or record numbers,
            negative ones count from the end, as in TensorFlow Datasets.

    Returns:
        The split's name and the two boundaries as written, None where left out.

    Raises:
        ValueError: malformed, or no such split.
    """
    allowed = DATASETS[name].splits
    match = _SPLIT.fullmatch(split) if isinstance(split, str) else None
    if match is None or match["base"] not in allowed:
        raise ValueError(
            f"split {split!r} of data set {name!r} is not known; there is: {', '.join(allowed)}, "
            "each also sliced, as in 'train[:80%]' or 'train[100:200]'"
        )
    return match["base"], match["start"], match["stop"]


def load_source(
    name: str, split: str, image_size: tuple[int, int], data_dir: str | None = None
) -> sources.Source:
    """Opens a split, or a slice of it.

    Args:
        name: key of `DATASETS`.
        split: as `parse_split` takes it.
        image_size: height and width in pixels of the images wanted.
        data_dir: folder of the data sets that have files.

    Returns:
        A random-access source of uint8 images `[h, w, c]` with labels.

    Raises:
        ValueError: unknown names, or a slice outside the split or without a record.
    """
    base, start, stop = parse_split(name, split)
    source = DATASETS[name].load(base, image_size, data_dir)
    if start is None and stop is None:
        return source
    total = len(source)
    first = 0 if start is None else _boundary(start, total)
    last = total if stop is None else _boundary(stop, total)
    if not 0 <= first < last <= total:
        raise ValueError(
            f"split {split!r} of data set {name!r} asks for records {first} to {last}; "
            f"it must be a part of 0 to {total} with at least one record"
        )
    return sources.Subset(source, first, last)


def _boundary(text: str, total: int) -> int:
    """Record number that a slice boundary such as "80%", "100" or "-20%" means."""
    if text.endswith("%"):
        number = round(int(text[:-1]) * total / 100)
    else:
        number = int(text)
    return number + total if text.startswith("-") else number
