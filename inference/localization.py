"""Weakly supervised localisation of a trained classifier over a split, with its protocol."""

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from data import splits
from data.boxed_images import read_boxed_images
from data.selection import evenly_spaced
from data.sources.arrays import Source
from inference import localization_measures as measures
from inference import quadrants
from inference.localization_measures import Method, Question
from inference.trained_classifier import TrainedClassifier
from nest.gradcat import RULES
from nest.model import Nest

DEFAULT_STEPS = 2  # of a mosaic's way, for models without levels: 16 blocks
NUM_CHOOSING = 200  # images of the training split on which thresholds are chosen


def score_localization(
    classifier: TrainedClassifier,
    methods: Iterable[str],
    source: Source,
    split: str,
    choosing_split: str | None = None,
    *,
    tolerance: float | None = None,
) -> dict[str, Any]:
    """Measures weakly supervised localisation; in mosaics of four images the way, too.

    Args:
        classifier: the model.
        methods: of inference/explain.py.
        source: of images with boxes.
        split: its name, for the protocol.
        choosing_split: images with boxes on which thresholds are chosen; None: some of the training
            split if it has boxes, else the thresholds are conventions.
        tolerance: of the pointing game in pixels; None: 15 for images of 224 pixels.

    Returns:
        Method -> measure -> number, see localization_measures.py and quadrants.py, and "protocol".

    Raises:
        ValueError: a method does not fit the model, or there are no boxes.
    """
    size = classifier.image_size
    if not hasattr(source, "boxes"):
        name = classifier.data.name
        raise ValueError(f"{name} has no boxes in {split}; docs/data.md has their forms")
    tolerance = measures.POINTING_TOLERANCE * min(size) if tolerance is None else tolerance
    rows = {name: Method(classifier.maps(name)) for name in methods}
    steps = DEFAULT_STEPS
    if isinstance(classifier.model, Nest):
        steps = len(classifier.model.dims) - 1
    if "gradcat" in rows:
        rows["gradcat_path"] = measures.path_method(classifier.path(), steps, size)
    rows |= measures.floors(size)
    ask = functools.partial(
        measures.answers,
        batch_size=classifier.batch_size,
        tolerance=tolerance,
        logits=classifier.logits,
    )
    chosen, chosen_on = _choose(classifier, rows, ask, choosing_split)
    counts: dict[str, int] = {}
    questions = measures.questions_of(read_boxed_images(classifier.data, source), counts)
    first = list(itertools.islice(questions, 16))
    if not first:
        raise ValueError(f"no image of {classifier.data.name} {split} has a box in the crop")
    questions, also, chances = itertools.chain(first, questions), lambda question, map_: {}, []
    is_mosaic = all(quadrants.quadrants_of(question) is not None for question in first)
    if is_mosaic:
        also = functools.partial(quadrants.measure_way, steps=steps)
        questions = _noting(questions, functools.partial(quadrants.chance, steps=steps), chances)
        if "gradcat" in rows:
            rows |= _rules(classifier, steps)
    chosen = {name: chosen.get(name, method.default) for name, method in rows.items()}
    settings = {name: (value,) for name, value in chosen.items()}
    answered = ask(rows, settings, questions, also=also)
    found = {
        name: numbers | ({rows[name].setting: chosen[name]} if rows[name].setting else {})
        for name, numbers in measures.summarize(answered).items()
    }
    if is_mosaic:
        found["chance"] = {name: float(np.mean([c[name] for c in chances])) for name in chances[0]}
    data = classifier.data
    protocol = {
        "split": split,
        **counts,
        "questions": len(answered["labels"]),
        "classes": len(np.unique(answered["labels"])),
        "iou": measures.IOU,
        "settings_from": chosen_on,
        "maps": f"resized linearly to {size[0]} x {size[1]} pixels, scaled to 0..1",
        "connected": 8,
        "pointing_tolerance": round(tolerance, 3),
        "crop_ratio": data.eval_crop_ratio,
        "crop_interpolation": data.eval_crop_interpolation,
        "exif_orientation": data.exif_orientation,
        "weights": classifier.weights,
    } | ({"way_steps": steps} if is_mosaic else {})
    return found | {"protocol": protocol}


def _rules(classifier: TrainedClassifier, steps: int) -> dict[str, Method]:
    """Returns GradCAT's path by each of its rules and signs, to compare in mosaics."""
    return {
        f"gradcat_path[{rule},{sign:+d}]": measures.path_method(
            classifier.path(rule=rule, sign=sign), steps, classifier.image_size
        )
        for rule in RULES
        for sign in (1, -1)
    }


def _noting(
    questions: Iterable[Question], measure: Callable[[Question], Any], notes: list
) -> Iterable[Question]:
    for question in questions:
        notes.append(measure(question))
        yield question


def _choose(
    classifier: TrainedClassifier,
    rows: Mapping[str, Method],
    ask: Callable[..., Any],
    split: str | None,
) -> tuple[dict[str, float], str]:
    """Returns the setting of each method that is best on other images, and which images."""
    data = classifier.data
    conventions = "conventions: no other images with boxes"
    name = split or data.train_split
    try:
        source = splits.load_source(data.dataset, name, data.height_and_width)
    except ValueError as error:
        if split:
            raise ValueError(f"split {split!r}: {error}") from None
        return {}, conventions
    if not split:
        source = evenly_spaced(source, NUM_CHOOSING)
    counts: dict[str, int] = {}
    settings = {name: method.settings for name, method in rows.items()}
    images = read_boxed_images(data, source) if hasattr(source, "boxes") else ()
    answered = ask(rows, settings, measures.questions_of(images, counts))
    if not len(answered["labels"]):
        if split:
            raise ValueError(f"no image of {split!r} has a box")
        return {}, conventions
    chosen = measures.choose(answered, settings)
    seen = ", on which the model was trained" if not split else ""
    return chosen, f"the fewest wrong boxes on {counts['images']} images of {name}{seen}"
