"""Self-attention over the second to last axis, with any leading axes.

Shape letters: n tokens, c channels, h heads, k heads of keys and values, d = c / h channels of a
head.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from kernels.attention import dot_product_attention, self_attention
from kernels.target import Kernels
from layers.dense import Dense
from layers.field_checks import check_divisor
from layers.intermediates import ATTENTION_WEIGHTS, is_asked_for


class SelfAttention(nn.Module):
    """What multi-head and multi-query attention have in common: their fields and their ends.

    Applied with the collection "attention_weights" mutable, the plain form of attention runs, and
    its weights [..., k, h / k, n, n], before dropout, are sown there as "weights"; queries come
    before keys.

    Attributes:
        num_heads: number of query heads; must divide the width of the input.
        qkv_bias: whether query, key and value have a bias. The output always has one.
        dropout_rate: rate of dropout on the attention weights.
        dtype: computation type; parameters stay float32 and so does the softmax.
        kernels: "auto", or "plain" for the form of attention that defines the numbers.
    """

    num_heads: int
    qkv_bias: bool = True
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    kernels: Kernels = "auto"

    def _project_in(self, x: Array, *parts: int, name: str) -> Array:
        """Maps [..., n, c] to [..., n, *parts, d]."""
        dim = x.shape[-1]
        check_divisor(dim, f"the width {dim}", num_heads=self.num_heads)
        features = (*parts, dim // self.num_heads)
        return Dense(features, use_bias=self.qkv_bias, dtype=self.dtype, name=name)(x)

    def _on_weights(self, deterministic: bool) -> Callable[[Array], Array] | None:
        """Returns what happens to the attention weights before they are used; None: nothing."""
        drop = None
        if self.dropout_rate and not deterministic:
            drop = partial(nn.Dropout(self.dropout_rate, name="drop"), deterministic=False)
        if not is_asked_for(self, ATTENTION_WEIGHTS):
            return drop

        def sow(weights: Array) -> Array:
            self.sow(ATTENTION_WEIGHTS, "weights", weights)
            return weights if drop is None else drop(weights)

        return sow

    def _project_out(self, x: Array) -> Array:
        """Maps [..., n, h, d] to [..., n, c]."""
        dim = x.shape[-2] * x.shape[-1]
        return Dense(dim, num_axes=2, dtype=self.dtype, name="out")(x)


class MultiHeadAttention(SelfAttention):
    """Self-attention in which every head has its own query, key and value.

    Reference:
        Vaswani et al., arXiv 1706.03762, section 3.2.2.
    """

    @nn.compact
    def __call__(self, x: Array, deterministic: bool) -> Array:
        """Maps [..., n, c] to [..., n, c]; tokens of different leading indices never meet."""
        qkv = self._project_in(x, 3, self.num_heads, name="qkv")  # [..., n, 3, h, d]
        x = self_attention(qkv, self._on_weights(deterministic), self.kernels)  # [..., n, h, d]
        return self._project_out(x)


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
        key, value = jnp.split(key_value, 2, axis=-2)  # [..., n, 1, d]
        drop = self._on_weights(deterministic)
        x = dot_product_attention(query, key, value, drop, self.kernels)  # [..., n, h, d]
        return self._project_out(x)


Attention = Literal["multi_head", "multi_query"]
ATTENTIONS = {"multi_head": MultiHeadAttention, "multi_query": MultiQueryAttention}
