"""Where something is in an image, as sines and cosines.

Shape letters: b batch, h and w sides of a map, c channels.
"""

import jax.numpy as jnp
from jax import Array


def sines(positions: Array, dim: int, temperature: float) -> Array:
    """Maps positions [...] in radians to [..., dim]: sine and cosine of each frequency in turn.

    Args:
        positions: of one coordinate; 2 pi is the whole image.
        dim: even number of channels.
        temperature: ratio of the highest frequency to one beyond the lowest.
    """
    frequencies = temperature ** -(jnp.arange(0, dim, 2) / dim)  # [dim / 2]
    angles = positions[..., None] * frequencies
    waves = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)  # [..., dim / 2, 2]
    return waves.reshape(*positions.shape, dim)  # [..., dim]


def map_positions(mask: Array, dim: int, temperature: float = 10_000.0) -> Array:
    """Returns sines of the row, then of the column, of each place of a map.

    Args:
        mask: [b, h, w], True where there is image. Its first row and first column count places;
            the image lies in the upper left.
        dim: channels, a multiple of 4.
        temperature: see sines.

    Returns:
        [b, h, w, dim], float32.

    Reference:
        DETR (arXiv 2005.12872), section A.4; official models/position_encoding.py, normalised.
    """
    waves = []
    for axis in (1, 2):
        count = jnp.cumsum(mask, axis=axis, dtype=jnp.float32)
        last = jnp.take(count, jnp.array([-1]), axis=axis)
        waves.append(sines(2 * jnp.pi * count / (last + 1e-6), dim // 2, temperature))
    return jnp.concatenate(waves, axis=-1)


def box_positions(boxes: Array, dim: int, temperature: float = 10_000.0) -> Array:
    """Returns sines of (cy, cx, w, h) of boxes.

    Args:
        boxes: [..., 4], (cx, cy, w, h) in shares of the image.
        dim: channels, a multiple of 8: a quarter for each number.
        temperature: see sines.

    Returns:
        [..., dim], float32. As in DAB-DETR, but a quarter of the channels each in place of half.

    Reference:
        DAB-DETR (arXiv 2201.12329), section 4.2.
    """
    turned = boxes[..., jnp.array([1, 0, 2, 3])]
    waves = sines(2 * jnp.pi * turned, dim // 4, temperature)  # [..., 4, dim / 4]
    return waves.reshape(*boxes.shape[:-1], dim)  # [..., dim]
