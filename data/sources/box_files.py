"""Boxes of the objects in a folder's images: a table, or annotations as ImageNet has them.

A table lies in the data set's folder or in a split's. Its first line names the columns, in any
order. Files are paths from the table's folder. Sides are pixels of the image as it is stored, from
its upper left corner, ends exclusive. Without a label the class is the image's. A file may have
several lines.

    boxes.csv:  file,label,top,left,bottom,right
                val/robin/7.jpg,robin,10,25,180,200
                val/wren/b.jpg,,0,0,50,60

Annotations in Pascal VOC's form lie in a folder in or beside the data set's, under the names of the
images, with their folders or without: Annotations/val/ILSVRC2012_val_00000001.xml.
"""

import csv
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from data.sources.arrays import Record, Source
from harness.errors import BadImage, one_line, printable
from harness.files import read_lines

TABLE = "boxes.csv"
ANNOTATIONS = ("Annotations", "Annotation")  # Kaggle's and Pascal VOC's; ImageNet's own archives
_SIDES = ("top", "left", "bottom", "right")
_VOC_SIDES = ("ymin", "xmin", "ymax", "xmax")
Boxes = Callable[[str, int], np.ndarray]  # of an image's path and label: float32 [m, 5]


class BoxedFiles:
    """The records of a source of files, and their boxes."""

    def __init__(self, source: Source, find: Boxes):
        """Takes a source whose descriptions are paths, and what finds the boxes of one."""
        self._source = source
        self._find = find
        self.labels = source.labels

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        return self._source[index]

    def describe(self, index: int) -> str:
        return self._source.describe(index)

    def boxes(self, index: int) -> np.ndarray:
        """Returns float32 [m, 5], see arrays.py; m is 0 for a file without boxes."""
        return self._find(self.describe(index), int(self.labels[index]))


def with_boxes(source: Source, root: Path, folder: Path, class_names: Sequence[str]) -> Source:
    """Returns the source of a split, with boxes where there are files of them.

    Args:
        source: of image files, with `labels`.
        root: folder of the data set.
        folder: of the split.
        class_names: in the order of the labels.

    Raises:
        ValueError: the table is wrong; the message names the line.
    """
    for table in (root / TABLE, folder / TABLE):
        if table.is_file():
            return BoxedFiles(source, _Table(table, class_names))
    places = [root / name for name in ANNOTATIONS] + [root.parent / name for name in ANNOTATIONS]
    places = [place / folder.name for place in places] + places
    parts = folder.parts
    if "Data" in parts:  # Kaggle's: ILSVRC/Data/CLS-LOC/val, ILSVRC/Annotations/CLS-LOC/val
        at = len(parts) - 1 - parts[::-1].index("Data")
        places.insert(0, Path(*parts[:at], ANNOTATIONS[0], *parts[at + 1 :]))
    for place in places:
        if place.is_dir():
            return BoxedFiles(source, _Annotations(place, folder, class_names))
    return source


class _Table:
    """The rows of a boxes.csv; called with an image's path and label, returns its boxes."""

    def __init__(self, path: Path, class_names: Sequence[str]):
        self._path = path
        self._rows: dict[str, list[tuple[int, int | None, list[float]]]] = {}
        lines = csv.reader(read_lines(path))
        columns = [name.strip() for name in next(lines, ())]
        needed = ("file", *_SIDES)
        if set(columns) - {"label"} != set(needed) or len(set(columns)) < len(columns):
            raise ValueError(
                f"{path}, line 1: the columns are {','.join(columns)}; they must be "
                f"{','.join(needed)} and perhaps label"
            )
        known = {name: label for label, name in enumerate(class_names)}
        for row in lines:
            if row:
                if len(row) != len(columns):
                    what = f"{len(row)} values for the {len(columns)} columns"
                    raise self._wrong(lines.line_num, what)
                file, *values = self._read(
                    lines.line_num, dict(zip(columns, row, strict=True)), known
                )
                self._rows.setdefault(file, []).append((lines.line_num, *values))

    def _read(
        self, line: int, row: dict[str, str], known: dict[str, int]
    ) -> tuple[str, int | None, list[float]]:
        """Returns file, label and sides of a line."""
        name = row.get("label", "").strip()
        if name and name not in known:
            raise self._wrong(line, f"there is no class {name!r}")
        try:
            sides = [float(row[side]) for side in _SIDES]
        except (KeyError, ValueError):
            raise self._wrong(line, f"{', '.join(_SIDES)} must be numbers of pixels") from None
        top, left, bottom, right = sides
        if not (0 <= top < bottom < np.inf and 0 <= left < right < np.inf):
            raise self._wrong(line, "a box has 0 <= top < bottom and 0 <= left < right")
        file = os.path.normpath(row["file"].strip())
        if not os.path.isfile(self._path.parent / file):
            raise self._wrong(line, f"there is no file {file!r} in {self._path.parent}")
        return file, known.get(name), sides

    def _wrong(self, line: int, what: str) -> ValueError:
        return ValueError(printable(f"{self._path}, line {line}: {what}"))

    def __call__(self, path: str, label: int) -> np.ndarray:
        rows = self._rows.get(os.path.relpath(path, self._path.parent), ())
        boxes = []
        size = _stored_size(path) if rows else (1, 1)
        for line, own, sides in rows:
            if sides[2] > size[0] or sides[3] > size[1]:
                what = f"the box does not lie in the image of {size[0]} x {size[1]} pixels"
                raise self._wrong(line, f"{what} (height x width)")
            boxes.append((label if own is None else own, *np.divide(sides, (*size, *size))))
        return np.asarray(boxes, np.float32).reshape(-1, 5)


class _Annotations:
    """A folder of XML files; called with an image's path and label, returns its boxes.

    An object whose name is a class belongs to that class; if none of a file's is, all belong to the
    image's. Coordinates are divided by the size in the file, as TensorFlow's
    process_bounding_boxes.py does with ImageNet's.
    """

    def __init__(self, place: Path, folder: Path, class_names: Sequence[str]):
        self._place = place
        self._folder = folder
        self._known = {name: label for label, name in enumerate(class_names)}

    def __call__(self, path: str, label: int) -> np.ndarray:
        within = Path(os.path.relpath(path, self._folder)).with_suffix(".xml")
        files = (self._place / within, self._place / within.name)
        file = next((place for place in files if place.is_file()), None)
        if file is None:
            return np.zeros((0, 5), np.float32)
        try:
            tree = ElementTree.parse(file).getroot()
            size = [float(tree.findtext(f"size/{side}") or 0) for side in ("height", "width")]
            height, width = size if all(size) else _stored_size(path)
            names, boxes = [], []
            for found in tree.iter("object"):
                box = [float(found.findtext(f"bndbox/{side}")) for side in _VOC_SIDES]
                names.append((found.findtext("name") or "").strip())
                boxes.append(np.divide(box, (height, width, height, width)))
        except (ElementTree.ParseError, TypeError, ValueError) as error:
            raise ValueError(f"{file} is no annotation: {one_line(error)}") from None
        labels = [self._known.get(name) for name in names]
        if all(own is None for own in labels):
            labels = [label] * len(labels)
        rows = [(own, *box) for own, box in zip(labels, boxes, strict=True) if own is not None]
        return np.asarray(rows, np.float32).reshape(-1, 5)


def _stored_size(path: str) -> tuple[int, int]:
    """Returns height and width of an image as it is stored."""
    try:
        with Image.open(path) as image:
            return image.size[::-1]
    except Exception as error:  # as in data/images.py: damage surfaces as almost anything
        raise BadImage(f"the image cannot be read: {one_line(error)}") from error
