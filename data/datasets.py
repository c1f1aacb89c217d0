"""Data sets by name: how each is loaded, its classes and its statistics.

digits, synthetic   ship with the code
folder:/path        a folder of images per class (data/sources/folders.py)
npz:/path.npz       arrays in one file (data/sources/npz.py)
inat:/path          an iNaturalist competition as downloaded (data/sources/inaturalist.py)
anything else       a set that TensorFlow Datasets has prepared (data/sources/tfds_prepared.py)
"""

import functools
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data.pixel_statistics import default_statistics
from data.sources import arrays, folders, inaturalist, npz, tfds_prepared
from harness.arguments import problem, unknown

# Names of TensorFlow Datasets that the recipes have.
_USUAL = ("cifar10", "cifar100", "imagenet2012")
# A split whose pixels take no more than this is decoded once and kept: CIFAR takes 154 MB.
MAX_BYTES_IN_MEMORY = 256 * 2**20


@dataclass(frozen=True)
class Dataset:
    """What the rest of the code has to know about a data set.

    Attributes:
        name: as in the recipe.
        num_classes: number of labels, which are 0 to num_classes - 1.
        num_channels: 1 for grey, 3 for colour.
        load: `load(split, image_size) -> Source` for a whole split. Only
            "digits" and "synthetic" use the image size; the others return images as they are.
        splits: names that `load` takes.
        aliases: other name of a split -> its name in `splits`.
        class_names: in the order of the labels, where known.
        note: a line that a person should see before training, or empty.
    """

    name: str
    num_classes: int
    num_channels: int
    load: Callable[[str, tuple[int, int]], arrays.Source]
    splits: tuple[str, ...] = ("train", "test")
    aliases: Mapping[str, str] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    note: str = ""

    @property
    def mean(self) -> tuple[float, ...]:
        """Per channel, of the training split's pixels, scaled to 0..1."""
        return default_statistics(self.name, self.num_channels)[0]

    @property
    def std(self) -> tuple[float, ...]:
        """Per channel, of the training split's pixels, scaled to 0..1."""
        return default_statistics(self.name, self.num_channels)[1]


def _is_path(name: str) -> bool:
    kind, colon, _ = name.partition(":")
    return bool(colon) and kind in PATHS


def check_form(name: str) -> None:
    """Raises a ValueError for what can't be the name of a data set, without looking for it."""
    if not (_is_path(name) or name in BUILT_IN or tfds_prepared.is_name(name)):
        raise ValueError(f"config.data.name={name!r}: {unknown(name, _known())}")


def check_name(name: str, data_dir: str | None = None) -> None:
    """Checks that a data set of this name is there, without reading any of its records.

    Args:
        name: as `open_dataset` takes it.
        data_dir: as `open_dataset` takes it.

    Raises:
        ValueError: malformed, or not there; one line that says what to do.
    """
    check_form(name)
    if name in BUILT_IN:
        return
    if _is_path(name):
        kind, _, path = name.partition(":")
        if not PATHS[kind][0](os.path.expanduser(path)):
            what = f"there is no {'file' if kind == 'npz' else 'folder'} {path!r}"
            what += "" if path else f"; give its path, --config.data.name={kind}:/path"
            raise ValueError(problem("config.data.name", name, what))
    else:
        try:
            tfds_prepared.open_prepared(name, data_dir)
        except ValueError as error:
            if tfds_prepared.find_folder(name, data_dir) or name in _USUAL:
                raise
            raise ValueError(f"{error} ({unknown(name, _known())})") from None


def absolute_name(name: str) -> str:
    """Returns the name with its path, if any, made absolute, so that runs go on from anywhere."""
    kind, _, path = name.partition(":")
    if not _is_path(name) or not path:
        return name
    return f"{kind}:{Path(path).expanduser().absolute()}"


def _known() -> list[str]:
    others = "any other set of TensorFlow Datasets"
    return [*BUILT_IN, "folder:/path", "npz:/path.npz", "inat:/path", *_USUAL, others]


def open_dataset(name: str, data_dir: str | None = None) -> Dataset:
    """Opens a data set: what is known about it, and how its splits are loaded.

    Args:
        name: "digits", "synthetic", "folder:/path", "npz:/path.npz", "inat:/path", or the name of a
            set prepared by TensorFlow Datasets as ArrayRecord: "cifar10",
            "downsampled_imagenet/64x64", with a version if need be ("imagenet2012:5.1.0").
        data_dir: folder of the prepared sets; None is $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Returns:
        The data set; its splits are read when `load` is called.

    Raises:
        ValueError: as `check_name`, or what is there is not a data set.
    """
    check_name(name, data_dir)
    kind, _, path = name.partition(":")
    if name in BUILT_IN:
        return BUILT_IN[name]()
    if _is_path(name):
        return PATHS[kind][1](name, Path(path).expanduser().absolute())
    return _from_tfds(name, data_dir)


def _digits() -> Dataset:
    return Dataset(
        name="digits",
        num_classes=10,
        num_channels=1,
        load=arrays.digits_source,
        aliases={"validation": "test"},
        class_names=tuple("0123456789"),
    )


def _load_synthetic(split: str, image_size: tuple[int, int]) -> arrays.Source:
    num_examples, seed = {"train": (512, 0), "test": (128, 1)}[split]
    return arrays.SyntheticSource(num_examples, (*image_size, 3), num_classes=10, seed=seed)


def _synthetic() -> Dataset:
    aliases = {"validation": "test"}  # it stands in for any data set
    return Dataset("synthetic", 10, 3, _load_synthetic, aliases=aliases)


# What ships with the code; a set of one's own may be added.
BUILT_IN: dict[str, Callable[[], Dataset]] = {"digits": _digits, "synthetic": _synthetic}


def _from_folder(name: str, path: Path) -> Dataset:
    folder = folders.open_folder(path)
    load = functools.cache(folder.load)  # a million files are scanned once, however many slices
    return Dataset(
        name=name,
        num_classes=len(folder.class_names),
        num_channels=3,
        load=lambda split, image_size: load(split),
        splits=tuple(folder.split_folders),
        aliases=folder.aliases,
        class_names=folder.class_names,
        note=folder.note,
    )


def _from_npz(name: str, path: Path) -> Dataset:
    arrays = npz.read_npz(path)
    return Dataset(
        name=name,
        num_classes=arrays.num_classes,
        num_channels=arrays.num_channels,
        load=lambda split, image_size: arrays.sources[split],
        splits=tuple(arrays.sources),
        aliases=arrays.aliases,
        class_names=arrays.class_names,
    )


def _from_inaturalist(name: str, path: Path) -> Dataset:
    found = inaturalist.open_competition(path)
    load = functools.cache(found.load)
    splits = {"splits": tuple(found.annotations), "aliases": inaturalist.ALIASES}
    names = found.class_names
    return Dataset(name, len(names), 3, lambda split, _: load(split), **splits, class_names=names)


def _from_tfds(name: str, data_dir: str | None) -> Dataset:
    prepared = tfds_prepared.open_prepared(name, data_dir)

    @functools.cache  # slices of one split share what is in memory
    def load(split: str) -> arrays.Source:
        source = tfds_prepared.ArrayRecordSource(prepared, split)
        height, width, _ = prepared.image_shape
        if height and width and len(source) * height * width * 3 <= MAX_BYTES_IN_MEMORY:
            return arrays.hold_in_memory(source, (height, width, 3), f"{name} {split}")
        return source

    return Dataset(
        name=name,
        num_classes=prepared.num_classes,
        num_channels=3,
        load=lambda split, image_size: load(split),
        splits=tuple(prepared.splits),
        class_names=prepared.class_names,
        note="" if prepared.label_key else f"{name} has no labels: every label is 0",
    )


# Kind of a name with a path -> what the path has to be, and what opens it.
PATHS = {
    "folder": (os.path.isdir, _from_folder),
    "npz": (os.path.isfile, _from_npz),
    "inat": (os.path.isdir, _from_inaturalist),
}
_PART = re.compile(r"(?P<base>\w+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")
_Part = tuple[str, str | None, str | None]


def parse_split(dataset: Dataset, split: str) -> list[_Part]:
    """Takes a split like "train[:80%]+validation" apart.

    Args:
        dataset: whose split it is.
        split: names in the data set's `splits` or `aliases`, each optionally with a slice, joined
            by "+". Slice boundaries are whole percents or record numbers, negative ones count from
            the end, as in TensorFlow Datasets.

    Returns:
        For each part its split's name and the two boundaries as written, None where left out.

    Raises:
        ValueError: malformed, or no such split.
    """
    names = {**{name: name for name in dataset.splits}, **dataset.aliases}
    parsed = []
    for part in split.split("+"):
        match = _PART.fullmatch(part.strip())
        if match is None or match["base"] not in names:
            what = unknown(part.split("[")[0], names)
            raise ValueError(
                f"{part.strip()!r} is {what} of {dataset.name!r}, each also sliced, as "
                "'train[:80%]' or 'train[100:200]', and joined, as 'train+test[:50%]'"
            )
        parsed.append((names[match["base"]], match["start"], match["stop"]))
    return parsed


def load_source(dataset: Dataset, split: str, image_size: tuple[int, int]) -> arrays.Source:
    """Loads a split, a slice of one, or several joined.

    Args:
        dataset: from `open_dataset`.
        split: as `parse_split` takes it.
        image_size: height and width in pixels of the images wanted.

    Returns:
        A random-access source.

    Raises:
        ValueError: an unknown split, or a slice outside the split or without a record.
    """
    parts = [_load_part(dataset, part, image_size) for part in parse_split(dataset, split)]
    return parts[0] if len(parts) == 1 else arrays.Concatenated(parts)


def _load_part(dataset: Dataset, part: _Part, image_size: tuple[int, int]) -> arrays.Source:
    base, start, stop = part
    source = dataset.load(base, image_size)
    total = len(source)
    first = 0 if start is None else _boundary(start, total)
    last = total if stop is None else _boundary(stop, total)
    if not 0 <= first < last <= total:
        raise ValueError(
            f"records {first} to {last} of {base!r} of {dataset.name!r}; allowed: at least one "
            f"record of 0 to {total}"
        )
    return source if (first, last) == (0, total) else arrays.Subset(source, range(first, last))


def _boundary(text: str, total: int) -> int:
    """Returns the record number that a slice boundary such as "80%", "100" or "-20%" means."""
    number = round(int(text[:-1]) * total / 100) if text.endswith("%") else int(text)
    return number + total if text.startswith("-") else number
