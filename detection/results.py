"""What is read from predictions: scored boxes in pixels.

Shape letters: b batch, q predictions, k logits, m results.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from detection.boxes import corners
from detection.losses import Classes


class Results(NamedTuple):
    """Objects that were found, the most certain first.

    Attributes:
        scores: [b, m], 0 to 1.
        labels: [b, m] int32, from 0.
        boxes: [b, m, 4], (x1, y1, x2, y2) in pixels of the image as it is stored.
    """

    scores: Array
    labels: Array
    boxes: Array


def results_of(
    logits: Array,
    boxes: Array,
    size: Array,
    is_query: Array | None = None,
    *,
    classes: Classes,
    most: int = 100,
) -> Results:
    """Returns the objects that were found; every prediction counts, however uncertain.

    Args:
        logits: [b, q, k].
        boxes: [b, q, 4], (cx, cy, w, h) in shares of the image.
        size: [b, 2], height and width of the images as they are stored, pixels.
        is_query: [b, q], False for predictions that count for nothing: their score is 0.
        classes: see losses.class_loss. "softmax": a prediction is of its likeliest class. Others:
            the best pairs of prediction and class, so that one prediction may be of several.
        most: number of results; COCO counts 100. There are no more than pairs.

    Reference:
        PostProcess of the official models/detr.py, and of models/deformable_detr.py.
    """
    is_softmax = classes == "softmax"
    of_classes = jax.nn.softmax(logits)[..., :-1] if is_softmax else jax.nn.sigmoid(logits)
    if is_query is not None:
        of_classes = jnp.where(is_query[..., None], of_classes, 0)
    if is_softmax:
        scores, labels = of_classes.max(axis=-1), of_classes.argmax(axis=-1)  # [b, q]
        scores, queries = jax.lax.top_k(scores, min(most, scores.shape[-1]))  # [b, m]
        labels = jnp.take_along_axis(labels, queries, axis=-1)
    else:
        pairs = of_classes.reshape(len(logits), -1)  # [b, q * k]
        scores, chosen = jax.lax.top_k(pairs, min(most, pairs.shape[-1]))  # [b, m]
        queries, labels = jnp.divmod(chosen, logits.shape[-1])
    boxes = jnp.take_along_axis(corners(boxes), queries[..., None], axis=1)  # [b, m, 4]
    pixels = jnp.tile(size[:, None, ::-1].astype(jnp.float32), 2)  # [b, 1, 4]
    return Results(scores, labels.astype(jnp.int32), boxes * pixels)
