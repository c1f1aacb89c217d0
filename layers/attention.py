"""Self-attention over the second to last axis, with any leading axes.

Shape letters: n query tokens, m key tokens, c channels, h heads, k heads of keys and values,
g = h / k query heads per key head, d = c / h channels of a head.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from layers.field_checks import check_divisor
from layers.initializers import truncated_normal


def dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    dropout: Callable[[Array], Array] | None = None,
) -> Array:
    """Computes softmax(q k^T / sqrt(d)) v.

    All attention in this codebase runs through here. Axis order and head sharing are those of
    `jax.nn.dot_product_attention`, so that a fused kernel replaces this one function.

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
    # The softmax sums in float32 for every computation type.
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    if dropout is not None:
        weights = dropout(weights)
    out = jnp.einsum("...kgnm,...mkd->...nkgd", weights, value)  # [..., n, k, g, d]
    return out.reshape(*leading, n, h, d)  # [..., n, h, d]


class SelfAttention(nn.Module):
    """What multi-head and multi-query attention have in common: their fields and their ends.

    Attributes:
        num_heads: number of query heads; must divide the width of the input.
        qkv_bias: whether query, key and value have a bias. The output always has one.
        dropout_rate: rate of dropout on the attention weights.
        dtype: computation type; parameters stay float32 and so does the softmax.
    """

    num_heads: int
    qkv_bias: bool = True
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32

    def _project_in(self, x: Array, *parts: int, name: str) -> Array:
        """Maps [..., n, c] to [..., n, *parts, d]."""
        dim = x.shape[-1]
        check_divisor(dim, f"the width {dim}", num_heads=self.num_heads)
        return nn.DenseGeneral(
            (*parts, dim // self.num_heads),
            use_bias=self.qkv_bias,
            dtype=self.dtype,
            kernel_init=truncated_normal,
            name=name,
        )(x)

    def _attend(self, query: Array, key: Array, value: Array, deterministic: bool) -> Array:
        """Maps query [..., n, h, d], key and value [..., n, k, d] to [..., n, c]."""
        drop = nn.Dropout(self.dropout_rate, name="drop")
        x = dot_product_attention(
            query, key, value, dropout=lambda weights: drop(weights, deterministic=deterministic)
        )
        dim = x.shape[-2] * x.shape[-1]
        return nn.DenseGeneral(
            dim, axis=(-2, -1), dtype=self.dtype, kernel_init=truncated_normal, name="out"
        )(x)


class MultiHeadAttention(SelfAttention):
    """Self-attention in which every head has its own query, key and value.

    Reference:
        Vaswani et al., arXiv 1706.03762, section 3.2.2.
    """

    @nn.compact
    def __call__(self, x: Array, deterministic: bool) -> Array:
        """Maps [..., n, c] to [..., n, c]; tokens of different leading indices never meet."""
        qkv = self._project_in(x, 3, self.num_heads, name="qkv")  # [..., n, 3, h, d]
        query, key, value = (qkv[..., i, :, :] for i in range(3))  # [..., n, h, d]
        return self._attend(query, key, value, deterministic)


class MultiQueryAttention(SelfAttention):
    """Self-attention in which all heads share one key and one value.

    Reference:
        Shazeer, "Fast Transformer Decoding: One Write-Head is All You Need", arXiv 1911.02150.
    """

    @nn.compact
    def __call__(self, x: Array, deterministic: bool) -> Array:
        """Maps [..., n, c] to [..., n, c]; tokens of different leading indices never meet."""
        query = self._project_in(x, self.num_heads, name="query")  # [..., n, h, d]
        key_value = self._project_in(x, 2, name="key_value")  # [..., n, 2, d]
        key, value = key_value[..., :1, :], key_value[..., 1:, :]  # [..., n, 1, d]
        return self._attend(query, key, value, deterministic)


Attention = Literal["multi_head", "multi_query"]
ATTENTIONS = {"multi_head": MultiHeadAttention, "multi_query": MultiQueryAttention}
