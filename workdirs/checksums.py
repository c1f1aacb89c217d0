"""Checksums of what a checkpoint holds: its arrays, its records, its files.

Those of arrays are equal however an array is spread over devices and processes. A cyclic redundancy
check or a hash reads bytes in order, so every array would have to come together on one host. This
one is a sum over the elements: each is mixed with its place in the array by a bijection of 32-bit
words (Murmur3's finalizer), and the results are added modulo 2^32, once more after another
bijection. Integer sums do not depend on the order, so all shardings agree, and so does NumPy.

A change of one element, be it one bit, always changes the sum; other damage goes unnoticed once in
2^64.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from harness.lease_files import in_bucket
from harness.trees import flatten
from workdirs.regular_files import open_regular

_PLACE, _SECOND = 0x9E3779B9, 0x27D4EB2F  # odd: multiplying by one is a bijection, too


def array_checksums(tree: Any) -> dict[str, str]:
    """Returns name -> checksum, 16 hexadecimal digits, of every array in a tree.

    Arrays on devices are summed up there; only the sums come to the host.

    Args:
        tree: of arrays, or of NumPy arrays.
    """
    return inspect(tree)[0]


def inspect(tree: Any) -> tuple[dict[str, str], bool]:
    """Returns `array_checksums`, and whether no array has a NaN or an infinity, in one pass."""
    flat = flatten(tree)
    # CPUs run several programs at once, and devices that do so in different orders would wait for
    # each other's parts of different sums.
    if jax.default_backend() == "cpu" and jax.device_count() > 1:
        found = _add_up_parts(flat)
    else:  # a program for each shape: one for all would take minutes to compile
        found = jax.device_get(
            {
                name: _on_device(leaf)
                if isinstance(leaf, jax.Array)
                else _inspect(np, np.asarray(leaf))
                for name, leaf in flat.items()
            }
        )
    sums = {
        name: "".join(f"{int(lane):08x}" for lane in parts[:2]) for name, parts in found.items()
    }
    return sums, all(bool(parts[2]) for parts in found.values())


def differing(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Returns the names of the arrays whose checksums differ, or that are not among the expected.

    Args:
        expected: of all arrays that were saved.
        found: of some or all of them, as they were read.
    """
    return sorted(name for name, checksum in found.items() if expected.get(name) != checksum)


def record_checksum(record: Any) -> str:
    """Returns the SHA-256 of a record that JSON can hold, in any order of its keys."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def file_checksums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Returns name -> SHA-256 of files in a folder.

    Raises:
        OSError: one cannot be read.
    """
    sums = {}
    for name in names:
        with open_regular(folder / name) as file:
            sums[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def files_in(folder: Path) -> list[str]:
    """Returns the files in a folder and those below, relative to it, sorted."""
    if in_bucket(folder):
        return folder.files()
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


@jax.jit
def _on_device(array: jax.Array) -> jax.Array:
    return jnp.stack([jnp.uint32(part) for part in _inspect(jnp, array)])


def _add_up_parts(flat: dict[str, Any]) -> dict[str, tuple[Any, Any, bool]]:
    """Returns what `_inspect` gives, of arrays whose parts lie on several devices or processes."""
    sums = np.zeros((len(flat), 3), np.uint32)

    def add(number, *part):
        first, second, finite = _inspect(np, *part)
        sums[number] += np.array([first, second, not finite], np.uint32)

    for number, leaf in enumerate(flat.values()):
        if isinstance(leaf, jax.Array):
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaf = jax.random.key_data(leaf)
            for shard in leaf.addressable_shards:
                if shard.replica_id == 0:
                    starts = [axis.start or 0 for axis in shard.index]
                    add(number, np.asarray(shard.data), leaf.shape, starts)
        elif jax.process_index() == 0:  # the others have the same
            add(number, np.asarray(leaf))
    total = sums
    if jax.process_count() > 1:
        total = multihost_utils.process_allgather(sums).sum(axis=0, dtype=np.uint32)
    return {
        name: (first, second, not bad)
        for name, (first, second, bad) in zip(flat, total, strict=True)
    }


def _inspect(
    xp: Any, array: Any, shape: Sequence[int] | None = None, starts: Sequence[int] = ()
) -> tuple[Any, Any, Any]:
    """Returns both sums of an array, as 32-bit words, and whether it is finite.

    Args:
        xp: numpy or jax.numpy; the arithmetic is the same.
        array: of any type that has a fixed size.
        shape: of the whole array, if this is a part of it.
        starts: where the part begins.
    """
    words = xp.atleast_1d(_words(xp, array))
    whole = (*(array.shape if shape is None else shape), *words.shape[array.ndim :])
    starts = (*starts, *[0] * (words.ndim - len(starts)))
    place = xp.zeros(words.shape, np.uint32)
    for axis, size in enumerate(words.shape):  # not flattened, which would move shards
        stride = np.uint32(math.prod(whole[axis + 1 :]) * _PLACE % 2**32)
        along = [size if other == axis else 1 for other in range(words.ndim)]
        index = xp.arange(starts[axis], starts[axis] + size, dtype=np.uint32)
        place = place + index.reshape(along) * stride
    first = _mix(words ^ place)
    second = first * np.uint32(_SECOND)
    second = second ^ (second >> np.uint32(15))
    finite = np.True_
    if jnp.issubdtype(array.dtype, jnp.inexact):
        finite = xp.isfinite(array).all()
    return first.sum(dtype=np.uint32), second.sum(dtype=np.uint32), finite


def _words(xp: Any, array: Any) -> Any:
    """Returns the bits of an array's elements as 32-bit words; of 8 bytes, in a last axis."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    if array.dtype == np.bool_:
        return array.astype(np.uint32)
    size = array.dtype.itemsize
    if xp is np:
        if size > 4:
            return np.ascontiguousarray(array).view(np.uint32).reshape(*array.shape, size // 4)
        return (
            np.ascontiguousarray(array)
            .view(f"uint{8 * size}")
            .reshape(array.shape)
            .astype(np.uint32)
        )
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        array = jnp.stack([array.real, array.imag], axis=-1)
        size //= 2
    if size > 4:
        return jax.lax.bitcast_convert_type(array, jnp.uint32)
    return jax.lax.bitcast_convert_type(array, f"uint{8 * size}").astype(jnp.uint32)


def _mix(word: Any) -> Any:
    """Returns a bijection of 32-bit words: Murmur3's finalizer, by Austin Appleby."""
    word = word ^ (word >> np.uint32(16))
    word = word * np.uint32(0x85EBCA6B)
    word = word ^ (word >> np.uint32(13))
    word = word * np.uint32(0xC2B2AE35)
    return word ^ (word >> np.uint32(16))
