"""Whether an explanation is faithful: deletion and insertion curves.

Pixels leave the image (deletion), or enter a blurred one (insertion), in the order of a map, the
largest first, and the class's probability is followed. A map that knows what the model looks at has
a small area under the first curve and a large one under the second; a random order is the floor.

Shape letters: b images, s steps, h and w sides of an image.

Reference: Petsiuk et al., "RISE", arXiv 1806.07421, section 4.3.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from data.boxed_images import BoxedImage, read_boxed_images
from data.sources.arrays import Source
from inference.localization_measures import floors
from inference.trained_classifier import TrainedClassifier

Fill = Literal["mean", "blurred"]
BLUR_SIGMA, BLUR_RADIUS = 5.0, 5  # pixels: RISE's kernel of 11 x 11
# Variables, normalised images [b, h, w, c] -> probabilities [b, num_classes].
Probabilities = Callable[[Mapping[str, Any], Array], Array]
# Variables, normalised images [b, h, w, c], classes [b], maps [b, h, w], a key -> the curves.
Curves = Callable[[Mapping[str, Any], Array, Array, Array, Array], dict[str, Array]]


def blur(images: Array) -> Array:
    """Blurs images [b, h, w, c] with a Gaussian of 5 pixels cut at 5; edges are repeated."""
    taps = jnp.exp(-0.5 * (jnp.arange(-BLUR_RADIUS, BLUR_RADIUS + 1) / BLUR_SIGMA) ** 2)
    taps /= taps.sum()
    for axis in (1, 2):
        length = images.shape[axis]
        widths = [(BLUR_RADIUS,) * 2 if a == axis else (0, 0) for a in range(4)]
        padded = jnp.pad(images, widths, mode="edge")
        images = sum(
            tap * jax.lax.slice_in_dim(padded, i, i + length, axis=axis)
            for i, tap in enumerate(taps)
        )
    return images


def ranks_of(maps: Array, key: Array) -> Array:
    """Returns the place of each pixel in the order of its map [b, h, w], 0 for the largest.

    Equal pixels come in a random order: from above left would favour an object that lies there.
    """
    flat = maps.reshape(len(maps), -1)
    order = jnp.lexsort((jax.random.uniform(key, flat.shape), -flat))
    return jnp.argsort(order, axis=-1).reshape(maps.shape)


def pixels_at(steps: int, num_pixels: int) -> np.ndarray:
    """Returns how many pixels are changed after each step, [s + 1], from none to all."""
    return np.rint(np.linspace(0, num_pixels, steps + 1)).astype(np.int32)


def create_curves(
    probabilities: Probabilities,
    image_size: tuple[int, int],
    *,
    steps: int = 32,
    deletion_fill: Fill = "mean",
    insertion_start: Fill = "blurred",
) -> Curves:
    """Returns a compiled function that computes both curves of a batch.

    Args:
        probabilities: of the model.
        image_size: (height, width).
        steps: points of a curve, less one.
        deletion_fill: what deleted pixels become: the data set's mean, which is 0 in a normalised
            image, or the blurred image.
        insertion_start: where insertion starts.

    Returns:
        `curves(variables, images, classes, maps, key) -> {"deletion": [b, s + 1], "insertion":
        [b, s + 1]}`: the probability of each image's class after each step. Costs 2 (s + 1) forward
        passes.

    Raises:
        ValueError: steps is not in 1 to the number of pixels.
    """
    num_pixels = image_size[0] * image_size[1]
    if not 1 <= steps <= num_pixels:
        raise ValueError(f"{steps=} must lie in 1 to {num_pixels}, the number of pixels")
    counts = jnp.asarray(pixels_at(steps, num_pixels))

    @jax.jit
    def curves(variables, images, classes, maps, key):
        ranks = ranks_of(maps, key)[..., None]
        fills = {"mean": jnp.zeros_like(images), "blurred": blur(images)}

        def follow(first, then):  # [b, h, w, c] both
            def probability(count):
                there = probabilities(variables, jnp.where(ranks < count, then, first))
                return jnp.take_along_axis(there, classes[:, None], axis=-1)[:, 0]  # [b]

            return jax.lax.map(probability, counts).T  # one step at a time: memory of a batch

        return {
            "deletion": follow(images, fills[deletion_fill]),
            "insertion": follow(fills[insertion_start], images),
        }

    return curves


def area(curves: np.ndarray, num_pixels: int) -> np.ndarray:
    """Returns the area under curves [..., s + 1] over shares of the pixels, by trapeziums."""
    steps = curves.shape[-1] - 1
    return np.trapezoid(curves, pixels_at(steps, num_pixels) / num_pixels)


def score_faithfulness(
    classifier: TrainedClassifier,
    methods: Iterable[str],
    source: Source,
    split: str,
    *,
    steps: int = 32,
    deletion_fill: Fill = "mean",
    insertion_start: Fill = "blurred",
    seed: int = 0,
) -> dict[str, Any]:
    """Measures deletion and insertion, see above, for the labels of each image.

    Args:
        classifier: the model.
        methods: of inference/explain.py.
        source: of labelled images; every label of an image is one question.
        split: its name, for the protocol.
        steps, deletion_fill, insertion_start: as create_curves takes them.
        seed: of the random map and the order of equal pixels.

    Returns:
        Method -> "deletion" and "insertion", the areas under the mean curves, "deletion_curve" and
        "insertion_curve", which have steps + 1 points; and "protocol".

    Raises:
        ValueError: a method does not fit the model, or no image can be read.
    """
    size = classifier.image_size
    looks = {name: classifier.maps(name) for name in methods}
    looks["random"] = floors(size, seed)["random"].look

    def probabilities(variables, images):
        return classifier.probabilities(classifier.model.apply(variables, images, train=False))

    curves = create_curves(
        probabilities,
        size,
        steps=steps,
        deletion_fill=deletion_fill,
        insertion_start=insertion_start,
    )
    key = jax.random.key(seed)
    as_model_input = classifier.look(lambda variables, images, classes: images)
    sums = {name: {"deletion": 0.0, "insertion": 0.0} for name in looks}
    count = 0
    questions = _labelled(read_boxed_images(classifier.data, source))
    while batch := list(itertools.islice(questions, classifier.batch_size)):
        padded = [*batch, *[batch[-1]] * (classifier.batch_size - len(batch))]
        images = np.stack([image for image, _ in padded])
        classes = np.array([label for _, label in padded], np.int32)
        normal = as_model_input(images, classes)
        own = jax.random.fold_in(key, count)
        count += len(batch)
        for name, look in looks.items():
            maps = jnp.asarray(look(images, classes))
            classes_and_maps = classifier.on_devices(classes, maps)
            followed = curves(classifier.variables, normal, *classes_and_maps, own)
            for kind, rows in followed.items():
                sums[name][kind] += np.asarray(rows, np.float64)[: len(batch)].sum(0)
    if not count:
        raise ValueError(f"no image of {classifier.data.name} {split} can be read")
    found: dict[str, Any] = {}
    for name, both in sums.items():
        means = {kind: total / count for kind, total in both.items()}
        areas = {kind: float(area(curve, size[0] * size[1])) for kind, curve in means.items()}
        points = {f"{kind}_curve": curve.round(4).tolist() for kind, curve in means.items()}
        found[name] = areas | points
    protocol = {
        "split": split,
        "questions": count,
        "classes": "the labels",
        "steps": steps,
        "deletion_fill": deletion_fill,
        "insertion_start": insertion_start,
        "blur": f"Gaussian of {BLUR_SIGMA} pixels, cut at {BLUR_RADIUS}",
        "seed": seed,
        "weights": classifier.weights,
    }
    return found | {"protocol": protocol}


def _labelled(images: Iterable[BoxedImage | None]) -> Iterable[tuple[np.ndarray, int]]:
    for image in images:
        for label in image.labels if image else ():
            yield image.image, label
