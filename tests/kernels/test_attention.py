"""kernels/attention.py: the plain form against JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.attention import dot_product_attention


@pytest.mark.parametrize("num_key_heads", [1, 2, 6])
def test_dot_product_attention_has_the_interface_of_jax(num_key_heads):
    keys = jax.random.split(jax.random.key(0), 3)
    query = jax.random.normal(keys[0], (2, 7, 6, 8))
    key, value = (jax.random.normal(k, (2, 7, num_key_heads, 8)) for k in keys[1:])
    expected = jax.nn.dot_product_attention(query, key, value)
    np.testing.assert_allclose(dot_product_attention(query, key, value), expected, atol=1e-5)


def test_softmax_is_summed_in_float32():
    # 4096 equal weights of 2^-12 times ones: a bfloat16 sum of exponentials stops at 256.
    query = jnp.zeros((1, 1, 1, 8), jnp.bfloat16)
    key = jnp.zeros((1, 4096, 1, 8), jnp.bfloat16)
    value = jnp.ones((1, 4096, 1, 8), jnp.bfloat16)
    out = dot_product_attention(query, key, value)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(out, np.float32), 1.0, atol=0.01)
    text = str(jax.make_jaxpr(dot_product_attention)(query, key, value))
    exps = [line for line in text.splitlines() if "= exp " in line]
    assert exps and all(":f32" in line for line in exps)


def test_attention_dropout_acts_on_the_weights():
    n = 400
    identity = jnp.eye(n)[:, None, :]  # value j is the unit vector j, so the output is the weights
    zeros = jnp.zeros((n, 1, n))

    def drop(weights):
        keep = jax.random.bernoulli(jax.random.key(0), 0.75, weights.shape)
        return jnp.where(keep, weights / 0.75, 0)

    weights = np.asarray(dot_product_attention(zeros, zeros, identity, dropout=drop))[:, 0]
    kept = weights > 0
    np.testing.assert_allclose(weights[kept], 1 / n / 0.75, rtol=1e-5)
    assert abs(kept.mean() - 0.75) < 0.01
