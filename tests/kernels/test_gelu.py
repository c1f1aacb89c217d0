"""kernels/gelu.py: values and both derivatives of flax's GELU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.gelu import SHARES, gelu


@pytest.mark.parametrize("form", SHARES)
def test_gelu_equals_the_plain_form(form):
    x = jnp.linspace(-8, 8, 4001)
    for derivative in range(3):
        ours, plain = (
            lambda x, kernels=kernels: gelu(x, form, kernels) for kernels in ("auto", "plain")
        )
        for _ in range(derivative):
            ours, plain = (jax.grad(lambda x, f=f: f(x).sum()) for f in (ours, plain))
        np.testing.assert_allclose(ours(x), plain(x), atol=5e-6)


@pytest.mark.parametrize("form", SHARES)
def test_bfloat16_is_no_worse_than_the_plain_form(form):
    x = jnp.linspace(-4, 4, 4001).astype(jnp.bfloat16)

    def errors(kernels):
        for f in (
            lambda x, k: gelu(x, form, k),
            lambda x, k: jax.grad(lambda y: gelu(y, form, k).sum())(x),
        ):
            exact = f(x.astype(jnp.float32), "plain")
            out = f(x, kernels)
            assert out.dtype == jnp.bfloat16
            yield float(jnp.linalg.norm(out.astype(jnp.float32) - exact))

    for ours, plain in zip(errors("auto"), errors("plain"), strict=True):
        assert ours <= plain


def test_the_gradient_keeps_the_input_alone():
    x = jnp.zeros((4, 8), jnp.bfloat16)
    _, transpose = jax.vjp(lambda x: gelu(x, "tanh"), x)
    assert [kept.shape for kept in jax.tree.leaves(transpose) if kept.size > 1] == [x.shape]
