"""Average precision: COCO's own library on the same answers, and unusual images."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from data.annotations.annotated import objects_of
from data.annotations.average_precision import (
    METRICS,
    Detections,
    average_precision,
    in_pixels,
    objects_of_row,
)
from harness.errors import BadAnnotation

NAMES = ("cat", "dog", "owl")


def found(boxes=(), scores=(), labels=()):
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    return Detections(boxes, np.asarray(scores, float), np.asarray(labels, int))


def reference(truth, answers):
    """The same twelve numbers by pycocotools."""

    def side_form(boxes):
        return [[x, y, right - x, bottom - y] for x, y, right, bottom in boxes.tolist()]

    gold, given = [], []
    for image, (objects, answer) in enumerate(zip(truth, answers, strict=True), 1):
        for box, label, area, crowd in zip(
            side_form(objects.boxes), objects.labels, objects.areas, objects.is_crowd, strict=True
        ):
            row = {"id": len(gold) + 1, "image_id": image, "category_id": int(label)}
            gold.append(row | {"bbox": box, "area": float(area), "iscrowd": int(crowd)})
        rows = zip(side_form(answer.boxes), answer.labels, answer.scores, strict=True)
        for box, label, score in rows:
            row = {"id": len(given) + 1, "image_id": image, "category_id": int(label)}
            given.append(row | {"bbox": box, "score": score, "area": box[2] * box[3]})
    common = {
        "images": [{"id": image + 1} for image in range(len(truth))],
        "categories": [{"id": label} for label in range(len(NAMES))],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        sets = COCO(), COCO()
        for one, rows in zip(sets, (gold, given), strict=True):
            one.dataset = {**common, "annotations": [dict(iscrowd=0) | row for row in rows]}
            one.createIndex()
        evaluation = COCOeval(*sets, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def random_images(rng, num_images):
    truth, answers = [], []
    for _ in range(num_images):
        count = int(rng.integers(0, 6))
        corner, side = rng.uniform(-30, 200, (count, 2)), rng.uniform(4, 150, (count, 2))
        boxes = np.concatenate([corner, corner + side], axis=1)
        labels = rng.integers(0, 3, count)
        crowd = rng.random(count) < 0.2
        truth.append(objects_of(boxes, labels, side.prod(axis=1) * 0.8, crowd))
        near = np.repeat(truth[-1].boxes.astype(float), 3, axis=0)
        near += rng.normal(0, 6, near.shape)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        far = rng.uniform(0, 100, (4, 4))
        far[:, 2:] += far[:, :2]
        near_labels = np.where(rng.random(3 * count) < 0.8, np.repeat(labels, 3), 0)
        scores = np.round(rng.random(3 * count + 4), 2)  # with ties
        answers.append(found([*near, *far], scores, [*near_labels, *rng.integers(0, 3, 4)]))
    return truth, answers


@pytest.mark.parametrize("seed", range(5))
def test_equals_pycocotools(seed):
    truth, answers = random_images(np.random.default_rng(seed), 40)
    stats = average_precision(truth, answers, NAMES)
    expected = reference(truth, answers)
    np.testing.assert_allclose([stats[name] for name in METRICS], expected, rtol=0, atol=1e-12)
    assert 0.1 < stats["ap"] < 0.9
    assert np.mean([stats[f"ap_of/{name}"] for name in NAMES]) == pytest.approx(stats["ap"])


def test_more_than_a_hundred_answers():
    rng = np.random.default_rng(0)
    truth = [objects_of([(0, 0, 50, 50)], [1], [2500], [False])]
    boxes = np.concatenate([rng.uniform(0, 5, (130, 2)), rng.uniform(40, 60, (130, 2))], axis=1)
    answers = [found(boxes, rng.random(130), np.ones(130))]
    stats = average_precision(truth, answers, NAMES)
    np.testing.assert_allclose([stats[n] for n in METRICS], reference(truth, answers), atol=1e-12)


@pytest.mark.parametrize(("others", "expected"), [(1, 1.0), (2, 0.0)])
def test_a_hundred_answers_of_each_class_in_an_image_count(others, expected):
    """An owl is found by the 102nd answer: after 101 wrong ones of another class, or of its own."""
    truth = [objects_of([(0, 0, 50, 50)], [2], [2500], [False])]
    boxes = [(200, 200, 250, 250)] * 101 + [(0, 0, 50, 50)]
    answers = [found(boxes, np.linspace(1, 0.1, 102), [others] * 101 + [2])]
    stats = average_precision(truth, answers, NAMES)
    assert stats["ap_of/owl"] == pytest.approx(expected)
    np.testing.assert_allclose([stats[n] for n in METRICS], reference(truth, answers), atol=1e-12)


ONE = objects_of([(10, 10, 50, 50)], [1], [1600], [False])
RIGHT = found([(10, 10, 50, 50)], [0.9], [1])
UNUSUAL = {
    "no answers at all": ([ONE], [found()]),
    "no objects at all": ([objects_of()], [RIGHT]),
    "neither": ([objects_of()], [found()]),
    "an image without objects": ([ONE, objects_of()], [RIGHT, RIGHT]),
    "a box outside the image": (
        [objects_of([(-20, -20, 20, 20)], [1], [1600], [False])],
        [found([(-20, -20, 20, 20), (0, 0, 20, 20)], [0.5, 0.9], [1, 1])],
    ),
    "a crowd takes many": (
        [objects_of([(0, 0, 90, 90), (100, 0, 150, 50)], [1, 1], [8100, 2500], [True, False])],
        [found([(0, 0, 40, 40), (40, 40, 80, 80), (100, 0, 150, 50)], [0.9, 0.8, 0.7], [1] * 3)],
    ),
    "only a crowd": ([objects_of([(0, 0, 9, 9)], [1], [81], [True])], [RIGHT]),
    "a box without area": ([objects_of([(5, 5, 5, 9)], [1], [0], [False])], [RIGHT]),
}


@pytest.mark.parametrize("case", UNUSUAL)
def test_the_unusual_is_handled_as_coco_does(case):
    truth, answers = UNUSUAL[case]
    stats = average_precision(truth, answers, NAMES)
    expected = reference(truth, answers)
    np.testing.assert_allclose([stats[name] for name in METRICS], expected, atol=1e-12)


def test_known_values():
    assert average_precision([ONE], [RIGHT], NAMES)["ap"] == pytest.approx(1.0)
    assert average_precision([ONE], [found()], NAMES)["ap"] == 0
    assert average_precision([objects_of()], [RIGHT], NAMES)["ap"] == -1
    half = average_precision([ONE, ONE], [RIGHT, found()], NAMES)
    assert half["ar_1"] == 0.5 and half["ap_of/cat"] == -1 and half["ap_large"] == -1


def test_labels_and_numbers_that_cannot_be():
    for label in (-1, 3):
        with pytest.raises(ValueError, match=rf"image 0: an answer has the label {label}; allow"):
            average_precision([ONE], [found([(0, 0, 1, 1)], [0.5], [label])], NAMES)
    with pytest.raises(BadAnnotation, match="image 1: an object has the label 7; allowed: 0 to 2"):
        average_precision([ONE, objects_of([(0, 0, 1, 1)], [7], [1], [False])], [RIGHT] * 2, NAMES)
    for box, score in (((0, 0, 1, np.nan), 0.5), ((0, 0, 1, 1), np.inf)):
        with pytest.raises(ValueError, match="not finite"):
            average_precision([ONE], [found([box], [score], [1])], NAMES)


def test_rows_of_a_batch_become_objects():
    row = {
        "boxes": np.array([(0.5, 0.25, 0.2, 0.5), (0, 0, 0, 0)], np.float32),
        "labels": np.array([2, -1]),
        "area": np.array([77.0, 0]),
        "is_crowd": np.array([True, False]),
        "size": np.array([40, 200]),
    }
    objects = objects_of_row(row)
    np.testing.assert_allclose(objects.boxes, [(80, 0, 120, 20)], atol=1e-5)
    assert objects.labels.tolist() == [2] and objects.areas.tolist() == [77.0]
    assert objects.is_crowd.tolist() == [True]
    assert in_pixels(np.zeros((0, 4)), np.array([1, 1])).shape == (0, 4)
