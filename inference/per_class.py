"""Which classes a classifier gets right, which it takes for which, and whether it knows how sure.

Arithmetic on what it answered about each image of a split (inference/answers.py): NumPy alone.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

NUM_BINS = 15  # of the confidence, as Guo et al. have


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a classifier answers about each image of a split, once each, in the split's order.

    Attributes:
        indices: [n], of the images in the split's source; those that cannot be read are left out.
        truth: [m, 2], row and label of each class that an image has, in rising order.
        named: [k, 2], the same of the classes that it is said to have: its likeliest; with several
            labels an image, as many of the likeliest as it has, the likeliest first.
        likeliest: [n], the likeliest class; of equals the lower label.
        confidence: [n], the probability of the likeliest class.
        probability: [n], that of the image's class; of several the smallest, of none NaN.
        rank: [n], how many classes come before the image's; None with several labels an image.
        scores: [n, num_classes], logits, with several labels an image; None otherwise.
        labels: the classes that an answer can be, in rising order.
    """

    indices: np.ndarray
    truth: np.ndarray
    named: np.ndarray
    likeliest: np.ndarray
    confidence: np.ndarray
    probability: np.ndarray
    labels: np.ndarray
    rank: np.ndarray | None = None
    scores: np.ndarray | None = None

    @property
    def num_truths(self) -> np.ndarray:
        """Number of classes of each image, [n]."""
        return np.bincount(self.truth[:, 0], minlength=len(self.indices))

    @property
    def num_right(self) -> np.ndarray:
        """Number of its classes that are named, of each image, [n]."""
        return np.bincount(_common(self.truth, self.named)[:, 0], minlength=len(self.indices))

    @property
    def is_right(self) -> np.ndarray:
        """Whether all of an image's classes are named, [n]; True for an image without a class."""
        return self.num_right == self.num_truths

    @property
    def is_first(self) -> np.ndarray:
        """Whether the likeliest class is one of the image's, [n]."""
        first = np.stack([np.arange(len(self.indices)), self.likeliest], axis=1)
        return np.bincount(_common(self.truth, first)[:, 0], minlength=len(self.indices)) > 0

    def classes_of(self, pairs: np.ndarray) -> list[list[int]]:
        """Returns the labels in `truth` or `named`, image by image."""
        labels: list[list[int]] = [[] for _ in self.indices]
        for row, label in pairs.tolist():
            labels[row].append(label)
        return labels


def _keys(pairs: np.ndarray) -> np.ndarray:
    """Returns pairs of small numbers as single ones, which sort a hundred times as fast."""
    return (pairs[:, 0] << 32) + pairs[:, 1]


def _pairs(keys: np.ndarray) -> np.ndarray:
    return np.stack([keys >> 32, keys & (2**32 - 1)], axis=1)


def _common(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the rows that two arrays [m, 2] of different rows each have in common, sorted."""
    return _pairs(np.intersect1d(_keys(first), _keys(second), assume_unique=True))


def _without(pairs: np.ndarray, taken: np.ndarray) -> np.ndarray:
    return _pairs(np.setdiff1d(_keys(pairs), _keys(taken), assume_unique=True))


def confusions(answers: Answers) -> np.ndarray:
    """Counts what was taken for what: [entries, 3] of class, class named and count, above zero.

    With several labels an image, a class that is not named was taken for each of those that are
    named wrongly.
    """
    right = _common(answers.truth, answers.named)
    missed, wrong = (
        answers.classes_of(_without(pairs, right)) for pairs in (answers.truth, answers.named)
    )
    pairs = [
        (label, other)
        for labels, others in zip(missed, wrong, strict=True)
        for label in labels
        for other in others
    ]
    pairs = np.concatenate([right[:, [1, 1]], np.array(pairs, np.int64).reshape(-1, 2)])
    keys, counts = np.unique(_keys(pairs), return_counts=True)
    return np.concatenate([_pairs(keys), counts[:, None]], axis=1)


def class_rows(answers: Answers, names: Sequence[str] | None) -> list[dict[str, Any]]:
    """Returns the numbers of each class that an answer can be.

    Args:
        answers: of a classifier.
        names: of all its classes, if known.

    Returns:
        For each class: label, name; count: images that have it; named: images said to have it;
        recall: share of the former that are said to have it, which is the class's accuracy;
        precision: share of the latter that have it; f1: their harmonic mean; top5_accuracy, of
        more than five classes, or average_precision with several labels an image; confused_with:
        the class most often named in its place, its name, and how often. None stands for a share of
        nothing.
    """
    size = int(answers.labels.max(initial=-1)) + 1
    count = np.bincount(answers.truth[:, 1], minlength=size)
    named = np.bincount(answers.named[:, 1], minlength=size)
    right = np.bincount(_common(answers.truth, answers.named)[:, 1], minlength=size)
    most: dict[int, tuple[int, int]] = {}  # class -> the one it is taken for, how often
    for label, other, times in confusions(answers).tolist():
        if label != other and times > most.get(label, (0, 0))[1]:
            most[label] = (other, times)
    if answers.rank is not None:
        top5 = np.bincount(answers.truth[answers.rank < 5, 1], minlength=size)
    rows = []
    for label in answers.labels.tolist():
        other, times = most.get(label, (None, 0))
        if answers.rank is not None:
            more = {"top5_accuracy": _share(top5[label], count[label])}
            more = more if len(answers.labels) > 5 else {}
        else:
            rows_of_class = answers.truth[answers.truth[:, 1] == label, 0]
            has_it = np.zeros(len(answers.indices), bool)
            has_it[rows_of_class] = True
            more = {"average_precision": average_precision(answers.scores[:, label], has_it)}
        rows.append(
            {
                "label": label,
                "name": names[label] if names else None,
                "count": int(count[label]),
                "named": int(named[label]),
                "recall": _share(right[label], count[label]),
                "precision": _share(right[label], named[label]),
                "f1": _share(2 * right[label], count[label] + named[label]),
                **more,
                "confused_with": other,
                "confused_with_name": names[other] if names and other is not None else None,
                "confused_count": times,
            }
        )
    return rows


def average_precision(scores: np.ndarray, has_it: np.ndarray) -> float | None:
    """Returns the area under precision over recall, as a sum of steps; None without an example.

    Args:
        scores: [n], larger where the class is likelier; equal ones count as one step.
        has_it: [n] bool, whether the image has the class.

    Reference: sklearn.metrics.average_precision_score.
    """
    if not has_it.any():
        return None
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(has_it[order])
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # of equal scores
    steps = np.diff(np.concatenate([[0], found[last]]))
    return float((steps * found[last] / (last + 1)).sum() / has_it.sum())


def calibration(confidence: np.ndarray, is_right: np.ndarray, num_bins: int = NUM_BINS) -> dict:
    """Compares confidence with accuracy, in bins of equal width.

    Args:
        confidence: [n], of the likeliest class; those that are not finite are left out.
        is_right: [n] bool, whether it is the image's.
        num_bins: of (0, 1], each with its upper end.

    Returns:
        "bins", each with low, high, count, confidence and accuracy (means, None if empty);
        "expected_calibration_error", the mean over images of their bin's |accuracy - confidence|;
        "maximum_calibration_error", the largest one of any bin.

    Reference: Guo et al., "On Calibration of Modern Neural Networks", arXiv 1706.04599.
    """
    finite = np.isfinite(confidence)
    confidence, is_right = confidence[finite].astype(np.float64), is_right[finite]
    edges = np.linspace(0, 1, num_bins + 1)
    places = np.searchsorted(edges[1:-1], confidence, side="left")
    counts = np.bincount(places, minlength=num_bins)
    sums = (np.bincount(places, values, minlength=num_bins) for values in (confidence, is_right))
    bins = [
        {"low": low, "high": high, "count": count}
        | {"confidence": _share(sure, count), "accuracy": _share(right, count)}
        for low, high, count, sure, right in zip(
            edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), *sums, strict=True
        )
    ]
    gaps = [abs(b["accuracy"] - b["confidence"]) if b["count"] else 0.0 for b in bins]
    total = len(confidence)
    expected = math.fsum(b["count"] * gap for b, gap in zip(bins, gaps, strict=True))
    return {
        "bins": bins,
        "expected_calibration_error": expected / total if total else None,
        "maximum_calibration_error": max(gaps) if total else None,
    }


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def per_class(
    answers: Answers, names: Sequence[str] | None, *, is_probability: bool = True
) -> dict[str, Any]:
    """Returns all numbers of this file, ready for JSON.

    Args:
        answers: of a classifier.
        names: of all its classes, if known.
        is_probability: whether the likeliest class's share is meant to be how probable it is. Not
            so of softmax with several labels an image, whose classes share one.

    Returns:
        num_examples, mean_recall over the classes that have examples, "classes" (see `class_rows`),
        "confusions" (see `confusions`) and "calibration", None unless `is_probability`.
    """
    rows = class_rows(answers, names)
    recalls = [row["recall"] for row in rows if row["recall"] is not None]
    return {
        "num_examples": len(answers.indices),
        "mean_recall": math.fsum(recalls) / len(recalls) if recalls else None,
        "classes": rows,
        "confusions": confusions(answers).tolist(),
        "calibration": calibration(answers.confidence, answers.is_first)
        if is_probability
        else None,
    }
