"""layers/ against plain NumPy, written out as loops."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.attention import (
    ATTENTIONS,
    MultiHeadAttention,
    MultiQueryAttention,
)
from layers.drop_path import DropPath, drop_path_rates
from layers.embeddings import PositionEmbedding
from layers.initializers import truncated_normal
from layers.mlp import Mlp


def random_params(module, x, seed=0):
    """Parameters of which none is zero, so that a forgotten bias shows."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, True)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: rng.normal(0, 0.5, s.shape).astype(np.float32), shapes)


def attend(query, key, value):
    """One head: query [n, d], key and value [m, d]."""
    out = np.zeros_like(query)
    for i in range(len(query)):
        scores = [float(query[i] @ key[j]) / math.sqrt(len(query[i])) for j in range(len(key))]
        exps = [math.exp(score - max(scores)) for score in scores]
        for j in range(len(key)):
            out[i] += exps[j] / sum(exps) * value[j]
    return out


@pytest.mark.parametrize("leading", [(), (2,), (2, 3)])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_multi_head_attention_equals_numpy_loops(leading, qkv_bias):
    n, c, heads = 5, 12, 3
    d = c // heads
    x = np.random.default_rng(1).normal(size=(*leading, n, c)).astype(np.float32)
    module = MultiHeadAttention(num_heads=heads, qkv_bias=qkv_bias)
    params = random_params(module, x)
    assert ("bias" in params["qkv"]) == qkv_bias
    assert "bias" in params["out"]
    found = module.apply({"params": params}, x, True)
    assert found.shape == x.shape

    kernel, out = params["qkv"]["kernel"], params["out"]
    for index in np.ndindex(*leading):
        expected = np.tile(out["bias"], (n, 1))
        for head in range(heads):
            q, k, v = (
                x[index] @ kernel[:, i, head]
                + (params["qkv"]["bias"][i, head] if qkv_bias else np.zeros(d))
                for i in range(3)
            )
            expected = expected + attend(q, k, v) @ out["kernel"][head]
        np.testing.assert_allclose(found[index], expected, atol=2e-5)


@pytest.mark.parametrize("leading", [(2,), (2, 3)])
def test_multi_query_attention_equals_numpy_loops(leading):
    n, c, heads = 5, 12, 3
    x = np.random.default_rng(1).normal(size=(*leading, n, c)).astype(np.float32)
    module = MultiQueryAttention(num_heads=heads)
    params = random_params(module, x)
    found = module.apply({"params": params}, x, True)

    query, shared, out = params["query"], params["key_value"], params["out"]
    for index in np.ndindex(*leading):
        k, v = (x[index] @ shared["kernel"][:, i] + shared["bias"][i] for i in range(2))
        expected = np.tile(out["bias"], (n, 1))
        for head in range(heads):
            q = x[index] @ query["kernel"][:, head] + query["bias"][head]
            expected = expected + attend(q, k, v) @ out["kernel"][head]
        np.testing.assert_allclose(found[index], expected, atol=2e-5)


@pytest.mark.parametrize("kind", sorted(ATTENTIONS))
def test_attention_module_dropout_only_in_training(kind):
    x = jax.random.normal(jax.random.key(0), (2, 6, 8))
    plain, dropping = (ATTENTIONS[kind](num_heads=2, dropout_rate=rate) for rate in (0.0, 0.5))
    variables = {"params": random_params(plain, x)}
    rngs = {"dropout": jax.random.key(1)}
    expected = plain.apply(variables, x, True)
    np.testing.assert_array_equal(dropping.apply(variables, x, True), expected)
    np.testing.assert_array_equal(plain.apply(variables, x, False), expected)
    assert not np.allclose(dropping.apply(variables, x, False, rngs=rngs), expected)


@pytest.mark.parametrize("kind", sorted(ATTENTIONS))
def test_heads_must_divide_the_width(kind):
    with pytest.raises(ValueError, match="num_heads=5: does not divide the width 12"):
        ATTENTIONS[kind](num_heads=5).init(jax.random.key(0), jnp.ones((1, 4, 12)), True)


@pytest.mark.parametrize("gelu", ["tanh", "exact"])
def test_mlp_equals_numpy(gelu):
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    module = Mlp(hidden_dim=7, gelu=gelu)
    params = random_params(module, x)
    hidden = x @ params["dense1"]["kernel"] + params["dense1"]["bias"]
    if gelu == "exact":
        hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    else:
        inner = math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)
        hidden = hidden * 0.5 * (1 + np.tanh(inner))
    expected = hidden @ params["dense2"]["kernel"] + params["dense2"]["bias"]
    np.testing.assert_allclose(module.apply({"params": params}, x, True), expected, atol=1e-5)


def test_drop_path_drops_whole_samples_at_its_rate():
    x = jnp.ones((4000, 2, 3))
    rngs = {"dropout": jax.random.key(0)}
    found = np.asarray(DropPath(0.3).apply({}, x, deterministic=False, rngs=rngs))
    kept = found[:, 0, 0] > 0
    assert abs(kept.mean() - 0.7) < 0.03  # four standard deviations
    np.testing.assert_allclose(found[kept], 1 / 0.7, rtol=1e-6)
    np.testing.assert_array_equal(found[~kept], 0)


def test_drop_path_does_nothing_in_evaluation_or_at_rate_zero():
    x = jax.random.normal(jax.random.key(0), (8, 3))
    np.testing.assert_array_equal(DropPath(0.9).apply({}, x, deterministic=True), x)
    np.testing.assert_array_equal(DropPath(0.0).apply({}, x, deterministic=False), x)


def test_drop_path_keeps_bfloat16():
    x = jnp.ones((8, 3), jnp.bfloat16)
    rate = drop_path_rates(np.float32(0.5), 3)[1]
    rngs = {"dropout": jax.random.key(0)}
    assert DropPath(rate).apply({}, x, deterministic=False, rngs=rngs).dtype == jnp.bfloat16


def test_drop_path_rates_are_linear_python_floats():
    for max_rate, num_layers in ((0.2, 12), (0.5, 24), (0.1, 2), (0.3, 1)):
        rates = drop_path_rates(max_rate, num_layers)
        np.testing.assert_allclose(rates, np.linspace(0, max_rate, num_layers), rtol=1e-12)
        assert all(type(rate) is float for rate in rates)


def test_position_embedding_adds_one_table_to_every_sample():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    table = np.random.default_rng(1).normal(size=(3, 4, 5)).astype(np.float32)
    found = PositionEmbedding().apply({"params": {"embedding": table}}, x)
    np.testing.assert_allclose(found[0], x[0] + table, rtol=1e-6)
    np.testing.assert_allclose(found[1], x[1] + table, rtol=1e-6)


def test_truncated_normal_is_cut_and_not_rescaled():
    """A standard normal cut at 2 has variance 1 - 4 phi(2) / (2 Phi(2) - 1) = 0.7737."""
    weights = np.asarray(truncated_normal(jax.random.key(0), (1000, 1000), jnp.float32))
    assert np.abs(weights).max() <= 0.04
    phi = math.exp(-2) / math.sqrt(2 * math.pi)
    expected = 0.02 * math.sqrt(1 - 4 * phi / math.erf(math.sqrt(2)))
    assert abs(weights.std() - expected) < 5e-5  # about 0.0176; rescaled it would be 0.02
    assert abs(weights.mean()) < 1e-4
