"""Differentiable augmentation of what a discriminator sees, real and generated images alike.

With few images a discriminator memorises them. Augmenting only the real ones would teach the
generator the augmentation; augmenting both, with gradients that reach the generator, does not.
Images are float [b, h, w, c] in -1..1. Each image draws its own random numbers.

Reference: Zhao et al., "Differentiable augmentation for data-efficient GAN training", arXiv
2006.10738, section 3 and appendix A (shift of an eighth, square of half the side, colour).
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

SHIFT = 1 / 8  # largest, as a share of the side
CUTOUT = 1 / 2  # side of the square, as a share of the image's


def _uniform(key: jax.Array, images: jax.Array, low: float, high: float) -> jax.Array:
    shape = (len(images), 1, 1, 1)
    return jax.random.uniform(key, shape, images.dtype, low, high)


def color(key: jax.Array, images: jax.Array) -> jax.Array:
    """Changes brightness by up to 0.5, saturation by 0 to 2 and contrast by 0.5 to 1.5.

    Grey images have no saturation to change.
    """
    keys = jax.random.split(key, 3)
    images = images + _uniform(keys[0], images, -0.5, 0.5)
    if images.shape[-1] > 1:
        grey = images.mean(axis=-1, keepdims=True)
        images = grey + (images - grey) * _uniform(keys[1], images, 0.0, 2.0)
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    return mean + (images - mean) * _uniform(keys[2], images, 0.5, 1.5)


def translation(key: jax.Array, images: jax.Array) -> jax.Array:
    """Shifts by up to an eighth of each side, in whole pixels, and fills with zeros."""
    _, height, width, channels = images.shape
    rows, columns = round(height * SHIFT), round(width * SHIFT)
    padded = jnp.pad(images, ((0, 0), (rows, rows), (columns, columns), (0, 0)))
    limits = jnp.array([rows, columns])
    offsets = jax.random.randint(key, (len(images), 2), 0, 2 * limits + 1)

    def crop(image, offset):
        return jax.lax.dynamic_slice(image, (*offset, 0), (height, width, channels))

    return jax.vmap(crop)(padded, offsets)


def cutout(key: jax.Array, images: jax.Array) -> jax.Array:
    """Sets a square of half the side to zero; it may hang over the edge by half.

    All places up to that far out are equally likely, so that pixels are hidden equally often from
    all sides; an even side of the square has one more place than an odd one.

    Reference: mit-han-lab/data-efficient-gans, DiffAugment_pytorch.py, rand_cutout.
    """
    _, height, width, _ = images.shape
    sides = jnp.array([round(height * CUTOUT), round(width * CUTOUT)])
    places = jnp.array([height, width]) + (1 - sides % 2)
    starts = jax.random.randint(key, (len(images), 2), 0, places) - sides // 2

    def inside(start, size, length):
        position = jnp.arange(length)
        return (position >= start[:, None]) & (position < start[:, None] + size)  # [b, length]

    rows = inside(starts[:, 0], sides[0], height)[:, :, None, None]
    columns = inside(starts[:, 1], sides[1], width)[:, None, :, None]
    return jnp.where(rows & columns, 0.0, images)


Operation = Literal["color", "translation", "cutout"]
OPERATIONS: dict[Operation, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "color": color,
    "translation": translation,
    "cutout": cutout,
}


def diff_augment(key: jax.Array, images: jax.Array, names: tuple[Operation, ...]) -> jax.Array:
    """Applies operations one after the other.

    Args:
        key: of their random numbers.
        images: [b, h, w, c] in -1..1.
        names: keys of OPERATIONS.
    """
    for name, own in zip(names, jax.random.split(key, max(len(names), 1)), strict=False):
        images = OPERATIONS[name](own, images)
    return images
