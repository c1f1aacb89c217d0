"""The images of which a detection or segmentation finds most and least, with what it finds."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from data.annotations.annotated import IGNORE, Objects
from data.annotations.average_precision import Detections, objects_of_row
from data.annotations.drawing import draw_boxes, draw_segments
from data.annotations.pipeline import real_size
from data.images import as_channels
from data.selection import evenly_spaced
from harness.errors import ConfigError, one_line, printable
from inference.annotating.annotator import Annotator, is_annotated
from reports.answer_sections import Choices
from reports.evaluation import TrainedRun
from reports.page import Block, Image, Picture, Pictures, Text, data_uri
from reports.run_record import RunRecord

SHOWN = 6  # of the best, and of the worst
MOST_IMAGES = 500  # of the split that are looked at
MIN_SCORE = 0.5  # of a box that counts here
MIN_IOU = 0.5


@dataclasses.dataclass(frozen=True)
class Looked:
    """An image of the split, what is in it, and what was found.

    Attributes:
        number: in the split.
        name: of its file or record.
        image: uint8 [h, w, 3], as the model sees it, without padding.
        truth, found: Detections, or segments [h, w], on that image.
        quality: 0 to 1.
    """

    number: int
    name: str
    image: np.ndarray
    truth: Any
    found: Any
    quality: float


def best_and_worst(run: RunRecord, trained: TrainedRun, choices: Choices) -> list[Block]:
    """The images of the evaluation split that are found best and worst; [] for other tasks."""
    if not is_annotated(str(run.section("task").get("name"))):
        return []
    if not choices.evaluate or run.status == "running":
        return [Text("The run is not evaluated here.", "note")]
    try:
        best, worst, num_images = look_at(trained)
    except Exception as error:  # of the run's data, model or weights, each of which may be gone
        logging.debug("best and worst", exc_info=True)
        kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
        return [Text(f"The run is not evaluated: {kind}{printable(one_line(error))}", "note")]
    names = trained.annotator.class_names
    by = (
        f"by panoptic quality: the sum of the IoUs of boxes of one class that meet at {MIN_IOU} or "
        f"more, of answers from {MIN_SCORE} on, over the mean number of boxes there and found"
        if isinstance(best[0].found, Detections)
        else "by the mean IoU of the classes that are there or found"
    )
    count = f"{num_images:,} images of {trained.run.data.eval_split} {by}."
    blocks: list[Block] = [Text(printable(f"The best of {count} Left what is there, right found."))]
    blocks.append(Pictures([picture(one, names) for one in best]))
    if worst:
        blocks += [Text("The worst."), Pictures([picture(one, names) for one in worst])]
    return blocks


def look_at(trained: TrainedRun) -> tuple[list[Looked], list[Looked], int]:
    """Looks at images of the evaluation split, evenly spaced.

    Returns:
        The best, the worst, each with the most extreme first and none in both, and how many images
        could be read. Of all others nothing is kept: together they may be gigabytes.
    """
    annotator, data = trained.annotator, trained.run.data
    numbers = np.arange(len(data.eval_source))
    source = evenly_spaced(data.eval_source, MOST_IMAGES)
    if len(source) < len(numbers):
        numbers = np.arange(len(source)) * len(numbers) // len(source)
    rows = annotator.rows(data.batches_of(source, lambda bad: None, data.form))
    ranked: list[Looked] = []
    count = 0
    for number, row in zip(numbers.tolist(), rows, strict=False):  # the rest is padding
        if not row["mask"]:
            continue
        height, width = real_size(row)
        image = as_channels(row["image"][:height, :width], 3)
        answer = compared(annotator, row, image.shape[:2])
        name = data.eval_source.describe(number)
        # Copies: these are views of a batch.
        ranked.append(Looked(number, name, image.copy(), *copy.deepcopy(answer)))
        ranked.sort(key=lambda one: -one.quality)
        del ranked[SHOWN:-SHOWN]
        count += 1
    if not ranked:
        raise ConfigError("no image of the split could be read")
    return ranked[:SHOWN], ranked[SHOWN:][::-1], count


def compared(
    annotator: Annotator, row: Mapping[str, Any], size: tuple[int, int]
) -> tuple[Any, Any, float]:
    """Returns truth and answer on an image of (height, width), and how well they agree."""
    found = row["found"]
    if not isinstance(found, dict):
        height, width = size
        truth, found = row["segments"][:height, :width], found[:height, :width]
        return truth, found, mean_iou(truth, found)
    truth, found = objects_of_row(row), annotator.answer(row)
    quality = panoptic_quality(truth, found)
    scale = np.tile(np.divide(size[::-1], row["size"][::-1]), 2)
    shown = Detections(truth.boxes * scale, np.ones(len(truth)), truth.labels)
    return shown, dataclasses.replace(found, boxes=found.boxes * scale), quality


def panoptic_quality(truth: Objects, found: Detections) -> float:
    """Returns the quality of the boxes found in an image, from 0 to 1.

    The most certain answer takes the box of its class that it meets best. Crowds, and answers that
    lie in them, count for nothing. 1 where nothing is and nothing is found.

    Reference: Kirillov et al., "Panoptic segmentation", arXiv 1801.00868, equation 3.
    """
    keep = found.scores >= MIN_SCORE
    boxes, labels = np.asarray(found.boxes)[keep], np.asarray(found.labels)[keep]
    free = [i for i in range(len(truth)) if not truth.is_crowd[i]]
    crowds = truth.boxes[truth.is_crowd]
    num_objects, num_answers, total, met = len(free), 0, 0.0, 0
    for box, label in zip(boxes, labels, strict=True):
        ious = {i: iou(box, truth.boxes[i]) for i in free if truth.labels[i] == label}
        best = max(ious, key=ious.get, default=None)
        if best is not None and ious[best] >= MIN_IOU:
            total, met = total + ious[best], met + 1
            free.remove(best)
        elif any(share_in(box, crowd) >= MIN_IOU for crowd in crowds):
            continue
        num_answers += 1
    return 2 * total / (num_objects + num_answers) if num_objects + num_answers else 1.0


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Returns intersection over union of two boxes of corners."""
    common = intersection(a, b)
    union = area(a) + area(b) - common
    return float(common / union) if union > 0 else 0.0


def share_in(a: np.ndarray, b: np.ndarray) -> float:
    """Returns which share of box a lies in box b."""
    return float(intersection(a, b) / area(a)) if area(a) > 0 else 0.0


def area(box: np.ndarray) -> float:
    """Returns the area of a box of corners."""
    return float(max(0, box[2] - box[0]) * max(0, box[3] - box[1]))


def intersection(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the area that two boxes share."""
    return area(np.concatenate([np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])]))


def mean_iou(truth: np.ndarray, found: np.ndarray) -> float:
    """Returns the mean IoU of the classes in either, without pixels that count for nothing.

    Args:
        truth: [h, w], with IGNORE.
        found: [h, w].

    Returns:
        1 if no pixel counts.
    """
    counts = truth != IGNORE
    truth, found = truth[counts], found[counts]
    classes = np.union1d(truth, found)
    ious = [
        ((truth == label) & (found == label)).sum() / ((truth == label) | (found == label)).sum()
        for label in classes
    ]
    return float(np.mean(ious)) if ious else 1.0


def picture(one: Looked, class_names: tuple[str, ...]) -> Picture:
    """Draws an image twice: with what is there, and with what was found."""
    if isinstance(one.found, Detections):
        pair = [
            draw_boxes(one.image, boxes, class_names, MIN_SCORE) for boxes in (one.truth, one.found)
        ]
    else:
        pair = [draw_segments(one.image, s, class_names) for s in (one.truth, one.found)]
    return Picture(
        images=[Image(data_uri(drawn)) for drawn in pair],
        size=pair[0].shape[:2],
        lines=[f"{one.quality:.2f}"],
        hint=f"{printable(one.name)} (number {one.number})",
        is_large=True,  # what is written in it has to be read
    )
