"""COCO's average precision of boxes, by faster-coco-eval."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.annotations.annotated import Objects
from harness.errors import BadAnnotation

# In the order of COCO's own table; of areas in pixels of the image as it is stored: small is below
# 32^2, large above 96^2.
METRICS = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"),
)


@dataclass(frozen=True)
class Detections:
    """What a model found in an image.

    Attributes:
        boxes: float [k, 4]: left, top, right, bottom in pixels of the image as it is stored.
        scores: float [k].
        labels: int [k], from 0.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def in_pixels(boxes: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Returns corners of boxes on the image as it is stored.

    Args:
        boxes: [..., 4]: centre x, centre y, width, height as shares of an image.
        size: its height and width in pixels.

    Returns:
        float64 [..., 4]: left, top, right, bottom.
    """
    boxes = np.asarray(boxes, np.float64)
    half = boxes[..., 2:] / 2
    corners = np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], axis=-1)
    return corners * np.tile(np.asarray(size, np.float64)[::-1], 2)


def objects_of_row(row: Mapping[str, np.ndarray]) -> Objects:
    """Returns the objects of a row of a batch of detection, without those that pad it."""
    real = row["labels"] >= 0
    others = (row[name][real] for name in ("labels", "area", "is_crowd"))
    return Objects(in_pixels(row["boxes"][real], row["size"]), *others)


def average_precision(
    truth: Sequence[Objects], found: Sequence[Detections], class_names: Sequence[str]
) -> dict[str, float]:
    """Compares what was found in images with what is there.

    As COCO does: a crowd's box takes any number of answers, which then count for nothing; in an
    image without objects every answer is wrong; boxes may reach beyond the image; of each class in
    an image the 100 answers with the highest scores count; classes without an object do not.

    Args:
        truth: objects of each image.
        found: of the same images, in the same order.
        class_names: in the order of the labels.

    Returns:
        METRICS, and "ap_of/NAME" of each class; -1 where there is no such object.

    Raises:
        BadAnnotation: an object's label is none of the classes, or its box is not finite.
        ValueError: the same of an answer.
    """
    from faster_coco_eval import COCO, COCOeval_faster  # only what detects objects needs it

    _check(truth, found, len(class_names))
    names = [{"id": label + 1, "name": name} for label, name in enumerate(class_names)]
    gold = COCO(
        {
            "images": [{"id": image + 1} for image in range(len(truth))],
            "categories": names,
            "annotations": [
                {"id": number, "iscrowd": int(crowd), "area": float(area), **_as_coco(*row)}
                for number, (crowd, area, row) in enumerate(_gold_rows(truth), 1)
            ],
        }
    )
    answers = [
        {"score": float(score), **_as_coco(image, box, label)}
        for image, found_here in enumerate(found)
        for box, label, score in zip(
            found_here.boxes, found_here.labels, found_here.scores, strict=True
        )
    ]
    evaluation = COCOeval_faster(gold, gold.loadRes(answers), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    stats = dict(zip(METRICS, map(float, evaluation.stats), strict=True))
    # [thresholds, recalls, classes, areas, most answers]: of all areas and 100 answers
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    for label, name in enumerate(class_names):
        known = precision[:, :, label][precision[:, :, label] > -1]
        stats[f"ap_of/{name}"] = float(known.mean()) if known.size else -1.0
    return stats


def _check(truth: Sequence[Objects], found: Sequence[Detections], num_classes: int) -> None:
    for image, (objects, answers) in enumerate(zip(truth, found, strict=True)):
        for kind, what, labels, values in (
            (BadAnnotation, "an object", objects.labels, objects.boxes),
            (ValueError, "an answer", answers.labels, np.c_[answers.boxes, answers.scores]),
        ):
            if (wrong := labels[(labels < 0) | (labels >= num_classes)]).size:
                allowed = f"allowed: 0 to {num_classes - 1}"
                raise kind(f"image {image}: {what} has the label {wrong[0]}; {allowed}")
            if not np.isfinite(values).all():
                raise kind(f"image {image}: {what} has a box or score that is not finite")


def _gold_rows(truth: Sequence[Objects]) -> Iterator[tuple[bool, float, tuple]]:
    for image, objects in enumerate(truth):
        for index, (box, label) in enumerate(zip(objects.boxes, objects.labels, strict=True)):
            yield objects.is_crowd[index], objects.areas[index], (image, box, label)


def _as_coco(image: int, box: np.ndarray, label: int) -> dict[str, Any]:
    left, top, right, bottom = map(float, box)
    corner_and_sides = [left, top, right - left, bottom - top]
    return {"image_id": image + 1, "category_id": int(label) + 1, "bbox": corner_and_sides}
