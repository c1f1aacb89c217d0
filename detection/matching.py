"""Which prediction stands for which object: the assignment of least cost, inside the compiled step.

Shape letters: b batch, q predictions, o objects of an image with padding, k logits.
"""

import jax
import jax.numpy as jnp
from jax import Array
from optax.assignment import hungarian_algorithm

from detection.boxes import corners, generalized_iou
from detection.losses import FOCAL_ALPHA, FOCAL_GAMMA, Classes


def match(costs: Array, is_object: Array) -> Array:
    """Returns the prediction that each object is assigned to, so that the sum of costs is least.

    Args:
        costs: [b, q, o], finite; no more objects than predictions.
        is_object: [b, o], False where padded.

    Returns:
        [b, o] int32, distinct for each image; what padding is assigned to is of no meaning.
    """
    if costs.shape[1] < costs.shape[2]:
        raise ValueError(f"{costs.shape[2]} objects and only {costs.shape[1]} predictions")
    # Padding costs the same everywhere, so that it takes what objects leave and changes nothing.
    costs = jnp.where(is_object[:, None], costs, 0.0)

    def one(costs: Array) -> Array:
        rows, columns = hungarian_algorithm(costs)
        return jnp.zeros(costs.shape[1], jnp.int32).at[columns].set(rows.astype(jnp.int32))

    return jax.vmap(one)(costs)


def matching_costs(
    logits: Array,
    boxes: Array,
    target_labels: Array,
    target_boxes: Array,
    *,
    classes: Classes,
    weights: dict[str, float],
) -> Array:
    """Returns what it costs to assign each object to each prediction, [b, q, o].

    Args:
        logits: [b, q, k].
        boxes: [b, q, 4], (cx, cy, w, h) in shares of the image.
        target_labels: [b, o], -1 where padded.
        target_boxes: [b, o, 4].
        classes: how classes are compared: by the softmax's probability, or by what the focal loss
            of the object's class would fall.
        weights: "class", "l1" and "giou" -> weight of that cost.

    Reference:
        DETR (arXiv 2005.12872), section 3.1; official models/matcher.py. With a sigmoid, Deformable
        DETR's (official models/matcher.py).
    """
    if classes == "softmax":
        of_class = -jax.nn.softmax(logits)
    else:
        p = jax.nn.sigmoid(logits)
        present = -FOCAL_ALPHA * (1 - p) ** FOCAL_GAMMA * jax.nn.log_sigmoid(logits)
        absent = -(1 - FOCAL_ALPHA) * p**FOCAL_GAMMA * jax.nn.log_sigmoid(-logits)
        of_class = present - absent
    labels = jnp.maximum(target_labels, 0)[:, None]  # [b, 1, o]
    of_class = jnp.take_along_axis(of_class, labels, axis=-1)  # [b, q, o]
    pairs = boxes[:, :, None], target_boxes[:, None]
    l1 = jnp.abs(pairs[0] - pairs[1]).sum(axis=-1)
    giou = generalized_iou(corners(pairs[0]), corners(pairs[1]))
    return weights["class"] * of_class + weights["l1"] * l1 - weights["giou"] * giou
