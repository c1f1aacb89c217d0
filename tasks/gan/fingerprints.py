"""A short name of a set of images, from their pixels: the same on any devices, in any batches."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np


def fingerprint(images: jax.Array) -> jax.Array:
    """Returns two numbers of each image that change with any pixel. Traceable.

    Whole numbers, since sums of floats depend on how a batch lies over devices.

    Args:
        images: uint8 [b, h, w, c].

    Returns:
        uint32 [b, 2]: sums, modulo 2^32, of a hash of each pixel's place and value.
    """
    pixels = images.reshape(len(images), -1).astype(jnp.uint32)
    places = jnp.arange(pixels.shape[1], dtype=jnp.uint32)
    place_and_value = places * 256 + pixels  # [b, h * w * c]
    sums = [
        _mixed(place_and_value ^ jnp.uint32(seed)).sum(axis=1, dtype=jnp.uint32)
        for seed in (0x9E3779B9, 0x7F4A7C15)
    ]
    return jnp.stack(sums, axis=1)


def images_hash(fingerprints: np.ndarray) -> str:
    """Returns 12 hexadecimal digits that identify images, in their order, by `fingerprint`."""
    little = np.ascontiguousarray(fingerprints, "<u4")
    return hashlib.sha256(little.tobytes()).hexdigest()[:12]


def _mixed(x: jax.Array) -> jax.Array:
    """Spreads each bit of a uint32 over all of it: the last step of MurmurHash3."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
