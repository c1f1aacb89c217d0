"""Layer norm over the channels."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from kernels.layer_norm import layer_norm
from kernels.target import Kernels


class LayerNorm(nn.Module):
    """Normalises the last axis, then scales and shifts each channel.

    Attributes:
        epsilon: added to the variance.
        dtype: type of the result; parameters and the computation stay float32.
        kernels: "plain" for the formula alone, whose gradient JAX derives.

    Reference:
        Ba et al., arXiv 1607.06450.
    """

    epsilon: float
    dtype: Any = jnp.float32
    kernels: Kernels = "auto"

    @nn.compact
    def __call__(self, x: Array, hand_on: bool = False) -> Array | tuple[Array, Array]:
        """Maps [..., c] to [..., c].

        With `hand_on` it returns x as well, for the branch around the norm: its gradient is then
        added in the norm's own, without a pass over memory.
        """
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        y, *x = layer_norm(x, scale, bias, self.epsilon, hand_on, self.kernels)
        y = y.astype(self.dtype)
        return (y, *x) if hand_on else y
