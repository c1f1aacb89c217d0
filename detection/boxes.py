"""Boxes and how much they overlap.

A box is (cx, cy, w, h) where it is predicted or learned from, and (x1, y1, x2, y2), its corners,
where areas are computed; both in any unit, the same for x and y or each in shares of its side.
"""

import jax.numpy as jnp
from jax import Array


def corners(boxes: Array) -> Array:
    """Maps (cx, cy, w, h) to (x1, y1, x2, y2), [..., 4]."""
    centers, sizes = jnp.split(boxes, 2, axis=-1)
    return jnp.concatenate([centers - sizes / 2, centers + sizes / 2], axis=-1)


def iou(a: Array, b: Array) -> Array:
    """Returns the intersection over union of boxes given by corners.

    Args:
        a, b: [..., 4], whose leading axes broadcast.

    Returns:
        [...], 0 to 1; 0 where both boxes are empty.
    """
    intersection, union = _intersection_and_union(a, b)
    return _share(intersection, union)


def generalized_iou(a: Array, b: Array) -> Array:
    """Returns the generalised intersection over union of boxes given by corners.

    That is the IoU less the share of the smallest box around both that neither covers: -1 to 1,
    and with a gradient also where the boxes do not meet.

    Args:
        a, b: [..., 4], whose leading axes broadcast; x1 <= x2 and y1 <= y2.

    Returns:
        [...]; 0 where both are the same point.

    Reference:
        Rezatofighi et al., arXiv 1902.09630, algorithm 1.
    """
    intersection, union = _intersection_and_union(a, b)
    low, high = jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:])
    around = jnp.prod(high - low, axis=-1)
    return _share(intersection, union) - _share(around - union, around)


def _intersection_and_union(a: Array, b: Array) -> tuple[Array, Array]:
    low, high = jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:])
    intersection = jnp.prod(jnp.maximum(high - low, 0), axis=-1)
    return intersection, _area(a) + _area(b) - intersection


def _area(boxes: Array) -> Array:
    return jnp.prod(boxes[..., 2:] - boxes[..., :2], axis=-1)


def _share(part: Array, whole: Array) -> Array:
    """Returns part / whole, 0 where the whole is 0, with finite gradients."""
    is_empty = whole <= 0
    return jnp.where(is_empty, 0.0, part / jnp.where(is_empty, 1.0, whole))
