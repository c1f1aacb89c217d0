"""Learned position embeddings."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from layers.initializers import truncated_normal


class PositionEmbedding(nn.Module):
    """Adds a learned vector to every position of all axes but the leading one.

    Attributes:
        dtype: computation type; the table stays float32.

    Reference:
        Dosovitskiy et al., arXiv 2010.11929, section 3.1.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Adds a table of shape [...] to x of shape [b, ...]."""
        table = self.param("embedding", truncated_normal, x.shape[1:], jnp.float32)
        return x + table.astype(self.dtype)
