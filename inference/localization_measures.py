"""Weakly supervised localisation: whether explanations lie where the objects are.

A question is an image and a class that has boxes in it. A method answers with a map, or with a box
for each of several settings (thresholds of a map, steps of GradCAT's path), of which one is chosen
on other images. The measures:

gt_known_error   share of questions whose box has less than half of intersection over union with
                 every box of the class (the class is given)
top1_error       share of questions for which that is so, or the class is not among the n classes
                 with the largest logits, where n is the number of classes with boxes in the image
pointing_game    share of maps whose maximum lies in a box of the class, or no more pixels away than
                 the tolerance; mean over the classes (Zhang et al., arXiv 1608.00507)

Whole image, centre box and random map are the floor: they look at nothing.

Shape letters: q questions, k settings, m boxes of a class, h and w sides of an image.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from data.boxed_images import BoxedImage
from inference.trained_classifier import Look

IOU = 0.5
POINTING_TOLERANCE = 15 / 224  # of the image's shorter side: 15 pixels in the paper
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))
CONVENTION = 0.2  # the threshold of CAM's authors, where there is nothing to choose one on
CENTER_SIDES = tuple(round(0.1 * i, 1) for i in range(3, 11))


@dataclasses.dataclass(frozen=True)
class Question:
    """An image and a class that is to be found in it.

    Attributes:
        image: uint8 [h, w, c], as the model takes it.
        label: the class.
        boxes: of the class, [m, 4], (top, left, bottom, right) in pixels.
        num_classes: number of different classes that have boxes in the image.
    """

    image: np.ndarray
    label: int
    boxes: np.ndarray
    num_classes: int


@dataclasses.dataclass(frozen=True)
class Method:
    """What answers questions.

    Attributes:
        look: what it says about images and classes: maps [b, h, w], or something else.
        setting: name of what is chosen on other images, "" if there is nothing to choose.
        settings: to choose from.
        default: the setting where there are no other images.
        box: of one image's part of what `look` returns and a setting, [4], pixels; None: that of
            the thresholded map.
        map_of: of one image's part, the map [h, w].
    """

    look: Look
    setting: str = "threshold"
    settings: tuple[float, ...] = THRESHOLDS
    default: float = CONVENTION
    box: Callable[[np.ndarray, float], np.ndarray] | None = None
    map_of: Callable[[np.ndarray], np.ndarray] = lambda found: found


def questions_of(images: Iterable[BoxedImage | None], counts: dict[str, int]) -> Iterator[Question]:
    """Yields the questions of images, one per class; counts images, those without boxes and so on.

    Args:
        images: in any number; None for one that cannot be read.
        counts: is filled.
    """
    counts |= dict.fromkeys(("images", "images_without_boxes", "unreadable_images"), 0)
    for image in images:
        if image is None:
            counts["unreadable_images"] += 1
            continue
        counts["images" if len(image.boxes) else "images_without_boxes"] += 1
        height, width = image.image.shape[:2]
        labels = np.unique(image.boxes[:, 0].astype(int)).tolist()
        for label in labels:
            own = image.boxes[image.boxes[:, 0] == label, 1:]
            yield Question(image.image, label, own * ([height, width] * 2), len(labels))


def overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns intersection over union of boxes [k, 4] with other boxes [m, 4], as [k, m]."""
    a, b = boxes[:, None], others[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    both = np.clip(sides, 0, None).prod(-1)
    areas = [(x[..., 2:] - x[..., :2]).prod(-1) for x in (a, b)]
    return both / np.maximum(areas[0] + areas[1] - both, np.finfo(np.float64).tiny)


def box_of_map(map_: np.ndarray, threshold: float) -> np.ndarray:
    """Returns the box of the largest connected part of a map that is above a threshold.

    Args:
        map_: [h, w].
        threshold: 0 is the map's lowest value, 1 its largest.

    Returns:
        [4], (top, left, bottom, right) in pixels, ends exclusive. Pixels touch at corners, too; of
        a map of one value it is the whole image.

    Reference: Zhou et al., arXiv 1512.04150, section 3.2.
    """
    low, high = float(map_.min()), float(map_.max())
    above = (map_ >= low + threshold * (high - low)).astype(np.uint8)
    above |= map_ == high  # rounding must not lose the maximum
    _, _, parts, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    left, top, width, height, _ = parts[1 + np.argmax(parts[1:, cv2.CC_STAT_AREA])]
    return np.array([top, left, top + height, left + width])


def pointing(map_: np.ndarray, boxes: np.ndarray, tolerance: float) -> float:
    """Returns 1 if the maximum of a map [h, w] lies in one of the boxes [m, 4], 0 if not.

    Of several maxima it is the share of them that do: the mean over ways to choose one.

    Args:
        map_: its maximum is taken at the centre of its pixel.
        boxes: in pixels.
        tolerance: how many pixels away from a box still counts.
    """
    points = np.argwhere(map_ == map_.max())[:, None] + 0.5  # [n, 1, 2]
    outside = np.maximum(boxes[None, :, :2] - points, points - boxes[None, :, 2:])
    distance = np.linalg.norm(np.clip(outside, 0, None), axis=-1)  # [n, m]
    return float((distance.min(-1) <= tolerance).mean())


def floors(image_size: tuple[int, int], seed: int = 0) -> dict[str, Method]:
    """Returns the methods that look at nothing: whole image, centre box and random map."""
    height, width = image_size
    rows, columns = (np.abs(np.arange(side) + 0.5 - side / 2) for side in image_size)
    centre = -np.hypot(rows[:, None], columns)
    rng = np.random.default_rng(seed)

    def centre_box(_, side: float) -> np.ndarray:
        cut = (1 - side) / 2
        return np.array([cut * height, cut * width, (1 - cut) * height, (1 - cut) * width])

    nothing = {"look": lambda images, classes: np.zeros(len(images)), "box": centre_box}
    one = nothing | {"setting": "", "settings": (1.0,), "default": 1.0}
    return {
        "whole_image": Method(**one, map_of=lambda _: np.zeros(image_size)),
        "center_box": Method(
            **nothing, setting="side", settings=CENTER_SIDES, default=0.7, map_of=lambda _: centre
        ),
        "random": Method(lambda images, classes: rng.random((len(images), *image_size))),
    }


def path_method(look: Look, steps: int, image_size: tuple[int, int]) -> Method:
    """Returns the method whose boxes are the blocks of GradCAT's path.

    Args:
        look: images and classes -> boxes [b, steps, 4].
        steps: of the path.
        image_size: (height, width); the map is 1 on the last block and 0 elsewhere.
    """

    def last_block(path: np.ndarray) -> np.ndarray:
        map_ = np.zeros(image_size)
        top, left, bottom, right = path[-1]
        map_[top:bottom, left:right] = 1
        return map_

    numbers = tuple(range(1, steps + 1))
    return Method(look, "step", numbers, 1, lambda path, step: path[step - 1], last_block)


def answers(
    methods: Mapping[str, Method],
    settings: Mapping[str, Sequence[float]],
    questions: Iterable[Question],
    batch_size: int,
    tolerance: float,
    logits: Callable[[np.ndarray], np.ndarray],
    also: Callable[[Question, np.ndarray], dict[str, float]] = lambda question, map_: {},
) -> dict[str, Any]:
    """Asks all methods all questions.

    Args:
        methods: name -> method.
        settings: name -> those to try.
        questions: any number.
        batch_size: questions at a time; the last batch is padded.
        tolerance: of the pointing game, pixels.
        logits: uint8 images [b, h, w, c] -> [b, num_classes].
        also: further measures of a question and a map.

    Returns:
        "labels" [q], "named" [q] (whether the class is among the likeliest), and "methods": name ->
        {"hits": [q, k], "pointing": [q], and what `also` returns: [q] each}.
    """
    labels, named = [], []
    rows: dict[str, list[dict]] = {name: [] for name in methods}
    questions = iter(questions)
    while batch := list(itertools.islice(questions, batch_size)):
        padded = [*batch, *[batch[-1]] * (batch_size - len(batch))]
        images = np.stack([question.image for question in padded])
        classes = np.array([question.label for question in padded], np.int32)
        labels += classes[: len(batch)].tolist()
        for question, row in zip(batch, np.asarray(logits(images)), strict=False):
            best = np.argsort(-row, kind="stable")[: question.num_classes]
            named.append(question.label in best)
        for name, method in methods.items():
            found = np.asarray(method.look(images, classes))
            for question, one in zip(batch, found, strict=False):
                box = method.box or box_of_map
                boxes = np.stack([box(one, setting) for setting in settings[name]])
                map_ = method.map_of(one)
                rows[name].append(
                    {
                        "hits": overlap(boxes, question.boxes).max(-1) >= IOU,
                        "pointing": pointing(map_, question.boxes, tolerance),
                    }
                    | also(question, map_)
                )
    columns = {
        name: {key: np.array([row[key] for row in found]) for key in (found[0] if found else ())}
        for name, found in rows.items()
    }
    return {"labels": np.array(labels), "named": np.array(named), "methods": columns}


def choose(answered: Mapping[str, Any], settings: Mapping[str, Sequence[float]]) -> dict:
    """Returns for each method the setting with the fewest wrong boxes; of equals the first."""
    return {
        name: settings[name][int(np.argmax(columns["hits"].mean(0)))]
        for name, columns in answered["methods"].items()
    }


def summarize(answered: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Returns the measures of each method, for one setting each; the names are those above."""
    labels = answered["labels"]
    found = {}
    for name, columns in answered["methods"].items():
        hits, points = columns["hits"][:, 0], columns["pointing"]
        by_class = [points[labels == label].mean() for label in np.unique(labels)]
        others = columns.keys() - {"hits", "pointing"}
        found[name] = {
            "top1_error": float(1 - (hits & answered["named"]).mean()),
            "gt_known_error": float(1 - hits.mean()),
            "pointing_game": float(np.mean(by_class)),
        } | {key: float(columns[key].mean()) for key in sorted(others)}
    return found
