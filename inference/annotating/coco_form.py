"""What was found, in the form of COCO's JSON files.

Reference: https://cocodataset.org/#format-data and #format-results
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from data.annotations.annotated import IGNORE
from inference.annotating.annotator import Found


def coco_form(found: Iterable[Found], class_names: Sequence[str]) -> dict[str, Any]:
    """Returns the images, the categories and what was found, ready for JSON.

    Args:
        found: of images that could be read; none is kept.
        class_names: in the order of the labels; category 1 is the first, whatever its id in the
            data set.

    Returns:
        "images", "categories" and "annotations": of a detection all answers, with their "score";
        of a segmentation one for each class in an image, whose pixels are in "segmentation" as an
        uncompressed run-length encoding.
    """
    images, annotations = [], []
    for number, one in enumerate(found, 1):
        height, width = one.image.shape[:2]
        images.append({"id": number, "file_name": str(one.path or number)})
        images[-1] |= {"height": height, "width": width}
        for row in _boxes(one) if one.detections is not None else _segments(one):
            annotations.append({"id": len(annotations) + 1, "image_id": number} | row)
    categories = [{"id": label, "name": name} for label, name in enumerate(class_names, 1)]
    return {"images": images, "categories": categories, "annotations": annotations}


def _boxes(found: Found) -> list[dict[str, Any]]:
    rows, detections = [], found.detections
    columns = (detections.boxes, detections.labels, detections.scores)
    for (left, top, right, bottom), label, score in zip(*columns, strict=True):
        width, height = float(right - left), float(bottom - top)
        box = [round(number, 3) for number in (float(left), float(top), width, height)]
        rows.append({"category_id": int(label) + 1, "bbox": box, "score": round(float(score), 5)})
        rows[-1] |= {"area": round(width * height, 3), "iscrowd": 0}
    return rows


def _segments(found: Found) -> list[dict[str, Any]]:
    rows = []
    for label in np.unique(found.segments[found.segments != IGNORE]).tolist():
        mask = found.segments == label
        ys, xs = np.nonzero(mask)
        box = [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
        rows.append({"category_id": label + 1, "segmentation": run_lengths(mask)})
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
