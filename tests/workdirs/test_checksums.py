import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from workdirs.checksums import array_checksums, differing, inspect

DTYPES = ("float32", "bfloat16", "float16", "int8", "uint8", "int32", "uint32", "bool", "int16")


def draw(dtype, shape=(6, 8, 5)):
    return jnp.asarray(np.random.default_rng(0).integers(0, 100, shape)).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_devices_and_numpy_agree(dtype):
    array = draw(dtype)
    assert array_checksums({"a": array}) == array_checksums({"a": np.asarray(array)})


@pytest.mark.parametrize("dtype", ["float64", "int64", "complex64"])
def test_eight_bytes_an_element(dtype):
    array = np.arange(12).reshape(3, 4).astype(dtype)
    with jax.enable_x64(True):
        assert array_checksums({"a": jnp.asarray(array)}) == array_checksums({"a": array})


def test_a_known_value():
    """Worked out by hand: Murmur3's finalizer of word ^ place * constant, added up, twice."""

    def mix(word):
        word ^= word >> 16
        word = word * 0x85EBCA6B % 2**32
        word ^= word >> 13
        word = word * 0xC2B2AE35 % 2**32
        return word ^ (word >> 16)

    words = [3, 0, 2**32 - 1, 77]
    first = [mix(word ^ (i * 0x9E3779B9) % 2**32) for i, word in enumerate(words)]
    second = [word * 0x27D4EB2F % 2**32 for word in first]
    sums = sum(first) % 2**32, sum(word ^ (word >> 15) for word in second) % 2**32
    array = np.array(words, np.uint32)
    assert array_checksums({"a": array})["a"] == f"{sums[0]:08x}{sums[1]:08x}"
    assert array_checksums({"a": array.reshape(2, 2)}) == array_checksums({"a": array})


def test_every_sharding_agrees():
    array = draw("float32", (16, 8))
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"))
    one = array_checksums({"a": array})
    for spec in (("data", "fsdp"), (None, "data"), ("fsdp",), (("data", "fsdp"),), ()):
        placed = jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))
        assert array_checksums({"a": placed}) == one


def test_processes_add_up(monkeypatch):
    """As several processes on CPUs do it, here one that holds everything."""
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"))
    specs = {"rows": ("data", "fsdp"), "columns": (None, "fsdp"), "copies": (), "last": ("fsdp",)}
    tree = {
        name: jax.device_put(
            draw("bfloat16" if name == "last" else "float32", (16, 8)),
            NamedSharding(mesh, PartitionSpec(*spec)),
        )
        for name, spec in specs.items()
    }
    tree["scalar"] = jax.device_put(jnp.int32(7), NamedSharding(mesh, PartitionSpec()))
    infinite = np.array(tree["rows"])
    infinite[3, 3] = np.inf
    bad = tree | {"rows": jax.device_put(infinite, tree["rows"].sharding)}
    one = inspect(tree), inspect(bad)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda parts: parts[None])
    assert (inspect(tree), inspect(bad)) == one
    assert (one[0][1], one[1][1]) == (True, False)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_single_bit_counts(dtype):
    array = np.asarray(draw(dtype, (3, 5)))
    good = array_checksums({"a": array})["a"]
    num_bits = 1 if dtype == "bool" else 8 * array.dtype.itemsize
    for element in range(array.size):
        for bit in range(num_bits):
            flat = array.copy().reshape(-1)
            flat.view(f"uint{8 * array.dtype.itemsize}")[element] ^= 1 << bit
            assert array_checksums({"a": flat.reshape(3, 5)})["a"] != good


def test_places_nans_and_zeros_count():
    array = np.arange(6, dtype=np.float32)
    sums = [
        array_checksums({"a": a})["a"]
        for a in (
            array,
            array[::-1],
            np.where(array == 0, np.float32(-0.0), array),
            np.where(array == 3, np.nan, array),
            np.append(array, np.float32(0)),
            np.zeros(0, np.float32),
        )
    ]
    assert len(set(sums)) == len(sums)


def test_trees_have_names_and_differences_are_named():
    tree = {
        "params": {"dense": {"bias": np.ones(3)}},
        "step": np.int32(4),
        "key": jax.random.key(0),
    }
    good = array_checksums(tree)
    assert list(good) == ["key", "params/dense/bias", "step"]
    bad = array_checksums(tree | {"step": np.int32(5), "more": np.ones(1)})
    assert differing(good, good) == [] and differing(good, bad) == ["more", "step"]
    assert differing(good, {"step": good["step"]}) == []  # a part of them
