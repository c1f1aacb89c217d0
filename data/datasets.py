"""Data sets by name: how each is loaded, its classes and its statistics.

Those with classes are below; data/annotations/catalogues.py has those with boxes and masks.

digits, digits_mosaic, synthetic    ship with the code
folder:/path        a folder of images per class (data/sources/folders.py)
npz:/path.npz       arrays in one file (data/sources/npz.py)
inat:/path          an iNaturalist competition as downloaded (data/sources/inaturalist.py)
anything else       a set that TensorFlow Datasets has prepared (data/sources/tfds_prepared.py)
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from data.pixel_statistics import default_statistics
from data.sources import arrays, digits_mosaic, folders, inaturalist, npz, tfds_prepared
from data.sources.tfds_records import ArrayRecordSource
from harness.arguments import problem, unknown
from harness.errors import NoSuchData, printable
from harness.files import local_path

SOURCE_FILE = "source.json"  # of a smaller copy, see data/copy_sources.py
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
            those that ship with the code use the image size; the others return images as they are.
        splits: names that `load` takes.
        aliases: other name of a split -> its name in `splits`.
        multi_label: whether an image has several labels (or one, or none); a record's "label" is
            then a tuple of them, and a batch's is int32 [b, num_classes] of 0 and 1.
        class_names: in the order of the labels, where known.
        present: labels that occur, where others are known not to; see selection.by_name.
        note: a line that a person should see before training, or empty.
        load_notes: further such lines, on the splits loaded so far.

    Raises:
        ValueError: the name of a class holds a line end: lists of classes have one a line.
    """

    name: str
    num_classes: int
    num_channels: int
    load: Callable[[str, tuple[int, int]], arrays.Source]
    splits: tuple[str, ...] = ("train", "test")
    aliases: Mapping[str, str] = field(default_factory=dict)
    multi_label: bool = False
    class_names: tuple[str, ...] | None = None
    present: tuple[int, ...] | None = None
    note: str = ""
    load_notes: Callable[[], Sequence[str]] = tuple

    def __post_init__(self):
        for name in self.class_names or ():
            if "\n" in name or "\r" in name:
                raise ValueError(f"{self.name}: the name of the class {name!r} holds a line end")
            if not name.strip("\ufeff \t"):  # lists of lines lose these
                raise ValueError(f"{self.name}: the name of the class {name!r} is blank")

    @property
    def notes(self) -> list[str]:
        """What a person should see, in lines."""
        return [printable(note) for note in (self.note, *self.load_notes()) if note]

    @property
    def mean(self) -> tuple[float, ...]:
        """Per channel, of the training split's pixels, scaled to 0..1."""
        return default_statistics(self.name, self.num_channels)[0]

    @property
    def std(self) -> tuple[float, ...]:
        """Per channel, of the training split's pixels, scaled to 0..1."""
        return default_statistics(self.name, self.num_channels)[1]


@dataclass(frozen=True)
class Catalogue:
    """The data sets that a kind of training can name.

    Attributes:
        built_in: name -> what opens a set that ships with the code; one's own may be added.
        paths: kind of a name with a path, "kind:/path" -> (what the path has to be, what opens it).
        from_tfds: opens a prepared set by its name, folder and the options of `open`.
        usual: names of TensorFlow Datasets that the recipes have.
    """

    built_in: Mapping[str, Callable[..., Dataset]]
    paths: Mapping[str, tuple[Callable[[Path], bool], Callable[[str, Path], Dataset]]]
    from_tfds: Callable[..., Dataset]
    usual: tuple[str, ...]

    def _is_path(self, name: str) -> bool:
        kind, colon, _ = name.partition(":")
        return bool(colon) and kind in self.paths

    def _is_file(self, kind: str) -> bool:
        return self.paths[kind][0] is os.path.isfile

    def check_form(self, name: str) -> None:
        """Raises a ValueError for what can't be the name of a data set, without looking for it."""
        if not (self._is_path(name) or name in self.built_in or tfds_prepared.is_name(name)):
            raise ValueError(f"config.data.name={name!r}: {unknown(name, self._known())}")

    def check_name(self, name: str, data_dir: str | None = None) -> None:
        """Raises NoSuchData unless a data set, named as for `open`, is there; reads no record."""
        self.check_form(name)
        kind, _, path = name.partition(":")
        if name in self.built_in:
            return
        if self._is_path(name):
            place = local_path("config.data.name", path) if path else None
            if place is None or not self.paths[kind][0](place):
                what = f"there is no {'file' if self._is_file(kind) else 'folder'} {path!r}"
                what += "" if path else f"; give its path, --config.data.name={kind}:/path"
                raise NoSuchData(problem("config.data.name", name, what))
        else:
            try:
                tfds_prepared.open_prepared(name, data_dir)
            except NoSuchData as error:
                if name in self.usual:
                    raise
                raise NoSuchData(f"{error} ({unknown(name, self._known())})") from None

    def absolute_name(self, name: str) -> str:
        """Returns the name with an absolute path, if it has one, so that runs go on anywhere."""
        kind, _, path = name.partition(":")
        if not self._is_path(name) or not path:
            return name
        return f"{kind}:{local_path('config.data.name', path)}"

    def open(
        self,
        name: str,
        data_dir: str | None = None,
        exif_orientation: bool = False,
        made: Mapping[str, Any] = MappingProxyType({}),
    ) -> Dataset:
        """Opens a data set: what is known about it, and how its splits are loaded.

        Args:
            name: of one that ships, "kind:/path" of one of the `paths`, or the name of a set
                that TensorFlow Datasets prepared as ArrayRecord, with its configuration and version
                if need be: "downsampled_imagenet/64x64", "imagenet2012:5.1.0".
            data_dir: of the prepared sets; None is $TFDS_DATA_DIR or ~/tensorflow_datasets.
            exif_orientation: whether images will be turned as their tags say.
            made: what the section has on how sets of this kind are made or read.

        Returns:
            The data set; its splits are read when `load` is called.

        Raises:
            ValueError: as `check_name`, or what is there is not a data set.
        """
        self.check_name(name, data_dir)
        kind, _, path = name.partition(":")
        if name in self.built_in:
            return self.built_in[name](**made)
        if self._is_path(name):
            return self.paths[kind][1](name, local_path("config.data.name", path), **made)
        return self.from_tfds(name, data_dir, exif_orientation)

    def _known(self) -> list[str]:
        paths = [f"{kind}:/path{f'.{kind}' * self._is_file(kind)}" for kind in self.paths]
        return [*self.built_in, *paths, *self.usual, "any other set of TensorFlow Datasets"]


def _digits() -> Dataset:
    return Dataset(
        name="digits",
        num_classes=10,
        num_channels=1,
        load=arrays.digits_source,
        aliases={"validation": "test"},
        class_names=tuple("0123456789"),
    )


def _digits_mosaic() -> Dataset:
    load = digits_mosaic.digits_mosaic_source
    return dataclasses.replace(_digits(), name="digits_mosaic", load=load, multi_label=True)


def _load_synthetic(split: str, image_size: tuple[int, int]) -> arrays.Source:
    num_examples, seed = {"train": (512, 0), "test": (128, 1)}[split]
    return arrays.SyntheticSource(num_examples, (*image_size, 3), num_classes=10, seed=seed)


def _synthetic() -> Dataset:
    aliases = {"validation": "test"}  # it stands in for any data set
    return Dataset("synthetic", 10, 3, _load_synthetic, aliases=aliases)


# What ships with the code; a set of one's own may be added.
BUILT_IN: dict[str, Callable[[], Dataset]] = {
    "digits": _digits,
    "digits_mosaic": _digits_mosaic,
    "synthetic": _synthetic,
}


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
        load_notes=lambda: folder.load_notes,
    )


def _from_npz(name: str, path: Path) -> Dataset:
    arrays = npz.read_npz(path)
    return Dataset(
        name=name,
        num_classes=arrays.num_classes,
        num_channels=arrays.num_channels,
        multi_label=arrays.multi_label,
        load=lambda split, image_size: arrays.sources[split],
        splits=tuple(arrays.sources),
        aliases=arrays.aliases,
        class_names=arrays.class_names,
    )


def _from_inaturalist(name: str, path: Path) -> Dataset:
    found = inaturalist.open_competition(path)
    load = functools.cache(found.load)
    aliases = {a: b for a, b in inaturalist.ALIASES.items() if b in found.annotations}
    splits = {"splits": tuple(found.annotations), "aliases": aliases}
    names = found.class_names
    return Dataset(name, len(names), 3, lambda split, _: load(split), **splits, class_names=names)


def _from_tfds(name: str, data_dir: str | None, exif_orientation: bool) -> Dataset:
    prepared = tfds_prepared.open_prepared(name, data_dir)
    if prepared.mask_key:
        raise ValueError(f"data set {name!r} has masks, not classes: it is for segmentation")

    @functools.cache  # slices of one split share what is in memory
    def load(split: str) -> arrays.Source:
        source = ArrayRecordSource(prepared, split)
        height, width, _ = prepared.image_shape
        is_small = height and width and len(source) * height * width * 3 <= MAX_BYTES_IN_MEMORY
        # Turned images may have another shape, and boxes are read from the records.
        if not is_small or exif_orientation or prepared.boxes_key:
            return source
        return arrays.hold_in_memory(source, (height, width, 3), f"{name} {split}")

    # A copy's only evaluation split answers to both names, as that of the folder that it is of.
    is_copy = (prepared.folder / SOURCE_FILE).is_file()
    pairs = (("test", "validation"), ("validation", "test")) if is_copy else ()
    aliases = {a: b for a, b in pairs if a not in prepared.splits and b in prepared.splits}
    return Dataset(
        name=name,
        num_classes=prepared.num_classes,
        num_channels=3,
        multi_label=prepared.multi_label,
        load=lambda split, image_size: load(split),
        splits=tuple(prepared.splits),
        aliases=aliases,
        class_names=prepared.class_names,
        note="" if prepared.label_key else f"{name} has no labels: every label is 0",
    )


# Kind of a name with a path -> what the path has to be, and what opens it.
PATHS = {
    "folder": (os.path.isdir, _from_folder),
    "npz": (os.path.isfile, _from_npz),
    "inat": (os.path.isdir, _from_inaturalist),
}

# Images with a class, or several.
CLASSES = Catalogue(BUILT_IN, PATHS, _from_tfds, ("cifar10", "cifar100", "imagenet2012"))
check_form, check_name = CLASSES.check_form, CLASSES.check_name
absolute_name, open_dataset = CLASSES.absolute_name, CLASSES.open
