"""The two-layer perceptron of a transformer layer."""

from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from layers.initializers import truncated_normal

Gelu = Literal["tanh", "exact"]
# "tanh" is the approximation that the official NesT uses (the default of flax), "exact" the erf
# form of PyTorch's default: TNT, DeiT and timm's port of NesT.
GELUS = {
    "tanh": partial(nn.gelu, approximate=True),
    "exact": partial(nn.gelu, approximate=False),
}


class Mlp(nn.Module):
    """dense1 -> GELU -> dropout -> dense2 -> dropout, on the last axis.

    Attributes:
        hidden_dim: width between the two dense layers.
        gelu: a key of GELUS.
        dropout_rate: rate after each of the two dense layers.
        dtype: computation type; parameters stay float32.

    Reference:
        Dosovitskiy et al., arXiv 2010.11929, section 3.1.
    """

    hidden_dim: int
    gelu: Gelu = "exact"
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, deterministic: bool) -> Array:
        """Maps [..., c] to [..., c]."""
        dim = x.shape[-1]
        x = nn.Dense(
            self.hidden_dim, dtype=self.dtype, kernel_init=truncated_normal, name="dense1"
        )(x)
        x = GELUS[self.gelu](x)
        x = nn.Dropout(self.dropout_rate, name="drop1")(x, deterministic=deterministic)
        x = nn.Dense(dim, dtype=self.dtype, kernel_init=truncated_normal, name="dense2")(x)
        return nn.Dropout(self.dropout_rate, name="drop2")(x, deterministic=deterministic)
