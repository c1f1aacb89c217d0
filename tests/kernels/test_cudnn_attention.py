"""kernels/cudnn_attention.py: when it is chosen, and what a step compiled for CUDA then holds.

cuDNN itself needs a GPU: there, tools that compare the forms run it.
"""

import re

import jax
import jax.numpy as jnp
import pytest

from kernels import cudnn_attention
from kernels.attention import choose, dot_product_attention
from kernels.target import compiling_for


@pytest.fixture
def cudnn(monkeypatch):
    """As if JAX found cuDNN 9.8; this machine has none."""
    module = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(module, "check_cudnn_version", lambda: 90800)
    cudnn_attention._is_here.cache_clear()
    yield
    cudnn_attention._is_here.cache_clear()


def arrays(n, h, k, d, dtype=jnp.bfloat16, leading=(2, 4)):
    query = jax.ShapeDtypeStruct((*leading, n, h, d), dtype)
    key = jax.ShapeDtypeStruct((*leading, n, k, d), dtype)
    return query, key, key


FITS = {
    "nest": (196, 3, 3, 32),
    "nest 384": (576, 3, 3, 32),
    "deit": (197, 6, 6, 64),
    "multi-query": (36, 3, 1, 64),
    "cifar": (16, 3, 3, 64),
    "widest": (196, 2, 2, 128),
    "float16": (196, 3, 3, 32, jnp.float16),
}
DOES_NOT_FIT = {
    "words of tnt_s": (16, 4, 4, 6),
    "words of tnt_b": (16, 4, 4, 10),
    "too wide": (196, 2, 2, 136),
    "float32": (196, 3, 3, 32, jnp.float32),
}


@pytest.mark.parametrize("shape", FITS.values(), ids=FITS)
def test_cudnn_is_chosen_for_what_it_computes(cudnn, shape):
    query, key, _ = arrays(*shape)
    assert choose(query, key, "gpu") == "cudnn"
    assert choose(query, key, "cpu") != "cudnn"
    assert choose(query, key, "tpu") != "cudnn"
    assert choose(query, key, "any") == "plain"


@pytest.mark.parametrize("shape", DOES_NOT_FIT.values(), ids=DOES_NOT_FIT)
def test_cudnn_is_not_chosen_for_what_it_refuses(cudnn, shape):
    query, key, _ = arrays(*shape)
    assert choose(query, key, "gpu") != "cudnn"


def test_without_cudnn_the_plain_form_serves():
    cudnn_attention._is_here.cache_clear()
    query, key, _ = arrays(196, 3, 3, 32)
    assert choose(query, key, "gpu") == "plain"


@pytest.mark.parametrize("shape", FITS.values(), ids=FITS)
def test_no_scores_in_a_gradient_lowered_for_cuda(cudnn, shape):
    n, h, _, d, *_ = shape

    def loss(query, key, value):
        return dot_product_attention(query, key, value).astype(jnp.float32).sum()

    with compiling_for("gpu"):
        traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(*arrays(*shape))
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmhaSoftmaxBackward" in text
    even = n + n % 2
    assert f"x{even}x{h}x{d}x" in text
    assert not re.search(rf"x{h}x{n}x{n}x|x{h}x{even}x{even}x", text)
