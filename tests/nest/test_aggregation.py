"""Block aggregations of NesT against loops over the windows, and max_pool against flax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from nest.aggregation import AGGREGATIONS, PADDINGS, max_pool
from tests.model_inputs import random_array, random_params


def windows(x, padding):
    """Yields (row, column, tokens in its 3x3 window as {(i, j): [b, c]}) of the result."""
    h, w = x.shape[1:3]
    start = -PADDINGS[padding][0]
    for row in range(h // 2):
        for column in range(w // 2):
            places = {
                (i, j): (2 * row + start + i, 2 * column + start + j)
                for i in range(3)
                for j in range(3)
            }
            tokens = {ij: x[:, r, c] for ij, (r, c) in places.items() if 0 <= r < h and 0 <= c < w}
            yield row, column, tokens


def half(x, dim):
    return np.zeros((x.shape[0], x.shape[1] // 2, x.shape[2] // 2, dim), np.float32)


def pool_reference(x, padding, reduce):
    out = half(x, x.shape[-1])
    for row, column, tokens in windows(x, padding):
        out[:, row, column] = reduce(np.stack(list(tokens.values())), axis=0)
    return out


def conv_reference(x, params):
    h, w = x.shape[1:3]
    out = np.zeros((*x.shape[:3], params["kernel"].shape[-1]), np.float32) + params["bias"]
    for row in range(h):
        for column in range(w):
            for i in range(3):
                for j in range(3):
                    r, c = row + i - 1, column + j - 1
                    if 0 <= r < h and 0 <= c < w:
                        out[:, row, column] += x[:, r, c] @ params["kernel"][i, j]
    return out


def norm_reference(x, params):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-6) * params["scale"] + params["bias"]


def conv_norm_maxpool_reference(x, params, padding):
    x = norm_reference(conv_reference(x, params["conv"]), params["norm"])
    return pool_reference(x, padding, np.max)


def project(x, params):
    if "projection" not in params:
        return x
    return x @ params["projection"]["kernel"] + params["projection"].get("bias", 0)


def aggregation_reference(kind, x, params, padding, block_size):
    _, h, w, c = x.shape
    if kind == "conv_norm_maxpool":
        return conv_norm_maxpool_reference(x, params, padding)
    bh, bw = block_size
    corners = [(r, s) for r in range(0, h, bh) for s in range(0, w, bw)]
    if kind == "conv_norm_maxpool_in_block":
        out = half(x, params["conv"]["bias"].size)
        for r, s in corners:
            one = conv_norm_maxpool_reference(x[:, r : r + bh, s : s + bw], params, padding)
            out[:, r // 2 : (r + bh) // 2, s // 2 : (s + bw) // 2] = one
        return out
    if kind == "conv_in_block_conv_norm_maxpool":
        out = np.zeros_like(x)
        for r, s in corners:
            one = x[:, r : r + bh, s : s + bw]
            out[:, r : r + bh, s : s + bw] = conv_reference(one, params["conv_in_block"])
        return conv_norm_maxpool_reference(out, params, padding)
    if kind == "maxpool":
        return project(pool_reference(x, padding, np.max), params)
    if kind == "avgpool":
        return project(pool_reference(x, padding, np.mean), params)
    if kind == "strided_conv":
        out = half(x, params["conv"]["bias"].size) + params["conv"]["bias"]
        for row, column, tokens in windows(x, padding):
            for (i, j), token in tokens.items():
                out[:, row, column] += token @ params["conv"]["kernel"][i, j]
        return norm_reference(out, params["norm"])
    assert kind == "patch_merging"
    out = half(x, 4 * c)
    for row in range(h // 2):
        for column in range(w // 2):
            four = [x[:, 2 * row + i, 2 * column + j] for i in range(2) for j in range(2)]
            out[:, row, column] = np.concatenate(four, axis=-1)
    return project(norm_reference(out, params["norm"]), params)


@pytest.mark.parametrize("dim", [4, 6])
@pytest.mark.parametrize("padding", sorted(PADDINGS))
@pytest.mark.parametrize("kind", sorted(AGGREGATIONS))
def test_aggregation_equals_loops(kind, padding, dim):
    x, block_size = random_array(2, 8, 12, 4), (4, 6)
    module = AGGREGATIONS[kind](dim=dim, block_size=block_size, padding=padding)
    params = random_params(module, x)
    assert ("projection" in params) == (kind == "patch_merging" or ("pool" in kind[:7] and dim > 4))
    found = jax.jit(module.apply)({"params": params}, x)
    expected = aggregation_reference(kind, x, params, padding, block_size)
    assert found.shape == (2, 4, 6, dim)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_of_the_two_convolutions_the_second_alone_sees_neighbouring_blocks():
    """Where each convolution's result changes with the first token of the last of 2x2 blocks."""
    x = random_array(1, 8, 12, 4)
    changed = x.copy()
    changed[:, 4, 6] += 1  # blocks of 4x6
    module = AGGREGATIONS["conv_in_block_conv_norm_maxpool"](dim=6, block_size=(4, 6))
    variables = {"params": random_params(module, x)}
    before, after = (
        module.apply(variables, x, capture_intermediates=True)[1]["intermediates"]
        for x in (x, changed)
    )

    def places(name):
        (first,), (second,) = (found[name]["__call__"] for found in (before, after))
        return np.argwhere(np.any(np.asarray(first) != np.asarray(second), axis=-1)).tolist()

    in_block = [[3, row, column] for row in (0, 1) for column in (0, 1)]  # [block, row, column]
    assert places("conv_in_block") == in_block
    on_plane = [[0, row, column] for row in range(3, 7) for column in range(5, 9)]
    assert places("conv") == on_plane


@pytest.mark.parametrize("kind", sorted(AGGREGATIONS))
def test_aggregation_in_bfloat16(kind):
    x = random_array(2, 4, 8, 4)
    exact = AGGREGATIONS[kind](dim=6, block_size=(2, 4))
    params = random_params(exact, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    found = exact.clone(dtype=jnp.bfloat16).apply({"params": params}, x.astype(jnp.bfloat16))
    expected = np.asarray(exact.apply({"params": params}, x))
    assert found.dtype == jnp.bfloat16
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize(("padding", "flax"), [("same", "SAME"), ("torch", ((1, 1), (1, 1)))])
def test_max_pool_has_the_values_and_gradients_of_flax(padding, flax):
    x, weight = random_array(2, 10, 6, 5), random_array(2, 5, 3, 5)

    def ours(x):
        return max_pool(x, padding)

    def theirs(x):
        return nn.max_pool(x, (3, 3), (2, 2), padding=flax)

    np.testing.assert_array_equal(ours(x), theirs(x))
    found, expected = (
        jax.grad(lambda x, pool=pool: (pool(x) * weight).sum())(x) for pool in (ours, theirs)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_max_pool_of_ties_keeps_the_sum_of_the_gradient():
    gradient = jax.grad(lambda x: max_pool(x, "torch").sum())(jnp.zeros((1, 8, 8, 1)))
    assert np.isfinite(gradient).all() and float(gradient.sum()) == pytest.approx(16)
