"""An iNaturalist competition as it is downloaded: images, and annotations in the form of COCO.

    inat2019/train2019.json        {"images": [{"id", "file_name"}, ...],
    inat2019/val2019.json           "annotations": [{"image_id", "category_id"}, ...],
    inat2019/train_val2019/         "categories": [{"id", "name"}, ...]}
        Plants/400/d1322d13....jpg

Only the annotations count: the images may lie in any folders that they name. The order of a split's
records is pseudo-random, but fixed by the names of the files, as in data/sources/folders.py.
"""

import hashlib
import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.sources.arrays import Record, check_index
from harness.errors import BadImage, one_line

_FILES = {"train": r"train\d*\.json", "validation": r"val\d*\.json"}
ALIASES = {"val": "validation", "test": "validation"}  # the test split's labels are not published


class AnnotatedSource:
    """Image files with a label each, read one by one and left encoded."""

    def __init__(self, root: Path, names: list[str], labels: list[int]):
        """Puts the files in order.

        Args:
            root: folder that the names start from.
            names: of the files.
            labels: of the files.
        """
        keys = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names]
        order = sorted(range(len(names)), key=keys.__getitem__)
        self._root = root
        # One block of bytes: a string each would take three times the memory, in each worker.
        self._names = np.array([names[i].encode() for i in order])
        self.labels = np.array(labels, np.int32)[order]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Record:
        try:
            encoded = Path(self.describe(index)).read_bytes()
        except OSError as error:
            raise BadImage(f"the file cannot be read: {error.strerror}") from error
        return {"image": encoded, "label": int(self.labels[index])}

    def describe(self, index: int) -> str:
        check_index(index, len(self))
        return str(self._root / self._names[index].decode())


@dataclass(frozen=True)
class Competition:
    """The annotations of a competition; make it with `open_competition`.

    Attributes:
        path: of its folder.
        annotations: "train" and, if there is a file for it, "validation" -> the file.
        categories: number of each category in the annotations -> its label, in rising order.
        class_names: in the order of the labels.
    """

    path: Path
    annotations: dict[str, Path]
    categories: dict[int, int]
    class_names: tuple[str, ...]

    def load(self, split: str) -> AnnotatedSource:
        """Opens a split.

        Raises:
            ValueError: an image without a known category, or no image is there.
        """
        file = self.annotations[split]
        content = _read(file)
        try:
            known = {entry["image_id"]: entry["category_id"] for entry in content["annotations"]}
            names = [entry["file_name"] for entry in content["images"]]
            labels = [self.categories.get(known.get(image["id"])) for image in content["images"]]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{file} is no list of annotated images: no {error}") from None
        if None in labels:
            what = f"{labels.count(None)} of {len(names)} images have no category of the training"
            raise ValueError(f"{file}: {what}, the first {names[labels.index(None)]}")
        if not names or not (self.path / names[0]).is_file():
            first = (
                f"{self.path / names[0]} is not there: extract the images" if names else "no image"
            )
            raise ValueError(f"{file}: {first}")
        return AnnotatedSource(self.path, names, labels)


def open_competition(path: Path) -> Competition:
    """Reads the categories of a competition, which are those of its training split.

    Args:
        path: holds train<year>.json, val<year>.json, and what they name.

    Raises:
        ValueError: there is no such file, or it is not what it has to be.
    """
    there = sorted(file.name for file in path.iterdir())
    found = {
        split: [path / name for name in there if re.fullmatch(pattern, name)]
        for split, pattern in _FILES.items()
    }
    for split, files in found.items():
        if len(files) > 1 or (split == "train" and not files):
            what = ", ".join(file.name for file in files) or "none"
            raise ValueError(f"{path} has to hold one train2019.json, or of another year: {what}")
    annotations = {split: files[0] for split, files in found.items() if files}
    try:
        categories = sorted(
            (c["id"], str(c["name"])) for c in _read(annotations["train"])["categories"]
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{annotations['train']} lists no categories: no {error}") from None
    for kind, values in (("id", [n for n, _ in categories]), ("name", [n for _, n in categories])):
        if twice := [a for a, b in itertools.pairwise(sorted(values)) if a == b]:
            what = f"two categories have the {kind} {twice[0]!r}"
            raise ValueError(f"{annotations['train']}: {what}")
    labels = {number: label for label, (number, _) in enumerate(categories)}
    return Competition(path, annotations, labels, tuple(name for _, name in categories))


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {one_line(error)}") from None
