"""A folder of images per class, with or without a folder per split around them.

    birds/train/robin/1.jpg            birds/robin/1.jpg
    birds/train/wren/a.png      or     birds/wren/a.png
    birds/val/robin/7.jpg

The order of a split's records is pseudo-random, but fixed by their paths within the split: a slice
holds about the same mix of classes as the whole, on any machine.
"""

import functools
import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.sources.arrays import Record, Subset, check_index
from harness.errors import BadImage

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pnm"),
)
HELD_OUT = 0.1
_TRAIN = ("train", "training")
_VALIDATION = ("validation", "val", "valid")
_TEST = ("test",)


class FolderSource:
    """The image files of class folders, read one by one and left encoded."""

    def __init__(self, root: Path, class_names: tuple[str, ...], files: list[list[bytes]]):
        """Puts the files in order.

        Args:
            root: folder that holds the class folders.
            class_names: names of the class folders, in the order of the labels.
            files: for each class the names of its files, as the operating system encodes them.
        """
        self._root = str(root)
        self._class_names = class_names
        labels = np.repeat(np.arange(len(files), dtype=np.int32), [len(names) for names in files])
        keys, names = [], []
        for class_name, class_files in zip(class_names, files, strict=True):
            prefix = os.fsencode(class_name) + b"/"
            names += sorted(class_files)
            keys += [_hash(prefix + name) for name in names[len(keys) :]]
        order = np.argsort(np.array(keys, np.uint64), kind="stable")
        self.labels = labels[order]
        # One block of bytes: a million strings would take three times the memory, in each worker.
        self._names = b"".join(names[i] for i in order)
        self._ends = np.cumsum([0] + [len(names[i]) for i in order])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Record:
        path = self.describe(index)
        try:
            with open(path, "rb") as file:
                encoded = file.read()
        except OSError as error:
            raise BadImage(f"the file cannot be read: {error.strerror}") from error
        return {"image": encoded, "label": int(self.labels[index])}

    def describe(self, index: int) -> str:
        check_index(index, len(self))
        name = self._names[self._ends[index] : self._ends[index + 1]]
        return os.path.join(self._root, self._class_names[self.labels[index]], os.fsdecode(name))


def _hash(path: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(path, digest_size=8).digest(), "big")


@dataclass(frozen=True)
class Folder:
    """A data set in folders; make it with `open_folder`.

    Attributes:
        path: as given.
        class_names: names of the class folders of the training split, or of the first split that
            exists, sorted by `in_label_order`.
        split_folders: "train", "validation" and "test", where they exist -> the folder that holds
            the split's class folders. Without a folder for evaluation, "train" and "validation"
            share one: a tenth of each class, at least one image of a class that has two, is held
            out.
        aliases: other name of a split -> its name in `split_folders`. "val" is "validation", and
            the only evaluation split answers to both "validation" and "test".
        note: what to know about the splits, or empty.
    """

    path: Path
    class_names: tuple[str, ...]
    split_folders: dict[str, Path]
    aliases: dict[str, str]
    note: str = ""

    def load(self, split: str) -> FolderSource | Subset:
        """Opens a split.

        Args:
            split: a key of `split_folders`.

        Raises:
            ValueError: a class that the training split lacks, or one without an image.
        """
        folders = self.split_folders
        if folders.get("validation") != folders.get("train"):
            return self._scan(folders[split])
        whole = self._whole
        held_out = _held_out(whole.labels, len(self.class_names))
        if split != "train" and not held_out.any():
            raise ValueError(
                f"{self.path} has one image per class: none can be held out for evaluation"
            )
        return Subset(whole, np.flatnonzero(held_out == (split != "train")))

    @functools.cached_property
    def _whole(self) -> FolderSource:
        # Of a set without evaluation folder: scanned once for both splits.
        return self._scan(self.split_folders["train"])

    def _scan(self, folder: Path) -> FolderSource:
        found = _class_folders(folder)
        if not found:
            raise ValueError(f"{folder} holds no class folder")
        if unknown := sorted(set(found) - set(self.class_names)):
            raise ValueError(
                f"{folder} has a class folder {unknown[0]!r} that the training split lacks (such "
                f"folders: {len(unknown)})"
            )
        files = []
        for name in self.class_names:
            files.append(_image_files(folder / name) if name in found else [])
            if name in found and not files[-1]:
                raise ValueError(
                    f"the class folder {folder / name} holds no image; known endings are "
                    f"{', '.join(SUFFIXES)}"
                )
        return FolderSource(folder, self.class_names, files)


def _held_out(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Marks the first tenth of each class in the order of the records, bool [n]."""
    counts = np.bincount(labels, minlength=num_classes)
    wanted = np.where(counts > 1, np.maximum(1, np.rint(HELD_OUT * counts)), 0)
    by_class = np.argsort(labels, kind="stable")
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    mask = np.empty(len(labels), bool)
    mask[by_class] = rank < np.repeat(wanted, counts)
    return mask


def open_folder(path: Path) -> Folder:
    """Finds out which splits and classes a folder has, without looking at the images.

    Args:
        path: holds either a folder "train" and perhaps "val" (or "valid", "validation") and "test",
            each with the class folders; or the class folders themselves.

    Raises:
        ValueError: no such folder, or no class in it.
    """
    found = _class_folders(path)
    train, validation, test = (
        _split_folder(path, found, names) for names in (_TRAIN, _VALIDATION, _TEST)
    )
    note = ""
    # Without "train" the others can be evaluated; asking for "train" is then an error.
    has_train = train is not None or not (validation or test)
    train = train or validation or test or path
    if not (validation or test):
        validation = train
        note = (
            f"{path} has no folder 'validation' or 'test': a tenth of each class, fixed by the "
            "file names, is held out for evaluation"
        )
    folders = {"train": train if has_train else None, "validation": validation, "test": test}
    folders = {split: folder for split, folder in folders.items() if folder}
    aliases = {"val": "validation" if validation else "test"}
    if not (validation and test):
        aliases |= {"validation": "test"} if test else {"test": "validation"}
    class_names = in_label_order(_class_folders(train))
    if not class_names:
        others = [name for name in found if path / name not in (train, validation, test)]
        hint = f" ({train.name!r} counts as a split, not as a class)" if others else ""
        raise ValueError(f"{train} holds no folder; there must be one for each class{hint}")
    if len(class_names) == 1:
        note += f"{'; ' if note else ''}{train} holds one class: every answer will be right"
    return Folder(path, class_names, folders, aliases, note)


def in_label_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sorts class names; as numbers if all of them are, so that 2 comes before 10."""
    names = sorted(names)
    if all(re.fullmatch("[0-9]+", name) for name in names):
        names.sort(key=int)
    return tuple(names)


def _split_folder(path: Path, found: Iterable[str], names: tuple[str, ...]) -> Path | None:
    there = [name for name in found if name.lower() in names]
    if len(there) > 1:
        raise ValueError(f"{path} has several folders for one split: {', '.join(there)}")
    return path / there[0] if there else None


def _class_folders(path: Path) -> list[str]:
    """Returns the names of the folders in a folder, sorted, with links but not hidden ones."""
    try:
        with os.scandir(path) as entries:
            return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())
    except OSError as error:
        raise ValueError(f"the folder {path} cannot be read: {error.strerror}") from None


def _image_files(path: Path) -> list[bytes]:
    with os.scandir(path) as entries:
        return [
            os.fsencode(entry.name)
            for entry in entries
            if entry.name.lower().endswith(SUFFIXES)
            and not entry.name.startswith(".")
            and not entry.is_dir()
        ]
