"""Self-attention over the second to last axis, with any leading axes.

Shape letters: n query tokens, m key tokens, c channels, h heads, k heads of keys and values,
g = h / k query heads that share one of them, d = c / h channels of a head.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from layers.initializers import truncated_normal


def dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    dropout: Callable[[Array], Array] | None = None,
) -> Array:
    """Computes softmax(q k^T / sqrt(d)) v.

    Every attention of this codebase runs through here, in the axis order and with the head
    sharing of `jax.nn.dot_product_attention`: a fused kernel replaces this one function.

    Args:
        query: [..., n, h, d].
        key: [..., m, k, d], where k divides h: k = h is multi-head, k = 1 multi-query attention.
        value: [..., m, k, d].
        dropout: applied to the attention weights, [..., k, g, n, m]; None for none.

    Returns:
        [..., n, h, d], in the type of `value`.

    Reference:
        Vaswani et al., arXiv 1706.03762, equation 1; Shazeer, arXiv 1911.02150, section 3.
    """
    *leading, n, h, d = query.shape
    k = key.shape[-2]
    query = (query * d**-0.5).reshape(*leading, n, k, h // k, d)  # [..., n, k, g, d]
    scores = jnp.einsum(
        "...nkgd,...mkd->...kgnm", query, key, preferred_element_type=jnp.float32
    )  # [..., k, g, n, m]
    # The exponentials are summed in float32 whatever the computation type.
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    if dropout is not None:
        weights = dropout(weights)
    out = jnp.einsum("...kgnm,...mkd->...nkgd", weights, value)  # [..., n, k, g, d]
    return out.reshape(*leading, n, h, d)  # [..., n, h, d]


def _head_dim(dim: int, num_heads: int) -> int:
    if dim % num_heads:
        raise ValueError(f"num_heads={num_heads} does not divide the width {dim}")
    return dim // num_heads


class MultiHeadAttention(nn.Module):
    """Self-attention in which every head has its own query, key and value.

    Attributes:
        num_heads: number of heads; must divide the width of the input.
        qkv_bias: whether query, key and value have a bias. The output always has one.
        dropout_rate: rate of dropout on the attention weights.
        dtype: computation type; parameters stay float32 and so does the softmax.

    Reference:
        Vaswani et al., arXiv 1706.03762, section 3.2.2.
    """

    num_heads: int
    qkv_bias: bool = True
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, deterministic: bool) -> Array:
        """Maps [..., n, c] to [..., n, c]; tokens of different leading indices never meet."""
        dim = x.shape[-1]
        qkv = nn.DenseGeneral(
            (3, self.num_heads, _head_dim(dim, self.num_heads)),
            use_bias=self.qkv_bias,
            dtype=self.dtype,
            kernel_init=truncated_normal,
            name="qkv",
        )(x)  # [..., n, 3, h, d]
        query, key, value = (qkv[..., i, :, :] for i in range(3))  # [..., n, h, d]
        drop = nn.Dropout(self.dropout_rate, name="drop")
        x = dot_product_attention(
            query, key, value, dropout=lambda weights: drop(weights, deterministic=deterministic)
        )
        return nn.DenseGeneral(
            dim, axis=(-2, -1), dtype=self.dtype, kernel_init=truncated_normal, name="out"
        )(x)  # [..., n, c]


class MultiQueryAttention(nn.Module):
    """Self-attention in which all heads share one key and one value.

    Attributes:
        num_heads: number of query heads; must divide the width of the input.
        qkv_bias: whether query, key and value have a bias. The output always has one.
        dropout_rate: rate of dropout on the attention weights.
        dtype: computation type; parameters stay float32 and so does the softmax.

    Reference:
        Shazeer, "Fast Transformer Decoding: One Write-Head is All You Need", arXiv 1911.02150.
    """

    num_heads: int
    qkv_bias: bool = True
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, deterministic: bool) -> Array:
        """Maps [..., n, c] to [..., n, c]; tokens of different leading indices never meet."""
        dim = x.shape[-1]
        head_dim = _head_dim(dim, self.num_heads)
        query = nn.DenseGeneral(
            (self.num_heads, head_dim),
            use_bias=self.qkv_bias,
            dtype=self.dtype,
            kernel_init=truncated_normal,
            name="query",
        )(x)  # [..., n, h, d]
        key_value = nn.DenseGeneral(
            (2, head_dim),
            use_bias=self.qkv_bias,
            dtype=self.dtype,
            kernel_init=truncated_normal,
            name="key_value",
        )(x)  # [..., n, 2, d]
        key, value = key_value[..., :1, :], key_value[..., 1:, :]  # [..., n, 1, d]
        drop = nn.Dropout(self.dropout_rate, name="drop")
        x = dot_product_attention(
            query, key, value, dropout=lambda weights: drop(weights, deterministic=deterministic)
        )
        return nn.DenseGeneral(
            dim, axis=(-2, -1), dtype=self.dtype, kernel_init=truncated_normal, name="out"
        )(x)  # [..., n, c]


ATTENTIONS = {"multi_head": MultiHeadAttention, "multi_query": MultiQueryAttention}
