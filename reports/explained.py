"""Pictures of what speaks for an answer, by the methods that fit the model."""

from collections.abc import Sequence

import matplotlib
import numpy as np

from harness.errors import printable
from inference.explain import auto_method, check_method, methods_of
from inference.pictures.overlay import TITLES
from inference.pictures.style import COLOURS, SEQUENTIAL, to_unit
from reports.class_figures import answer_lines, shrunk
from reports.evaluation import Evaluation, Prediction, TrainedRun
from reports.page import Image, Picture, Pictures, data_uri

NUM_IMAGES = 6


def chosen_methods(trained: TrainedRun, wanted: str) -> tuple[str, ...]:
    """Returns the methods that a flag asks for.

    Args:
        trained: a classifier.
        wanted: "none", "all" that fit, methods of inference/explain.py joined by commas, or "auto":
            GradCAT for NesT, Grad-CAM for all others.

    Raises:
        ValueError: a method does not fit the model.
    """
    model, size = trained.run.task.model, trained.run.data.height_and_width
    if wanted == "none":
        return ()
    if wanted == "auto":
        return (auto_method(model, size),) if methods_of(model, size) else ()
    if wanted == "all":
        return methods_of(model, size)
    names = tuple(name.strip() for name in wanted.split(","))
    for name in names:
        check_method(name, model, size)
    return names


def chosen_images(evaluation: Evaluation, count: int = NUM_IMAGES) -> list[Prediction]:
    """Returns images to explain: the surest mistakes, at most half, then right ones."""
    wrong = evaluation.mistakes(count // 2)
    right = [one for one in evaluation.predictions if one.is_right and one.named]
    left = min(count - len(wrong), len(right))
    return wrong + [right[(2 * i + 1) * len(right) // (2 * left)] for i in range(left)]


def explained_pictures(
    evaluation: Evaluation, trained: TrainedRun, methods: Sequence[str], chosen: list[Prediction]
) -> Pictures:
    """Shows images next to what speaks for the answer, and of mistakes for their own class."""
    images, count = trained.images([one.index for one in chosen]), len(chosen)
    said = [one.named[0] for one in chosen]
    own = [one.labels[0] if len(one.labels) == 1 else one.named[0] for one in chosen]
    # All at once, said before own: another number of images would compile again.
    devices = trained.run.mesh.size
    padded = -(-2 * count // devices) * devices
    both = np.resize(np.concatenate([images, images]), (padded, *images.shape[1:]))
    classes = np.resize(np.array(said + own), padded)
    maps = {name: np.asarray(trained.classifier.maps(name)(both, classes)) for name in methods}
    ways = {}
    if "gradcat" in methods:
        ways["gradcat"] = np.asarray(trained.classifier.path()(both, classes))
    scale = shrunk(images[0]).shape[0] / images.shape[1]

    def shown(i: int, method: str, row: int) -> Image:
        name = printable(evaluation.names[int(classes[row])])
        title = f"{TITLES[method]}, for {name}" if method != "rollout" else TITLES[method]
        boxes = [
            (*(float(side) * scale for side in box), COLOURS[step % len(COLOURS)])
            for step, box in enumerate(ways[method][row] if method in ways else ())
        ]
        return Image(data_uri(shrunk(overlaid(images[i], maps[method][row]))), title, boxes)

    pictures = []
    for i, one in enumerate(chosen):
        row = [Image(data_uri(shrunk(images[i])), "image")]
        for method in methods:
            row.append(shown(i, method, i))
            if said[i] != own[i] and method != "rollout":  # which does not depend on the class
                row.append(shown(i, method, count + i))
        size, hint = shrunk(images[i]).shape[:2], f"{printable(one.image)} (number {one.index})"
        pictures.append(Picture(row, size, answer_lines(evaluation, one), hint))
    return Pictures(pictures)


def overlaid(image: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """Returns a grey copy of an image, in the colours of what speaks for a class.

    Args:
        image: uint8 [h, w, c].
        saliency: [h, w].
    """
    grey = image.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    colours = matplotlib.colormaps[SEQUENTIAL](to_unit(saliency))[..., :3] * 255
    return (0.45 * grey + 0.55 * colours).round().astype(np.uint8)
