"""DETR's losses: what predictions that are assigned to objects, and all others, should have said.

Each is a sum over a batch, for the caller to divide by the number of objects.

Shape letters: b batch, q predictions, o objects of an image with padding, k logits.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from detection.boxes import corners, generalized_iou, iou

Classes = Literal["softmax", "focal", "varifocal"]
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0  # of arXiv 1708.02002, as in Deformable DETR
VARIFOCAL_ALPHA, VARIFOCAL_GAMMA = 0.75, 2.0  # of arXiv 2008.13367


def class_loss(
    logits: Array,
    assigned: Array,
    target_labels: Array,
    overlaps: Array,
    is_place: Array,
    *,
    classes: Classes,
    no_object_weight: float,
) -> Array:
    """Returns the loss of the classes, summed over the predictions of a batch.

    Args:
        logits: [b, q, k]; of "softmax" the last is that of no object.
        assigned: [b, o], the prediction of each object; see match.
        target_labels: [b, o], -1 where padded.
        overlaps: [b, o], IoU of each object's box with the box predicted for it.
        is_place: [b, q], False for predictions that count for nothing.
        classes: "softmax": cross entropy. "focal": each class has a sigmoid. "varifocal": also, and
            the probability of the object's class is to be the overlap, so that the score says how
            good the box is.
        no_object_weight: of "softmax": weight of predictions without an object.

    Reference:
        DETR, section 3.1 and A.2; Lin et al., arXiv 1708.02002, equation 5; Zhang et al.,
        arXiv 2008.13367, equation 2.
    """
    b, q, k = logits.shape
    is_object = target_labels >= 0
    # Padding has no place to be written to.
    rows, places = jnp.arange(b)[:, None], jnp.where(is_object, assigned, q)
    if classes == "softmax":
        labels = jnp.full((b, q), k - 1).at[rows, places].set(target_labels, mode="drop")
        weights = jnp.where(labels == k - 1, no_object_weight, 1.0)
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0]
        return -(weights * log_p * is_place).sum()
    shares = jnp.ones_like(overlaps) if classes == "focal" else overlaps
    targets = jnp.zeros_like(logits).at[rows, places, target_labels].set(shares, mode="drop")
    p = jax.nn.sigmoid(logits)
    counts = is_place[..., None]
    entropy = -targets * jax.nn.log_sigmoid(logits) - (1 - targets) * jax.nn.log_sigmoid(-logits)
    if classes == "focal":
        off = jnp.where(targets > 0, 1 - p, p)
        alpha = jnp.where(targets > 0, FOCAL_ALPHA, 1 - FOCAL_ALPHA)
        return (alpha * off**FOCAL_GAMMA * entropy * counts).sum()
    is_class = jnp.zeros_like(logits, bool).at[rows, places, target_labels].set(True, mode="drop")
    weights = jnp.where(is_class, targets, VARIFOCAL_ALPHA * p**VARIFOCAL_GAMMA)
    return (jax.lax.stop_gradient(weights) * entropy * counts).sum()


def box_losses(
    boxes: Array, assigned: Array, target_labels: Array, target_boxes: Array
) -> tuple[Array, Array, Array]:
    """Returns the losses of the boxes, summed over the objects of a batch, and the overlaps.

    Args:
        boxes: [b, q, 4], (cx, cy, w, h) in shares of the image.
        assigned, target_labels: see class_loss.
        target_boxes: [b, o, 4].

    Returns:
        l1: sum of the absolute differences of the four numbers.
        giou: 1 less the generalised IoU.
        overlaps: [b, o], IoU, without a gradient.

    Reference:
        DETR, section 3.1 and A.2.
    """
    is_object = target_labels >= 0
    own = jnp.take_along_axis(boxes, assigned[..., None], axis=1)  # [b, o, 4]
    l1 = jnp.abs(own - target_boxes).sum(axis=-1)
    a, b = corners(own), corners(target_boxes)
    giou = 1 - generalized_iou(a, b)
    overlaps = jax.lax.stop_gradient(iou(a, b))
    return (l1 * is_object).sum(), (giou * is_object).sum(), overlaps
