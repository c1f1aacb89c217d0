"""kernels/tpu_attention.py, as Python interprets its kernels: against the plain form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import attention, tpu_attention
from kernels.attention import plain
from kernels.target import compiling_for

# leading axes, query tokens, key tokens, heads, key heads, channels of a head
SHAPES = {
    "nest": ((2, 3), 49, 49, 3, 3, 32),
    "tiles_half_full": ((1, 1), 64, 64, 6, 6, 32),
    "vit": ((2,), 197, 197, 2, 2, 64),
    "largest_block": ((1,), 576, 576, 1, 1, 32),
    "no_leading_axis": ((), 16, 16, 4, 4, 6),
    "not_square": ((2,), 10, 7, 2, 2, 16),
    "multi_query": ((2,), 20, 20, 6, 1, 32),
    "grouped_query": ((2,), 20, 20, 4, 2, 8),
    "heads_across_tiles": ((2,), 12, 12, 5, 5, 40),
    "wide_heads": ((1,), 12, 12, 2, 2, 256),
}


def arrays(leading, n, m, h, k, d, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = ((n, h, d), (m, k, d), (m, k, d), (n, h, d))
    return [
        jax.random.normal(key, (*leading, *shape), dtype)
        for key, shape in zip(keys, shapes, strict=True)
    ]


@partial(jax.jit, static_argnums=0)
def result_and_gradients(function, d_out, *operands):
    out, vjp = jax.vjp(function, *operands)
    return out, *vjp(d_out)


def plain_joint(qkv):
    return plain(*(qkv[..., i, :, :] for i in range(3)))


def check(function, expected, d_out, *operands):
    found = result_and_gradients(function, d_out, *operands)
    wanted = result_and_gradients(expected, d_out, *operands)
    for ours, theirs, tolerance in zip(found, wanted, (1e-5, 1e-4, 1e-4, 1e-4), strict=False):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_plain_form(shape):
    *parts, d_out = arrays(*SHAPES[shape])
    check(tpu_attention.attention, plain, d_out, *parts)


@pytest.mark.parametrize("shape", ["nest", "no_leading_axis", "heads_across_tiles"])
def test_joint_array_equals_the_plain_form(shape):
    *parts, d_out = arrays(*SHAPES[shape])
    check(tpu_attention.self_attention, plain_joint, d_out, jnp.stack(parts, axis=-3))


def test_more_blocks_than_one_step_takes(monkeypatch):
    monkeypatch.setattr(tpu_attention, "_STEP", 100_000)  # two blocks of this size; the last is one
    tpu_attention._call.cache_clear()
    *parts, d_out = arrays((5,), 16, 16, 2, 2, 8)
    check(tpu_attention.attention, plain, d_out, *parts)
    tpu_attention._call.cache_clear()


def test_bfloat16_is_as_near_to_float32_as_the_plain_form():
    *parts, d_out = arrays((4,), 49, 49, 3, 3, 32, jnp.bfloat16)
    exact = result_and_gradients(plain, *(x.astype(jnp.float32) for x in (d_out, *parts)))

    def errors(function):
        found = result_and_gradients(function, d_out, *parts)
        return [np.abs(x - y).mean() for x, y in zip(found, exact, strict=True)]

    for ours, theirs in zip(errors(tpu_attention.attention), errors(plain), strict=True):
        assert ours < 1.2 * theirs


def test_is_chosen_on_tpus_for_blocks_that_fit():
    def chosen(n, platform, h=3, dtype=jnp.bfloat16):
        query = jax.ShapeDtypeStruct((2, n, h, 32), dtype)
        return attention.choose(query, query, platform)

    assert chosen(196, "tpu") == chosen(576, "tpu") == "tpu"
    assert chosen(577, "tpu") == chosen(576, "tpu", h=64) == chosen(196, "any") == "plain"
    assert chosen(576, "tpu", h=32, dtype=jnp.float32) == "plain"  # 1,024 wide
    assert chosen(196, "tpu", dtype=jnp.float16) == "plain"


def test_dropout_and_the_plain_form_stay_plain():
    query, key, value, _ = arrays((2,), 4, 4, 2, 2, 8)
    qkv = jnp.stack([query, key, value], axis=-3)
    for options in ((None, "plain"), (lambda weights: weights, "auto")):
        with compiling_for("tpu"):
            found = jax.make_jaxpr(lambda x, o=options: attention.self_attention(x, *o))(qkv)
            assert "pallas_call" not in str(found)
            text = jax.make_jaxpr(attention.self_attention)(qkv)
        assert "pallas_call" in str(text)
