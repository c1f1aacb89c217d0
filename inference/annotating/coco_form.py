"""What was found, in the form of COCO's JSON files.

Reference: https://cocodataset.org/#format-data and #format-results
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.annotations.annotated import IGNORE
from data.annotations.coco_files import read_ids
from harness.arguments import problem
from inference.annotating.annotator import Found


@dataclass(frozen=True)
class Ids:
    """The numbers that a data set has for categories and images.

    Attributes:
        categories: one for each class, in the order of the labels.
        images: name of a file, without its folder -> number.
    """

    categories: tuple[int, ...]
    images: dict[str, int]

    @classmethod
    def read(cls, file: Path, class_names: Sequence[str], images: Iterable[Path]) -> "Ids":
        """Finds classes and images in a COCO-style JSON file by their names.

        Raises:
            ValueError: the file is not in that form, or one of the names is not in it.
        """
        categories, numbers = read_ids(file)
        images = [image.name for image in images]
        if twice := [name for name, count in Counter(images).items() if count > 1]:
            what = f"images of one name, {twice[0]!r}, would get one id; predict them by folder"
            raise ValueError(problem("--ids", str(file), what))
        for kind, wanted, known in (
            ("category", class_names, categories),
            ("image", images, numbers),
        ):
            if missing := [name for name in wanted if name not in known]:
                what = f"has no {kind} {missing[0]!r} ({len(missing)} are missing)"
                raise ValueError(problem("--ids", str(file), what))
        return cls(tuple(categories[name] for name in class_names), numbers)


def coco_form(
    found: Iterable[Found], class_names: Sequence[str], ids: Ids | None = None
) -> dict[str, Any]:
    """Returns the images, the categories and what was found, ready for JSON.

    Args:
        found: of images that could be read; none is kept.
        class_names: in the order of the labels.
        ids: of classes and images, which are files then; None: both are counted from 1.

    Returns:
        "images", "categories" and "annotations": of a detection all answers, with their "score";
        of a segmentation one for each class in an image, whose pixels are in "segmentation" as an
        uncompressed run-length encoding.
    """
    categories = ids.categories if ids else range(1, len(class_names) + 1)
    images, annotations = [], []
    for number, one in enumerate(found, 1):
        number = ids.images[one.path.name] if ids else number
        height, width = one.image.shape[:2]
        images.append({"id": number, "file_name": str(one.path or number)})
        images[-1] |= {"height": height, "width": width}
        for row in _boxes(one) if one.detections is not None else _segments(one):
            row["category_id"] = categories[row["category_id"]]
            annotations.append({"id": len(annotations) + 1, "image_id": number} | row)
    named = [{"id": n, "name": name} for n, name in zip(categories, class_names, strict=True)]
    return {"images": images, "categories": named, "annotations": annotations}


def _boxes(found: Found) -> list[dict[str, Any]]:
    """Returns an annotation for each box, with the label for its category."""
    rows, detections = [], found.detections
    columns = (detections.boxes, detections.labels, detections.scores)
    for (left, top, right, bottom), label, score in zip(*columns, strict=True):
        width, height = float(right - left), float(bottom - top)
        box = [round(number, 3) for number in (float(left), float(top), width, height)]
        rows.append({"category_id": int(label), "bbox": box, "score": round(float(score), 5)})
        rows[-1] |= {"area": round(width * height, 3), "iscrowd": 0}
    return rows


def _segments(found: Found) -> list[dict[str, Any]]:
    """Returns an annotation for each class of pixels, with the label for its category."""
    rows = []
    for label in np.unique(found.segments[found.segments != IGNORE]).tolist():
        mask = found.segments == label
        ys, xs = np.nonzero(mask)
        box = [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
        rows.append({"category_id": label, "segmentation": run_lengths(mask)})
        rows[-1] |= {"bbox": [int(n) for n in box], "area": int(mask.sum()), "iscrowd": 0}
    return rows


def run_lengths(mask: np.ndarray) -> dict[str, list[int]]:
    """Returns COCO's uncompressed run-length encoding of a mask, bool [h, w].

    The lengths of runs of 0 and of 1 in turn, column by column; the first is of 0.
    """
    flat = mask.T.ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat.size and flat[0] else counts}
