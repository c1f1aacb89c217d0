"""Names of images and of arrays by their content, for the protocol of an evaluation."""

import hashlib
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np


def short_hash(parts: Iterable[bytes]) -> str:
    """Returns 12 hexadecimal digits that identify the bytes."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()[:12]


def arrays_hash(*arrays: np.ndarray) -> str:
    """Returns the hash of arrays as float32."""
    return short_hash(np.ascontiguousarray(array, np.float32).tobytes() for array in arrays)


def images_hash(fingerprints: np.ndarray) -> str:
    """Returns the hash of images, in their order, from what `fingerprint` gives for them."""
    return short_hash([np.ascontiguousarray(fingerprints, "<u4").tobytes()])


def fingerprint(images: jax.Array) -> jax.Array:
    """Returns two numbers per image that change with any pixel; hashlib cannot run on the device.

    They are integers because sums of floats depend on how a batch lies over devices: the same
    images get the same numbers on any devices, in any batches. Traceable.

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


def _mixed(x: jax.Array) -> jax.Array:
    """Spreads each bit of a uint32 over all of it: the last step of MurmurHash3."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
