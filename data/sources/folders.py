"""A folder of images per class, with or without a folder per split around them.

    birds/train/robin/1.jpg            birds/robin/1.jpg
    birds/train/wren/a.png      or     birds/wren/a.png
    birds/val/robin/7.jpg

Class folders may have subfolders; data/sources/image_search.py says which files count. In place of
class folders a list may give each image its class, see data/sources/class_lists.py.

The order of a split's records is pseudo-random, but fixed by their paths within the split: a slice
holds about the same mix of classes as the whole, on any machine.
"""

import functools
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data.sources import box_files, class_lists
from data.sources.arrays import NoLabel, Record, Source, Subset, check_index
from data.sources.image_search import Tally, find_images, num_images_in
from harness.class_lists import in_label_order
from harness.errors import BadImage, printable

HELD_OUT = 0.1
_TRAIN = ("train", "training")
_VALIDATION = ("validation", "val", "valid")
_TEST = ("test",)


class FolderSource:
    """The image files of a split, read one by one and left encoded."""

    def __init__(self, root: Path, class_folders: Sequence[str], files: list[list[bytes]]):
        """Puts the files in order.

        Args:
            root: folder of the split.
            class_folders: name of each class's folder in it, in the order of the labels; "": the
                images of the class lie in `root` itself.
            files: for each class the paths of its files within the class's folder, as the operating
                system encodes them.
        """
        self._root = str(root)
        self._class_folders = tuple(class_folders)
        labels = np.repeat(np.arange(len(files), dtype=np.int32), [len(names) for names in files])
        keys, names = [], []
        for class_folder, class_files in zip(class_folders, files, strict=True):
            prefix = os.fsencode(os.path.join(class_folder, ""))
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
        class_folder = self._class_folders[self.labels[index]]
        return os.path.join(self._root, class_folder, os.fsdecode(name))


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
        load_notes: lines on what the splits loaded so far hold besides images in class folders.
    """

    path: Path
    class_names: tuple[str, ...]
    split_folders: dict[str, Path]
    aliases: dict[str, str]
    note: str = ""
    load_notes: list[str] = field(default_factory=list)

    def load(self, split: str) -> Source:
        """Opens a split, with its boxes where data/sources/box_files.py finds some.

        Args:
            split: a key of `split_folders`.

        Raises:
            ValueError: a class that the training split lacks, or one without an image.
        """
        folders = self.split_folders
        if "train" not in folders or folders.get("validation") != folders["train"]:
            return self._with_boxes(self._scan(folders[split]), folders[split])
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
        folder = self.split_folders["train"]
        return self._with_boxes(self._scan(folder), folder)

    def _with_boxes(self, source: FolderSource, folder: Path) -> Source:
        return box_files.with_boxes(source, self.path, folder, self.class_names)

    def _scan(self, folder: Path) -> FolderSource:
        found = _class_folders(folder)
        if listed := _find_list(folder, found, self.class_names):
            return self._scan_listed(folder, listed)
        if not found:
            todo = class_lists.what_would_do(folder)
            raise NoLabel(f"{folder} holds no class folder; there must be {todo}")
        if unknown := sorted(set(found) - set(self.class_names)):
            has_labels = len(unknown) < len(found)  # Tiny ImageNet's test has one folder, "images"
            raise (ValueError if has_labels else NoLabel)(
                f"{folder} has a class folder {unknown[0]!r} that the training split lacks (such "
                f"folders: {len(unknown)})"
            )
        files, whole = [], Tally()
        if beside := num_images_in(folder):
            whole.left_out["beside the class folders"] = beside
        for name in self.class_names:
            files.append([])
            if name not in found:
                continue
            tally = Tally()
            files[-1] = _found(folder / name, tally)
            if not files[-1]:
                told = f" ({tally.told()})" if tally.told() else ""
                raise ValueError(printable(f"the class folder {folder / name} has no image{told}"))
            whole.add(tally)
        self._tell(whole.note(folder, "subfolders of the class folders"))
        return FolderSource(folder, self.class_names, files)

    def _scan_listed(self, folder: Path, listed: Path) -> FolderSource:
        tally = Tally()
        names, classes = _read_listed(folder, listed, self.class_names, tally)
        label_of = {name: label for label, name in enumerate(self.class_names)}
        files = [[] for _ in self.class_names]
        for name, class_name in zip(names, classes, strict=True):
            files[label_of[class_name]].append(name)
        if listed.parent == folder:
            tally.left_out -= Counter({listed.suffix: 1})
        self._tell(f"{folder}: the classes of its images are those in {listed}")
        self._tell(tally.note(folder))
        return FolderSource(folder, ("",) * len(files), files)

    def _tell(self, note: str) -> None:
        if note:
            self.load_notes.append(note)


def _found(folder: Path, tally: Tally) -> list[bytes]:
    files = find_images(folder, tally)
    for error in tally.errors:
        where = Path(os.fsdecode(error.filename))
        raise ValueError(printable(f"the folder {where} cannot be read: {error.strerror}"))
    return files


def _find_list(folder: Path, found: list[str], known: Iterable[str] | None) -> Path | None:
    """Finds the list that stands for class folders in a split's folder.

    Args:
        folder: of the split.
        found: folders in it. With two there is no list, and one may hold the images, as in Tiny
            ImageNet, unless it has the name of a class.
        known: names of the classes; None: those of the list.
    """
    if len(found) > 1:
        return None
    listed = class_lists.find_list(folder, beside=not found)
    if listed and set(found) & set(class_lists.words(listed) if known is None else known):
        return None
    return listed


def _read_listed(
    folder: Path, listed: Path, known: Sequence[str] | None, tally: Tally
) -> tuple[list[bytes], list[str]]:
    """Returns the images of a split's folder, and the class of each by its list."""
    names = sorted(_found(folder, tally))
    if not names:
        raise ValueError(f"{folder} has no image")
    takes_numbers = folder.name.lower() in _TRAIN
    return names, class_lists.read_list(listed, names, known, takes_numbers=takes_numbers)


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
    read = (train, validation, test, *(path / name for name in box_files.ANNOTATIONS))
    others = [name for name in found if path / name not in read]
    folders = {"train": train if has_train else None, "validation": validation, "test": test}
    folders = {split: folder for split, folder in folders.items() if folder}
    aliases = {"val": "validation" if validation else "test"}
    if not (validation and test):
        aliases |= {"validation": "test"} if test else {"test": "validation"}
    class_names = in_label_order(_class_folders(train))
    if listed := _find_list(train, class_names, None):
        class_names = in_label_order(set(_read_listed(train, listed, None, Tally())[1]))
    if not class_names:
        hint = f" ({train.name!r} counts as a split, not as a class)" if others else ""
        todo = class_lists.what_would_do(train)
        raise ValueError(f"{train} holds no folder; there must be {todo}{hint}")
    if len(class_names) == 1:
        note += f"{'; ' if note else ''}{train} holds one class: every answer will be right"
    found = Folder(path, class_names, folders, aliases, note)
    if train != path and others:
        more = f" and {len(others) - 5} more folders" if len(others) > 5 else ""
        found.load_notes.append(printable(f"{path}: not read: {', '.join(others[:5])}{more}"))
    return found


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
