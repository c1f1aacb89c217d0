"""GELU whose gradient is recomputed from its input, which is all it keeps.

Compiled for an H100 in bfloat16 at 64 images, the GELUs of NesT-T's train step and what XLA fuses
with them move 60 MB an image instead of 84, before cuBLAS takes the forward one into its product.
"""

import math
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from kernels.precision import at_least_float32
from kernels.target import Kernels, platform

# "tanh" is the approximation that the official NesT uses (the default of flax), "exact" the erf
# form of PyTorch's default: TNT, DeiT and timm's port of NesT.
Gelu = Literal["tanh", "exact"]


def exact_share(x: Array) -> Array:
    """Returns P(normal < x)."""
    if platform() == "cpu":
        # erf is one polynomial; XLA's erfc is two, of which each element uses one. Processor time
        # of GELU on 602,112 numbers: 0.75 -> 0.33 ms, its gradient 1.04 -> 0.63 ms.
        return 0.5 + 0.5 * jax.lax.erf(0.5**0.5 * x)
    return 0.5 * jax.lax.erfc(-(0.5**0.5) * x)


def tanh_share(x: Array) -> Array:
    """Returns the approximation of P(normal < x) by a tanh."""
    return 0.5 + 0.5 * jnp.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3))


# The factor of x.
SHARES = {"tanh": tanh_share, "exact": exact_share}


def gelu(x: Array, form: Gelu, kernels: Kernels = "auto") -> Array:
    """Computes x * P(normal < x), or its approximation by a tanh.

    Args:
        x: of any shape.
        form: "tanh" or "exact".
        kernels: "plain" for flax's own.

    Returns:
        Of the shape and type of `x`; computed in float32 at least.

    Reference:
        Hendrycks and Gimpel, arXiv 1606.08415.
    """
    if kernels == "plain":
        return nn.gelu(x, approximate=form == "tanh")
    return _gelu(x, form)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gelu(x: Array, form: Gelu) -> Array:
    if form == "tanh" and platform() == "gpu":  # XLA knows this one: cuBLAS ends a product with it
        return nn.gelu(x)
    wide = x.astype(at_least_float32(x))
    return (wide * SHARES[form](wide)).astype(x.dtype)


def _forward(x: Array, form: Gelu) -> tuple[Array, Array]:
    return _gelu(x, form), x


def _backward(form: Gelu, x: Array, gradient: Array) -> tuple[Array]:
    x, gradient = jax.lax.optimization_barrier((x, gradient))  # else XLA keeps the forward's tanh
    wide = x.astype(at_least_float32(x))
    share = SHARES[form](wide)
    if form == "exact":
        slope = jnp.exp(-0.5 * wide**2) * (2 * math.pi) ** -0.5
    else:  # of 0.5 + 0.5 tanh(u): 0.5 (1 - tanh(u)^2) u' = 2 share (1 - share) u'
        inner_slope = (2 / math.pi) ** 0.5 * (1 + 3 * 0.044715 * wide**2)
        slope = 2 * share * (1 - share) * inner_slope
    return ((gradient.astype(wide.dtype) * (share + wide * slope)).astype(x.dtype),)


_gelu.defvjp(_forward, _backward)
