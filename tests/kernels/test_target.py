"""kernels/target.py: which kind of device programs are traced for."""

import itertools

import jax
import jax.numpy as jnp
import pytest

from kernels import whole_layer
from kernels.attention import choose
from kernels.target import compiling_for, platform, vmem_for_a_kernel


def test_the_platform_is_that_of_the_default_device():
    assert platform() == jax.default_backend() == "cpu"
    with jax.default_device(jax.devices("cpu")[0]):
        assert platform() == "cpu"
    with jax.default_device("cpu"):
        assert platform() == "cpu"


def test_compiling_for_another_kind_ends_with_its_block():
    with compiling_for("tpu"):
        assert platform() == "tpu"
        with compiling_for("any"):
            assert platform() == "any"
        assert platform() == "tpu"
    assert platform() == "cpu"


def test_tpus_with_little_fast_memory_keep_the_plain_forms():
    query = jax.ShapeDtypeStruct((2, 196, 3, 32), jnp.bfloat16)
    tokens = jax.ShapeDtypeStruct((2, 1, 196, 96), jnp.bfloat16)
    words = jax.ShapeDtypeStruct((2, 196, 16, 24), jnp.bfloat16)
    for kind, has_kernels in {
        "TPU v3": False,
        "TPU v4": False,
        "TPU v5": True,
        "TPU v6 lite": True,
    }.items():
        with compiling_for("tpu", kind):
            assert (vmem_for_a_kernel() > 0) == has_kernels
            assert (choose(query, query, "tpu") == "tpu") == has_kernels
            for x, heads in ((tokens, 3), (words, 4)):
                kernel = whole_layer.choose(x, num_heads=heads, hidden_dim=384, qkv_bias=True)
                assert (kernel is not None) == has_kernels


@pytest.mark.parametrize("target", ["cpu", "gpu", "tpu", "any"])
def test_every_shape_has_a_form(target):
    """Choosing is arithmetic on sizes: none of them divides by zero."""
    sizes = itertools.product((1, 7, 16, 64, 197, 600), (1, 6, 10, 24, 64, 160), (1, 3, 16))
    with compiling_for(target):
        for tokens, head_dim, heads in sizes:
            for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
                query = jax.ShapeDtypeStruct((2, tokens, heads, head_dim), dtype)
                key = jax.ShapeDtypeStruct((2, tokens, 1, head_dim), dtype)
                assert choose(query, query, target) and choose(query, key, target)
                for leading in ((), (2,), (2, 3)):
                    dim = heads * head_dim
                    x = jax.ShapeDtypeStruct((*leading, tokens, dim), dtype)
                    whole_layer.choose(x, num_heads=heads, hidden_dim=4 * dim, qkv_bias=False)
