"""The two-layer perceptron of a transformer layer."""

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.nn.initializers import Initializer

from kernels.gelu import Gelu, gelu
from kernels.target import Kernels
from layers.dense import Dense
from layers.initializers import truncated_normal


class Mlp(nn.Module):
    """dense1 -> GELU -> dropout -> dense2 -> dropout, on the last axis.

    Attributes:
        hidden_dim: width between the two dense layers.
        gelu: "tanh" or "exact".
        dropout_rate: rate after each of the two dense layers.
        dtype: computation type; parameters stay float32.
        kernels: "auto", or "plain" for the form of GELU that defines the numbers.
        kernel_init: see `Dense`.

    Reference:
        Dosovitskiy et al., arXiv 2010.11929, section 3.1.
    """

    hidden_dim: int
    gelu: Gelu = "exact"
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    kernels: Kernels = "auto"
    kernel_init: Initializer = truncated_normal

    @nn.compact
    def __call__(self, x: Array, deterministic: bool) -> Array:
        """Maps [..., c] to [..., c]."""
        dim = x.shape[-1]
        dense = partial(Dense, dtype=self.dtype, kernel_init=self.kernel_init)
        x = dense(self.hidden_dim, name="dense1")(x)
        x = gelu(x, self.gelu, self.kernels)
        x = nn.Dropout(self.dropout_rate, name="drop1")(x, deterministic=deterministic)
        x = dense(dim, name="dense2")(x)
        return nn.Dropout(self.dropout_rate, name="drop2")(x, deterministic=deterministic)
