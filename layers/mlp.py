"""The two-layer perceptron of a transformer layer."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from kernels.gelu import Gelu, gelu
from kernels.target import Kernels
from layers.dense import Dense


class Mlp(nn.Module):
    """dense1 -> GELU -> dropout -> dense2 -> dropout, on the last axis.

    Attributes:
        hidden_dim: width between the two dense layers.
        gelu: "tanh" or "exact".
        dropout_rate: rate after each of the two dense layers.
        dtype: computation type; parameters stay float32.
        kernels: "auto", or "plain" for the form of GELU that defines the numbers.

    Reference:
        Dosovitskiy et al., arXiv 2010.11929, section 3.1.
    """

    hidden_dim: int
    gelu: Gelu = "exact"
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    kernels: Kernels = "auto"

    @nn.compact
    def __call__(self, x: Array, deterministic: bool) -> Array:
        """Maps [..., c] to [..., c]."""
        dim = x.shape[-1]
        x = Dense(self.hidden_dim, dtype=self.dtype, name="dense1")(x)
        x = gelu(x, self.gelu, self.kernels)
        x = nn.Dropout(self.dropout_rate, name="drop1")(x, deterministic=deterministic)
        x = Dense(dim, dtype=self.dtype, name="dense2")(x)
        return nn.Dropout(self.dropout_rate, name="drop2")(x, deterministic=deterministic)
