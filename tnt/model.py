"""TNT: transformer in transformer for image classification.

Words of the paper (arXiv 2103.00112):
    sentence     a square patch of the image, as one vector.
    word         a square piece of a patch, as one smaller vector.
    inner block  a transformer block over the words of one sentence; sentences never meet in it and
                 share its weights.
    fusion       the words of a sentence, concatenated and projected, added to it.
    outer block  a transformer block over the class token and all sentences of an image.
    layer        inner block, fusion, outer block; or an outer block alone.

Shape letters: b batch, n sentences, m words of a sentence, c channels of a word (inner_dim), d
channels of a sentence (outer_dim).
"""

from typing import Any, Literal

import chex
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from kernels.precision import at_least_float32
from kernels.target import Kernels
from layers.drop_path import drop_path_rates
from layers.embeddings import PositionEmbedding
from layers.field_checks import (
    check_choices,
    check_counts,
    check_divisor,
    check_mlp_ratio,
    check_rates,
    field_error,
)
from layers.initializers import truncated_normal
from layers.intermediates import expose
from layers.layer_norm import LayerNorm
from layers.mlp import Gelu
from layers.remat import Remat, recomputed_layer
from layers.shared_fields import shared_fields
from tnt.block import LAYER_NORM_EPSILON, TransformerBlock
from tnt.checks import check_covered, check_inner_layers, check_patches
from tnt.fusion import FUSIONS, FusionName, NormProjectNorm
from tnt.stem import STEMS, StemName

Pooling = Literal["class_token", "average"]
POOLINGS = {
    "class_token": lambda sentences: sentences[:, 0],
    "average": lambda sentences: sentences[:, 1:].mean(axis=1),
}


class TntLayer(nn.Module):
    """One layer: inner block over the words, fusion into the sentences, outer block over those.

    Attributes: as in `Tnt`, for a single layer.

    Reference:
        TNT paper, section 2.2 and figure 1b.
    """

    num_inner_heads: int
    num_outer_heads: int
    has_inner: bool
    squeeze_excite: bool
    fusion: FusionName
    mlp_ratio: float
    qkv_bias: bool
    gelu: Gelu
    drop_path_rate: float
    dropout_rate: float
    attention_dropout_rate: float
    dtype: Any
    remat: Remat
    kernels: Kernels

    @nn.compact
    def __call__(self, words: Array, sentences: Array, train: bool) -> tuple[Array, Array]:
        """Maps words [b, n, m, c] and sentences [b, 1 + n, d], class token first, to the same."""
        shared = shared_fields(self, TransformerBlock, but=("squeeze_excite",))  # outer block only
        if self.has_inner:
            words = TransformerBlock(self.num_inner_heads, **shared, name="inner")(words, train)
            fuse = FUSIONS[self.fusion](
                sentences.shape[-1], self.dtype, self.kernels, name="fusion"
            )
            sentences = sentences.at[:, 1:].add(fuse(words))  # the class token has no words
        sentences = TransformerBlock(
            self.num_outer_heads, **shared, squeeze_excite=self.squeeze_excite, name="outer"
        )(sentences, train)
        return words, sentences


class Tnt(nn.Module):
    """Transformer in transformer.

    The height and the width of the image must be multiples of patch_size, or patch_size plus a
    multiple of patch_stride. After each layer, the words [b, n, m, c] and the sentences
    [b, 1 + n, d], class token first, are sown as "intermediates" layer1_words, layer1_sentences,
    ..., and the input of the head, [b, d], as pre_logits. For gradients with respect to words and
    sentences, see `layers.intermediates.differentiate`.

    Attributes:
        num_classes: number of logits.
        inner_dim: channels of a word, c.
        outer_dim: channels of a sentence, d.
        num_inner_heads: attention heads over the words of a sentence.
        num_outer_heads: attention heads over sentences.
        depth: number of layers.
        patch_size: side of a patch, which is one sentence, in pixels.
        patch_stride: distance between neighbouring patches in pixels; patches overlap if it is
            smaller than patch_size. None: patch_size.
        word_size: side of a word in pixels, and the stride of the stem.
        stem: a key of `tnt.stem.STEMS`: "conv7" (released), "conv7_image" (timm's first port) or
            "linear" (paper).
        fusion: a key of `tnt.fusion.FUSIONS`: "released", "legacy" (timm's first port) or "paper",
            in which sentences start as zeros instead of as a projection of their words.
        inner_layers: layers that have an inner block, counted from 1. None: all.
        squeeze_excite: whether the perceptron of the outer blocks has a squeeze-and-excite gate.
        sentence_position: whether sentences and class token get a position embedding.
        word_position: whether words get one; all sentences share it.
        pooling: "class_token" or "average". With "average" the class token still takes part in
            attention, as in timm, so that the same weights fit both.
        mlp_ratio: hidden width of the perceptrons, in multiples of their own width.
        qkv_bias: whether query, key and value have a bias.
        gelu: "exact" (official) or "tanh".
        drop_path_rate: drop-path rate of the last layer; it grows linearly from 0.
        dropout_rate: rate after the sentences' positions, after attention and after both dense
            layers of a perceptron.
        attention_dropout_rate: rate on the attention weights.
        dtype: computation type. Parameters and logits are always float32.
        remat: what the backward pass recomputes, to save memory: "none", "attention", "dots" or
            "block", see layers/remat.py.
        kernels: "auto" for the fastest form of each operation, or "plain" for the ones that define
            the numbers.

    Reference:
        TNT paper, section 2 and figure 1a; official tnt_pytorch/tnt.py.
    """

    num_classes: int
    inner_dim: int
    outer_dim: int
    num_inner_heads: int
    num_outer_heads: int
    depth: int = 12
    patch_size: int = 16
    patch_stride: int | None = None
    word_size: int = 4
    stem: StemName = "conv7"
    fusion: FusionName = "released"
    inner_layers: tuple[int, ...] | None = None
    squeeze_excite: bool = False
    sentence_position: bool = True
    word_position: bool = True
    pooling: Pooling = "class_token"
    mlp_ratio: float = 4
    qkv_bias: bool = False
    gelu: Gelu = "exact"
    drop_path_rate: float = 0.0
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    remat: Remat = "none"
    kernels: Kernels = "auto"

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error where the model is built."""
        check_counts(
            num_classes=self.num_classes,
            inner_dim=self.inner_dim,
            outer_dim=self.outer_dim,
            num_inner_heads=self.num_inner_heads,
            num_outer_heads=self.num_outer_heads,
            depth=self.depth,
            patch_size=self.patch_size,
            word_size=self.word_size,
        )
        inner_dim, outer_dim = self.inner_dim, self.outer_dim
        check_divisor(inner_dim, f"{inner_dim=}", num_inner_heads=self.num_inner_heads)
        check_divisor(outer_dim, f"{outer_dim=}", num_outer_heads=self.num_outer_heads)
        check_choices(self)
        check_rates(
            drop_path_rate=self.drop_path_rate,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
        )
        check_mlp_ratio(self.mlp_ratio, (inner_dim, outer_dim))
        if self.squeeze_excite and outer_dim < 4:
            raise field_error("outer_dim", outer_dim, "too narrow for squeeze_excite", "at least 4")
        check_patches(
            patch_size=self.patch_size,
            word_size=self.word_size,
            patch_stride=self.patch_stride,
            stem=self.stem,
        )
        check_inner_layers(self.inner_layers, depth=self.depth, fusion=self.fusion)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        """Classifies images.

        Args:
            images: [b, height, width, channels], normalised.
            train: whether dropout and drop path act; they draw from the stream "dropout".

        Returns:
            Logits, [b, num_classes], float32.

        Raises:
            ValueError: if the patches do not cover the image exactly.
        """
        chex.assert_rank(images, 4, custom_message="images: [b, height, width, channels]")
        check_covered(images.shape[1:3], patch_size=self.patch_size, patch_stride=self.patch_stride)
        inner_layers = range(1, self.depth + 1) if self.inner_layers is None else self.inner_layers
        rates = drop_path_rates(self.drop_path_rate, self.depth)
        shared = shared_fields(self, TntLayer, but=("drop_path_rate",))
        layer_class = recomputed_layer(TntLayer, self.remat, train=3)

        words = self._first_words(images)  # [b, n, m, c]
        sentences = self._first_sentences(words)  # [b, 1 + n, d]
        words_per_sentence = (self.patch_size // self.word_size) ** 2
        chex.assert_shape(words, (None, None, words_per_sentence, self.inner_dim))
        chex.assert_shape(sentences, (None, 1 + words.shape[1], self.outer_dim))
        sentences = nn.Dropout(self.dropout_rate, name="drop")(sentences, deterministic=not train)
        for layer in range(1, self.depth + 1):
            words, sentences = layer_class(
                **shared,
                has_inner=layer in inner_layers,
                drop_path_rate=rates[layer - 1],
                name=f"layer{layer}",
            )(words, sentences, train)
            words = expose(self, f"layer{layer}_words", words)
            sentences = expose(self, f"layer{layer}_sentences", sentences)

        x = LayerNorm(LAYER_NORM_EPSILON, self.dtype, self.kernels, name="norm")(sentences)
        x = POOLINGS[self.pooling](x.astype(at_least_float32(x)))  # [b, d]
        self.sow("intermediates", "pre_logits", x)
        logits = nn.Dense(self.num_classes, kernel_init=truncated_normal, name="head")(x)
        chex.assert_shape(logits, (None, self.num_classes))
        return logits

    def _first_words(self, images: Array) -> Array:
        """Maps [b, height, width, channels] to [b, n, m, c]."""
        words = STEMS[self.stem](
            dim=self.inner_dim,
            patch_size=self.patch_size,
            patch_stride=self.patch_stride or self.patch_size,
            word_size=self.word_size,
            dtype=self.dtype,
            name="word_embedding",
        )(images)  # [b, n, m, c]
        if not self.word_position:
            return words
        shape = words.shape
        words = words.reshape(-1, *shape[2:])  # [b * n, m, c]: one table for all sentences
        words = PositionEmbedding(self.dtype, name="word_position")(words)
        return words.reshape(shape)  # [b, n, m, c]

    def _first_sentences(self, words: Array) -> Array:
        """Maps words [b, n, m, c] to sentences [b, 1 + n, d], class token first."""
        b, n = words.shape[:2]
        if self.fusion == "paper":
            token_init = nn.initializers.zeros
            sentences = jnp.zeros((b, n, self.outer_dim), self.dtype)
        else:  # timm's first port starts as the released models do
            token_init = truncated_normal
            start = NormProjectNorm(
                self.outer_dim, self.dtype, self.kernels, use_bias=True, name="sentence_embedding"
            )
            sentences = start(words)  # [b, n, d]
        token = self.param("class_token", token_init, (self.outer_dim,), jnp.float32)
        token = jnp.broadcast_to(token.astype(self.dtype), (b, 1, self.outer_dim))
        sentences = jnp.concatenate([token, sentences], axis=1)  # [b, 1 + n, d]
        if not self.sentence_position:
            return sentences
        return PositionEmbedding(self.dtype, name="sentence_position")(sentences)
