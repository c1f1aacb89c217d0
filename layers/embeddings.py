"""Tokens from patches of an image, and where they are: learned embeddings."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from layers.initializers import truncated_normal


def patch_embedding(dim: int, patch_size: tuple[int, int], dtype: Any) -> nn.Conv:
    """Returns the layer "patch_embedding", a linear map of each patch to a token.

    Args:
        dim: channels of a token.
        patch_size: (height, width) of a patch in pixels; they must divide the image.
        dtype: computation type; parameters stay float32.

    Returns:
        A layer that maps [b, height, width, channels] to [b, h, w, c].

    Reference:
        Dosovitskiy et al., arXiv 2010.11929, equation 1.
    """
    return nn.Conv(
        dim,
        kernel_size=patch_size,
        strides=patch_size,
        padding="VALID",
        dtype=dtype,
        kernel_init=truncated_normal,
        name="patch_embedding",
    )


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
