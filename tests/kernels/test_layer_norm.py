"""kernels/layer_norm.py: each form against flax's layer norm; the kernel runs interpreted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from kernels import layer_norm as norms
from kernels.target import compiling_for

EPSILON = 1e-6


def case(shape):
    keys = jax.random.split(jax.random.key(0), 5)
    x, first, second = (jax.random.normal(key, shape) for key in keys[:3])
    scale, bias = (jax.random.normal(key, shape[-1:]) for key in keys[3:])
    return 2 * x + 1, 1 + 0.1 * scale, 0.1 * bias, first, second


def value_and_gradients(function, x, scale, bias, first, second, dtype=jnp.float32):
    """Of the norm and of what goes on beside it."""

    def loss(x, scale, bias):
        y, past = function(x.astype(dtype), scale, bias)
        return (y * first).sum() + (past * second).sum(), y

    (_, y), gradients = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(x, scale, bias)
    return y, *gradients


def flax(x, scale, bias):
    module = nn.LayerNorm(epsilon=EPSILON, dtype=x.dtype)
    return module.apply({"params": {"scale": scale, "bias": bias}}, x), x


def ours(form):
    return lambda *arrays: norms._layer_norm(EPSILON, form, True, *arrays)


# DeiT, NesT (one level's blocks), TNT's words of a sentence, and what fits no tile evenly.
SHAPES = [(2, 197, 384), (2, 4, 49, 96), (2, 5, 640), (3, 130, 40), (1, 1, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", ["jnp", "interpret"])
def test_each_form_equals_flax(shape, form):
    arrays = case(shape)
    expected = value_and_gradients(flax, *arrays)
    for value, reference in zip(value_and_gradients(ours(form), *arrays), expected, strict=True):
        np.testing.assert_allclose(value, reference, atol=2e-5 * float(abs(reference).max()))


@pytest.mark.parametrize("form", ["jnp", "interpret"])
def test_bfloat16_is_no_worse_than_flax(form):
    arrays = case((2, 197, 96))
    exact = value_and_gradients(flax, *arrays)

    def errors(function):
        values = value_and_gradients(function, *arrays, dtype=jnp.bfloat16)
        return [
            float(jnp.linalg.norm(value.astype(jnp.float32) - reference))
            for value, reference in zip(values, exact, strict=True)
        ]

    for error, reference in zip(errors(ours(form)), errors(flax), strict=True):
        assert error <= 1.05 * reference


def test_without_handing_on():
    x, scale, bias, first, _ = case((2, 9, 24))
    gradients = []
    for form in ("jnp", "interpret"):

        def loss(x, form=form):
            (y,) = norms._layer_norm(EPSILON, form, False, x, scale, bias)
            return (y * first).sum()

        gradients.append(jax.grad(loss)(x))
    np.testing.assert_allclose(*gradients, atol=1e-5)


def test_it_can_be_differentiated_twice():
    x, scale, bias, first, second = case((2, 5, 8))

    def slope(function):
        def loss(x):
            return (function(x, scale, bias)[0] * first).sum()

        return jax.grad(lambda x: (jax.grad(loss)(x) * second).sum())(x)

    np.testing.assert_allclose(slope(ours("jnp")), slope(flax), atol=1e-4)


def test_the_kernel_is_chosen_on_a_gpu():
    x, scale, bias, *_ = case((2, 9, 24))

    def traced(kernels="auto", x=x):
        return str(
            jax.make_jaxpr(lambda x: norms.layer_norm(x, scale, bias, EPSILON, False, kernels))(x)
        )

    assert "pallas_call" not in traced()
    with compiling_for("gpu"):
        assert "pallas_call" in traced()
        assert "pallas_call" not in traced("plain")
        assert "pallas_call" not in traced(x=x[:, 0])
