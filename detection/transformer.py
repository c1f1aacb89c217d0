"""DETR's transformer: layers that know where their tokens are.

A token's place is added to the queries and keys of every attention, never to the values.

Shape letters: b batch, n tokens of the image, q object queries, c channels, h heads, d = c / h
channels of a head.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from kernels.precision import at_least_float32
from layers.initializers import glorot_uniform
from layers.layer_norm import LayerNorm

LAYER_NORM_EPSILON = 1e-5
# The official code initialises query, key and value as one matrix, three times as wide.
_glorot_uniform_of_three = nn.initializers.variance_scaling(0.5, "fan_avg", "uniform")


class Attention(nn.Module):
    """Multi-head attention of some tokens to others.

    Attributes:
        num_heads: must divide the width of the queries.
        dropout_rate: rate on the attention weights.
        dtype: computation type; parameters stay float32 and so does the softmax.

    Reference:
        Vaswani et al., arXiv 1706.03762, section 3.2.2.
    """

    num_heads: int
    dropout_rate: float
    dtype: Any

    @nn.compact
    def __call__(
        self, query: Array, key: Array, value: Array, mask: Array | None, train: bool
    ) -> Array:
        """Attends.

        Args:
            query: [b, q, c].
            key, value: [b, n, c].
            mask: [b, n], True for tokens that may be attended to; None: all.
            train: whether dropout acts.

        Returns:
            [b, q, c].
        """
        dim = query.shape[-1]

        def heads(x: Array, name: str) -> Array:
            dense = nn.Dense(dim, dtype=self.dtype, kernel_init=_glorot_uniform_of_three, name=name)
            return dense(x).reshape(*x.shape[:2], self.num_heads, -1)  # [b, n, h, d]

        query, key, value = heads(query, "query"), heads(key, "key"), heads(value, "value")
        scores = jnp.einsum("bqhd,bnhd->bhqn", query * query.shape[-1] ** -0.5, key)
        scores = scores.astype(at_least_float32(scores))
        if mask is not None:
            scores = jnp.where(mask[:, None, None], scores, jnp.finfo(scores.dtype).min)
        weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        weights = nn.Dropout(self.dropout_rate, name="drop")(weights, deterministic=not train)
        x = jnp.einsum("bhqn,bnhd->bqhd", weights, value)
        x = x.reshape(*x.shape[:2], dim)  # [b, q, c]
        return nn.Dense(dim, dtype=self.dtype, kernel_init=glorot_uniform, name="out")(x)


class _Layer(nn.Module):
    """What both kinds of layer have in common: norms after the sums, as in the first transformer.

    Attributes:
        num_heads: attention heads.
        mlp_dim: hidden width of the perceptron.
        dropout_rate: rate on attention weights, after attention, after both dense layers.
        dtype: computation type; parameters stay float32.
    """

    num_heads: int
    mlp_dim: int
    dropout_rate: float
    dtype: Any

    def _attention(self, name: str) -> Attention:
        return Attention(self.num_heads, self.dropout_rate, self.dtype, name=name)

    def _dropped(self, x: Array, train: bool) -> Array:
        return nn.Dropout(self.dropout_rate)(x, deterministic=not train)

    def _add(self, x: Array, branch: Array, train: bool, name: str) -> Array:
        branch = self._dropped(branch, train)
        return LayerNorm(LAYER_NORM_EPSILON, self.dtype, name=name)(x + branch)

    def _mlp(self, x: Array, train: bool) -> Array:
        hidden = nn.Dense(
            self.mlp_dim, dtype=self.dtype, kernel_init=glorot_uniform, name="dense1"
        )(x)
        hidden = self._dropped(nn.relu(hidden), train)
        y = nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=glorot_uniform, name="dense2")
        return self._add(x, y(hidden), train, "norm_mlp")


class EncoderLayer(_Layer):
    """Self-attention of the image's tokens and a perceptron."""

    @nn.compact
    def __call__(self, x: Array, positions: Array, mask: Array | None, train: bool) -> Array:
        """Maps tokens [b, n, c] at positions [b, n, c] to [b, n, c]; see Attention for the mask."""
        placed = x + positions.astype(x.dtype)
        y = self._attention("attention")(placed, placed, x, mask, train)
        x = self._add(x, y, train, "norm_attention")
        return self._mlp(x, train)


class DecoderLayer(_Layer):
    """Self-attention of the object queries, attention to the image's tokens, and a perceptron."""

    @nn.compact
    def __call__(
        self,
        x: Array,
        query_positions: Array,
        memory: Array,
        positions: Array,
        mask: Array | None,
        train: bool,
        query_mask: Array | None = None,
    ) -> Array:
        """Maps the queries' features [b, q, c].

        Args:
            x: [b, q, c].
            query_positions: [b, q, c].
            memory, positions: of the image's tokens, [b, n, c].
            mask: [b, n], see Attention.
            train: whether dropout acts.
            query_mask: [b, q], the same for the queries.
        """
        query_positions = query_positions.astype(x.dtype)
        placed = x + query_positions
        y = self._attention("self_attention")(placed, placed, x, query_mask, train)
        x = self._add(x, y, train, "norm_self_attention")
        y = self._attention("attention")(
            x + query_positions, memory + positions.astype(x.dtype), memory, mask, train
        )
        x = self._add(x, y, train, "norm_attention")
        return self._mlp(x, train)
