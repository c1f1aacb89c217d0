"""kernels/cpu_attention.py: chunks against the plain form, and where they are chosen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import attention, cpu_attention
from kernels.attention import choose, dot_product_attention, plain

SHAPES = {  # query, key
    "nest": ((2, 4, 49, 3, 32), (2, 4, 49, 3, 32)),
    "tnt_sentences": ((3, 197, 2, 64), (3, 197, 2, 64)),
    "tnt_words": ((2, 9, 16, 4, 6), (2, 9, 16, 4, 6)),
    "wide_words": ((5, 16, 4, 10), (5, 16, 4, 10)),
    "384_pixels": ((1, 576, 2, 32), (1, 576, 2, 32)),
    "multi_query": ((2, 3, 25, 4, 8), (2, 3, 25, 1, 8)),
    "grouped_cross": ((2, 7, 6, 8), (2, 11, 2, 8)),
    "no_leading_axes": ((10, 2, 4), (15, 2, 4)),
}


@pytest.mark.parametrize("chunk_bytes", [1, 20_000, 2 << 20])
@pytest.mark.parametrize("name", SHAPES)
def test_chunks_equal_the_plain_form(name, chunk_bytes, monkeypatch):
    monkeypatch.setattr(cpu_attention, "CHUNK_BYTES", chunk_bytes)
    query_shape, key_shape = SHAPES[name]
    keys = jax.random.split(jax.random.key(0), 4)
    query = 3 * jax.random.normal(keys[0], query_shape)
    key, value = (jax.random.normal(k, key_shape) for k in keys[1:3])
    cotangent = jax.random.normal(keys[3], query_shape)

    def result(form):
        out, gradient = jax.vjp(form, query, key, value)
        return out, *gradient(cotangent)

    out, *gradients = jax.jit(lambda: result(cpu_attention.in_chunks))()
    expected, *expected_gradients = jax.jit(lambda: result(plain))()
    np.testing.assert_allclose(out, expected, atol=1e-5)
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, reference, atol=1e-4)


@pytest.mark.parametrize("chunk_bytes", [1, 2 << 20])
def test_joint_chunks_equal_separate_ones(chunk_bytes, monkeypatch):
    monkeypatch.setattr(cpu_attention, "CHUNK_BYTES", chunk_bytes)
    qkv = jax.random.normal(jax.random.key(0), (2, 3, 25, 3, 4, 8))
    monkeypatch.setattr(attention, "choose", lambda *_: "chunks")
    joint, joint_gradient = jax.vjp(attention.self_attention, qkv)
    parts, gradient = jax.vjp(lambda x: attention.self_attention(x, None, "plain"), qkv)
    np.testing.assert_allclose(joint, parts, atol=1e-5)
    np.testing.assert_allclose(*(f(joint)[0] for f in (joint_gradient, gradient)), atol=1e-4)


def test_scores_too_high_for_exp_stay_finite():
    query = jnp.full((1, 8, 1, 4), 100.0)
    value = jnp.arange(32.0).reshape(1, 8, 1, 4)
    out, gradient = jax.vjp(cpu_attention.in_chunks, query, query, value)
    np.testing.assert_allclose(out, plain(query, query, value), atol=1e-5)
    assert all(jnp.isfinite(g).all() for g in gradient(out))


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((128, 196, 3, 32), jnp.float32, "chunks"),
        ((8, 1, 196, 12, 32), jnp.float32, "chunks"),
        ((8, 197, 6, 64), jnp.float32, "chunks"),
        ((2, 197, 6, 64), jnp.float32, "plain"),  # 2 MB of scores
        ((1568, 16, 4, 6), jnp.float32, "plain"),
        ((128, 196, 3, 32), jnp.bfloat16, "plain"),
        ((256, 16, 16, 2, 16), jnp.float32, "plain"),
    ],
)
def test_chunks_are_for_long_sequences_in_float32(shape, dtype, expected, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    x = jax.ShapeDtypeStruct(shape, dtype)
    assert choose(x, x, "cpu") == expected
    assert choose(x, x, "any") == "plain"


def test_several_devices_take_the_plain_form(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    x = jax.ShapeDtypeStruct((128, 196, 3, 32), jnp.float32)
    assert choose(x, x, "cpu") == "plain"


def test_implementations_are_names():
    x = jax.random.normal(jax.random.key(0), (2, 12, 2, 8))
    chunks = dot_product_attention(x, x, x, implementation="chunks")
    np.testing.assert_allclose(chunks, plain(x, x, x), atol=1e-5)
