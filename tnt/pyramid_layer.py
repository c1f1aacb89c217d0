"""The layer of PyramidTNT.

Shape letters: b batch, h and w sides of a stage's plane in sentences, n = h * w sentences, m = 16
words of a sentence, c channels of a word, d of a sentence, r reduction, k heads, e = d / k.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from kernels.precision import at_least_float32
from kernels.target import Kernels
from layers.attention import MultiHeadAttention
from layers.dense import Dense
from layers.layer_norm import LayerNorm
from layers.mlp import Gelu, Mlp
from tnt.block import LAYER_NORM_EPSILON
from tnt.fusion import NormProjectNorm


class ReducedAttention(nn.Module):
    """Self-attention of sentences, whose keys and values are averages of squares of them.

    Attributes:
        num_heads: k.
        reduction: side of the squares, r.
        qkv_bias: whether query, key and value have a bias.
        dtype: computation type; parameters stay float32 and so does the softmax.
        kernels: of the norm of the averages.

    Reference:
        Official pyramid_tnt.py, Attention.
    """

    num_heads: int
    reduction: int
    qkv_bias: bool
    dtype: Any
    kernels: Kernels

    @nn.compact
    def __call__(self, x: Array, relative: Array) -> Array:
        """Maps sentences [b, h, w, d] to [b, n, d].

        Args:
            x: those.
            relative: [k, n, n / r^2], added to the logits.
        """
        b, h, w, d = x.shape
        r, e = self.reduction, d // self.num_heads

        def project(x: Array, *features: int, name: str) -> Array:
            return Dense(features, use_bias=self.qkv_bias, dtype=self.dtype, name=name)(x)

        query = project(x.reshape(b, h * w, d), self.num_heads, e, name="query")  # [b, n, k, e]
        if r > 1:
            x = x.reshape(b, h // r, r, w // r, r, d).mean(axis=(2, 4))  # [b, h/r, w/r, d]
            x = Dense(d, dtype=self.dtype, name="reduction")(x)
            norm = LayerNorm(LAYER_NORM_EPSILON, self.dtype, self.kernels, name="reduction_norm")
            x = norm(x)
        x = x.reshape(b, -1, d)  # [b, n / r^2, d]
        key_value = project(x, 2, self.num_heads, e, name="key_value")  # [b, n / r^2, 2, k, e]
        key, value = key_value[:, :, 0], key_value[:, :, 1]
        logits = jnp.einsum("bnke,bmke->bknm", query, key)
        logits = logits.astype(at_least_float32(logits)) * e**-0.5 + relative
        weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        x = jnp.einsum("bknm,bmke->bnke", weights, value)
        return Dense(d, num_axes=2, dtype=self.dtype, name="out")(x)


def resize_relative(
    array: np.ndarray, plane: tuple[int, int], new_plane: tuple[int, int], reduction: int
) -> np.ndarray | None:
    """Resizes a relative position table for another plane, along both places of each pair, bicubic.

    Args:
        array: [k, n, n / r^2].
        plane, new_plane: (h, w) that it is for, and is to be for.
        reduction: r.

    Returns:
        The table, or None if `array` is of another reduction.
    """
    r = reduction
    keys, new_keys = ((h // r, w // r) for h, w in (plane, new_plane))
    if array.shape[1:] != (math.prod(plane), math.prod(keys)):
        return None
    pairs = array.reshape(-1, *plane, *keys)  # [k, h, w, h/r, w/r]
    shape = (len(array), *new_plane, *new_keys)
    pairs = jax.image.resize(pairs, shape, "bicubic", antialias=True)
    return np.asarray(pairs).reshape(len(array), math.prod(new_plane), math.prod(new_keys))


class PyramidLayer(nn.Module):
    """One layer: inner block over the words, fusion, outer block over the sentences.

    Unlike TNT's, the norms of the inner block normalise all words of a sentence at once.

    Attributes: as in `PyramidTnt`, for a single layer; reduction: of keys and values.

    Reference:
        Official pyramid_tnt.py, Block.
    """

    num_inner_heads: int
    num_outer_heads: int
    has_inner: bool
    reduction: int
    mlp_ratio: float
    qkv_bias: bool
    gelu: Gelu
    drop_path_rate: float
    dtype: Any
    kernels: Kernels

    @nn.compact
    def __call__(
        self, words: Array, sentences: Array, relative: Array, train: bool
    ) -> tuple[Array, Array]:
        """Maps words [b, n, m, c] and sentences [b, h, w, d] to the same.

        Args:
            words, sentences: those.
            relative: [heads, n, keys], added to the attention's logits.
            train: whether drop path acts.
        """
        drop_path = partial(self._drop_path, train=train)
        b, h, w, d = sentences.shape
        if self.has_inner:
            y = self._norm_words(words, "inner_norm_attention")
            attention = MultiHeadAttention(
                num_heads=self.num_inner_heads,
                qkv_bias=self.qkv_bias,
                dtype=self.dtype,
                kernels=self.kernels,
                name="inner_attention",
            )
            words = words + drop_path(attention(y, True), "inner_drop_path1")
            y = self._norm_words(words, "inner_norm_mlp")
            words = words + drop_path(self._mlp(y, "inner_mlp"), "inner_drop_path2")
            fused = NormProjectNorm(d, self.dtype, self.kernels, name="fusion")(words)
            sentences = sentences + fused.reshape(b, h, w, d)
        y = self._norm(sentences, "outer_norm_attention")
        y = ReducedAttention(
            num_heads=self.num_outer_heads,
            reduction=self.reduction,
            qkv_bias=self.qkv_bias,
            dtype=self.dtype,
            kernels=self.kernels,
            name="outer_attention",
        )(y, relative)  # [b, n, d]
        x = sentences.reshape(b, h * w, d) + drop_path(y, "outer_drop_path1")
        y = self._mlp(self._norm(x, "outer_norm_mlp"), "outer_mlp")
        x = x + drop_path(y, "outer_drop_path2")
        return words, x.reshape(b, h, w, d)

    def _norm(self, x: Array, name: str) -> Array:
        return LayerNorm(LAYER_NORM_EPSILON, self.dtype, self.kernels, name=name)(x)

    def _norm_words(self, words: Array, name: str) -> Array:
        return self._norm(words.reshape(*words.shape[:2], -1), name).reshape(words.shape)

    def _mlp(self, x: Array, name: str) -> Array:
        hidden = int(x.shape[-1] * self.mlp_ratio)
        mlp = Mlp(hidden, self.gelu, dtype=self.dtype, kernels=self.kernels, name=name)
        return mlp(x, deterministic=True)

    def _drop_path(self, y: Array, name: str, train: bool) -> Array:
        # One draw per sequence, as in TNT: sentences per image, words per sentence.
        drop = nn.Dropout(self.drop_path_rate, broadcast_dims=(-2, -1), name=name)
        return drop(y, deterministic=not train)
