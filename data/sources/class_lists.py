"""Lists that give each image of a folder its class, for folders without class folders.

ImageNet's 50,000 validation images are published in one folder. Two forms are read:

    n01751748                             one class per line, in the order of the sorted files:
    n09193705                             imagenet_2012_validation_synset_labels.txt of TensorFlow

    ImageId,PredictionString              file and class, separated by comma, tab or space; the
    ILSVRC2012_val_00048981,n03995372 85  first line may name the columns, files may lack their
                                          ending, and more columns may follow: LOC_val_solution.csv
                                          of Kaggle, val_annotations.txt of Tiny ImageNet
"""

import csv
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from data.images import endings
from data.sources.arrays import NoLabel
from harness.errors import printable
from harness.files import read_lines

# Numbers from 1 to 1000 in an order of the challenge's own, which is not that of the synsets.
_NUMBERED = "ILSVRC2012_validation_ground_truth.txt"
_IMAGENET = ("imagenet_2012_validation_synset_labels.txt", "synset_labels.txt")
# Kaggle's lies above ILSVRC/Data/CLS-LOC/val.
_KAGGLE, _KAGGLE_LEVELS = "LOC_val_solution.csv", 4
_SUFFIXES = (".txt", ".csv", ".tsv")
_NOT_VALIDATION = ("train", "training", "test")
# Kaggle's predictions: a synset and a box, perhaps several times.
_WITH_BOX = re.compile(r"(\S+)(?: -?\d+){4}(?: |$)")


def find_list(folder: Path, *, beside: bool) -> Path | None:
    """Finds the list of a folder's classes by its name.

    Args:
        folder: that holds the images.
        beside: whether to look next to the folder too, not only in it.
    """
    name = folder.name
    inside = [f"{stem}{s}" for stem in ("labels", f"{name}_annotations") for s in _SUFFIXES]
    both = [f"{stem}{s}" for stem in (name, f"{name}_labels") for s in _SUFFIXES]
    places = [folder / file for file in (*inside, *both)]
    if beside:
        places += [folder.parent / file for file in (*both, f"{name}_annotations.txt")]
    if name.lower() not in _NOT_VALIDATION:
        around = (folder, folder.parent) if beside else (folder,)
        places += [place / file for file in _IMAGENET for place in around]
        if beside:
            places += [place / _KAGGLE for place in (folder, *folder.parents[:_KAGGLE_LEVELS])]
        places += [place / _NUMBERED for place in around]
    return next((place for place in places if place.is_file()), None)


def what_would_do(folder: Path) -> str:
    """Returns what a person can do about a folder of images without classes."""
    return (
        f"one folder for each class, or a list {folder / 'labels.txt'} or "
        f"{folder.parent / folder.name}.csv with one class per line in the order of the sorted "
        "files, or lines 'file,class'"
    )


def words(path: Path) -> set[str]:
    """Returns all that may be the name of a class in a list."""
    return {word for line in read_lines(path) for word in re.split(r"[\t,\s]+", line)}


def read_list(
    path: Path,
    files: Sequence[bytes],
    known: Collection[str] | None,
    *,
    takes_numbers: bool = False,
) -> list[str]:
    """Reads the class of each file.

    Args:
        path: of the list.
        files: paths of the images within their folder, sorted.
        known: names of the classes; None: those of the list.
        takes_numbers: whether the list's own names may all be numbers.

    Returns:
        The classes in the order of `files`.

    Raises:
        NoLabel: it has no classes, as Kaggle's test.csv.
        ValueError: a file without a class or a class without a file, a class that is not known, or
            no such list; one line.
    """
    if path.name == _NUMBERED:
        raise ValueError(
            f"{path} numbers the classes in an order of its own, not that of their names; "
            f"{_IMAGENET[0]} or {_KAGGLE} gives the names"
        )
    lines = [line for line in read_lines(path) if line.strip()]
    rows = _rows(path, lines)
    places = _places(files)
    found = [places.get(row[0].strip()) for row in rows]
    num_found = sum(place is not None for place in found)
    if all(len(row) == 1 for row in rows) and num_found >= max(1, len(rows) - 1):  # and a header
        raise NoLabel(f"{path} lists files but no classes")
    if not _names_files(rows, found, known):
        classes = _by_order(path, [line.strip() for line in lines], files)
    else:
        classes = _by_file(path, rows, found, files, known)
    _check_classes(path, classes, known, takes_numbers)
    return classes


def _rows(path: Path, lines: list[str]) -> list[list[str]]:
    """Splits lines into columns, at tabs, commas or the first space: what most lines have."""
    separator = next((s for s in "\t," if sum(s in line for line in lines) > len(lines) / 2), None)
    if separator is None:
        return [line.split(maxsplit=1) for line in lines]
    try:
        return [next(csv.reader([line], delimiter=separator)) for line in lines]
    except csv.Error as error:
        raise ValueError(f"{path} is no list of files and classes: {error}") from None


def _names_files(
    rows: list[list[str]], found: list[int | None], known: Collection[str] | None
) -> bool:
    """Returns whether the first column names files, be they in the folder or not."""
    if all(len(row) == 1 for row in rows):
        return False
    if any(place is not None for place in found) or known is None:
        return True
    return any(os.path.splitext(row[0])[1].lower() in endings() for row in rows[:2])


def _places(files: Sequence[bytes]) -> dict[str, int]:
    """Returns what a list may call each file -> its place; -1 for what several are called."""
    places: dict[str, int] = {}
    for place, file in enumerate(map(os.fsdecode, files)):
        base = os.path.basename(file)
        for name in {file, base, os.path.splitext(file)[0], os.path.splitext(base)[0]}:
            places[name] = -1 if name in places else place
    return places


def _by_order(path: Path, classes: list[str], files: Sequence[bytes]) -> list[str]:
    if len(classes) != len(files):
        raise ValueError(
            f"{path} has {len(classes):,} lines but there are {len(files):,} images; with one "
            "class per line there must be as many"
        )
    numeric = [re.split(rb"(\d+)", file) for file in files]
    numeric = [[int(part) if part.isdigit() else part for part in parts] for parts in numeric]
    if numeric != sorted(numeric):
        raise ValueError(
            f"{path}: the order of the files is not clear, as their numbers are of different "
            f"length ({os.fsdecode(files[0])!r} comes first, {os.fsdecode(files[1])!r} next); "
            "give lines 'file,class'"
        )
    return classes


def _by_file(
    path: Path,
    rows: list[list[str]],
    found: list[int | None],
    files: Sequence[bytes],
    known: Collection[str] | None,
) -> list[str]:
    has_header = found[0] is None and os.path.splitext(rows[0][0])[1].lower() not in endings()
    if has_header:
        rows, found = rows[1:], found[1:]
    unknown = [row[0] for row, place in zip(rows, found, strict=True) if place is None]
    if unknown:
        example = f"{unknown[0]!r} (in all {len(unknown):,})"
        raise ValueError(f"{path} names files that are not there, such as {example}")
    classes: list[str | None] = [None] * len(files)
    for row, place in zip(rows, found, strict=True):
        if place < 0:
            raise ValueError(f"{path}: there are several files {row[0]!r}")
        name = _class_of(row, known)
        if not name or classes[place] not in (None, name):
            what = "no class" if not name else f"two classes, {classes[place]!r} and {name!r}"
            raise ValueError(f"{path} gives {row[0]!r} {what}")
        classes[place] = name
    if None in classes:
        example = os.fsdecode(files[classes.index(None)])
        raise ValueError(
            f"{path} lacks images, such as {example!r} ({classes.count(None):,} of {len(files):,})"
        )
    return classes


def _class_of(row: list[str], known: Collection[str] | None) -> str:
    """Returns the class in a row: its second column, or the first word of it."""
    name = row[1].strip() if len(row) > 1 else ""
    if known and name in known:
        return name
    if box := _WITH_BOX.match(name):
        return box[1]
    return name.split()[0] if known and name else name


def _check_classes(
    path: Path, classes: list[str], known: Collection[str] | None, takes_numbers: bool
) -> None:
    are_numbers = all(name.isdecimal() for name in classes)
    hint = "; numbers do not say which order of the classes they mean" if are_numbers else ""
    if known is None:
        if are_numbers and not takes_numbers:
            raise ValueError(f"{path} has no names of classes{hint}")
        return
    if unknown := sorted(set(classes) - set(known)):
        raise ValueError(
            printable(
                f"{path} names classes that the training split lacks, such as {unknown[0]!r} (in "
                f"all {len(unknown):,}){hint}"
            )
        )
