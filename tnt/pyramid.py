"""PyramidTNT (arXiv 2201.00978): TNT in four stages, whose sentences and words become fewer.

Words of the paper, besides those of tnt/model.py:
    stage         layers at one resolution; there are four.
    aggregation   the step between two stages: four neighbouring sentences become one, and so do
                  their words, of which each sentence keeps 4 x 4.

Shape letters: b batch, h and w sides of a stage's plane in sentences, n = h * w sentences, m = 16
words of a sentence, c channels of a word, d channels of a sentence.
"""

import math
from typing import Any

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
    check_image_size,
    check_mlp_ratio,
    check_rates,
    check_tuples,
    field_error,
)
from layers.initializers import truncated_normal
from layers.intermediates import expose
from layers.layer_norm import LayerNorm
from layers.mlp import Gelu
from layers.remat import Remat, recomputed_layer
from layers.shared_fields import shared_fields
from tnt.block import LAYER_NORM_EPSILON
from tnt.pyramid_layer import PyramidLayer
from tnt.pyramid_stem import PyramidStem, SentenceAggregation, WordAggregation

FIRST_STRIDE = 8  # of the sentences of the first stage in pixels
REDUCTIONS = (4, 2, 1, 1)  # of keys and values, in either direction, in each stage
_MANY_LAYERS = 6  # a stage of more has words in two layers, others in one


def has_words(layer: int, depth: int) -> bool:
    """Returns whether a layer, counted from 1, of a stage of `depth` layers has an inner block."""
    return layer == 1 or (layer == 2 and depth > _MANY_LAYERS)


def stage_planes(image_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Returns the (h, w) of each stage's plane, for images of (height, width) pixels."""
    h, w = (side // FIRST_STRIDE for side in image_size)
    return [(h // 2**stage, w // 2**stage) for stage in range(len(REDUCTIONS))]


def _dims(first: int) -> tuple[int, ...]:
    return (first, 2 * first, 4 * first, 4 * first)


def _variant(depths: tuple[int, ...], inner: int, outer: int, heads: tuple[int, int]) -> dict:
    return {
        "depths": depths,
        "inner_dims": _dims(inner),
        "outer_dims": _dims(outer),
        "num_inner_heads": _dims(heads[0]),
        "num_outer_heads": _dims(heads[1]),
    }


# Official tnt_pytorch/pyramid_tnt.py (huawei-noah/Efficient-AI-Backbones), whose names these are.
VARIANTS = {
    "ptnt_ti_patch16_192": _variant((2, 6, 3, 2), 5, 80, (1, 2)),
    "ptnt_s_patch16_256": _variant((2, 8, 4, 2), 8, 128, (2, 4)),
    "ptnt_m_patch16_256": _variant((2, 8, 6, 2), 12, 192, (2, 4)),
    "ptnt_b_patch16_256": _variant((2, 10, 6, 2), 16, 256, (2, 4)),
}


class PyramidTnt(nn.Module):
    """Transformer in transformer, in four stages.

    Height and width of the image must be multiples of 64. Each stage's sentences on the image
    plane, [b, h, w, d] with a stride of 8, 16, 32 and 64 pixels, are sown as "intermediates"
    stage1, ..., and the input of the head, [b, d], as pre_logits. There is no class token. For
    gradients with respect to the maps, see `layers.intermediates.differentiate`.

    Batch statistics of the stem are as in `baselines.resnet.ResNet`.

    Attributes:
        num_classes: number of logits.
        depths: layers of each stage. The first has an inner block; the second too, if there are
            more than six.
        inner_dims: channels of a word in each stage.
        outer_dims: channels of a sentence in each stage.
        num_inner_heads: attention heads over the words of a sentence in each stage.
        num_outer_heads: attention heads over sentences in each stage.
        mlp_ratio: hidden width of the perceptrons, in multiples of their own width.
        qkv_bias: whether query, key and value have a bias.
        gelu: "exact" (official) or "tanh".
        drop_path_rate: drop-path rate of the last layer; it grows linearly from 0.
        dtype: computation type. Parameters, statistics and logits are always float32.
        remat: what the backward pass recomputes, to save memory: "none", "dots" or "block", see
            layers/remat.py.
        kernels: "auto" for the fastest form of each operation, or "plain" for the ones that define
            the numbers.

    Reference:
        PyramidTNT paper; official tnt_pytorch/pyramid_tnt.py.
    """

    num_classes: int
    depths: tuple[int, ...]
    inner_dims: tuple[int, ...]
    outer_dims: tuple[int, ...]
    num_inner_heads: tuple[int, ...]
    num_outer_heads: tuple[int, ...]
    mlp_ratio: float = 4
    qkv_bias: bool = False
    gelu: Gelu = "exact"
    drop_path_rate: float = 0.0
    dtype: Any = jnp.float32
    remat: Remat = "none"
    kernels: Kernels = "auto"

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error where the model is built."""
        per_stage = ("depths", "inner_dims", "outer_dims", "num_inner_heads", "num_outer_heads")
        check_counts(num_classes=self.num_classes)
        check_tuples("stage", **{name: getattr(self, name) for name in per_stage})
        if len(self.depths) != len(REDUCTIONS):
            raise field_error("depths", self.depths, "wrong", f"{len(REDUCTIONS)} stages")
        for part in ("inner", "outer"):
            dims, heads = getattr(self, f"{part}_dims"), getattr(self, f"num_{part}_heads")
            for dim, number in zip(dims, heads, strict=True):
                check_divisor(dim, f"{part}_dims={dim}", **{f"num_{part}_heads": number})
        check_mlp_ratio(self.mlp_ratio, (*self.inner_dims, *self.outer_dims))
        check_rates(drop_path_rate=self.drop_path_rate)
        check_choices(self)
        if self.remat == "attention":
            raise field_error("remat", self.remat, "not here", "none, dots, block")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        """Classifies images.

        Args:
            images: [b, height, width, channels], normalised.
            train: whether drop path acts (it draws from the stream "dropout"), and whether the
                stem's norms use the batch's statistics.

        Returns:
            Logits, [b, num_classes], float32.

        Raises:
            ValueError: the stages do not divide the image.
        """
        chex.assert_rank(images, 4, custom_message="images: [b, height, width, channels]")
        step = FIRST_STRIDE * 2 ** (len(self.depths) - 1)
        check_image_size(images.shape[1:3], step, f"height and width multiples of {step}")
        rates = iter(drop_path_rates(self.drop_path_rate, sum(self.depths)))
        shared = shared_fields(
            self, PyramidLayer, but=("num_inner_heads", "num_outer_heads", "drop_path_rate")
        )
        layer_class = recomputed_layer(PyramidLayer, self.remat, train=4)

        stem = PyramidStem(self.inner_dims[0], self.outer_dims[0], self.dtype, name="stem")
        words, sentences = stem(images, train)  # [b, n, m, c], [b, h, w, d]
        words, sentences = self._with_positions(words, sentences)
        common = {"dtype": self.dtype, "kernels": self.kernels}
        for index, depth in enumerate(self.depths):
            stage = f"stage{index + 1}"
            if index:
                before = f"stage{index}"
                merge = WordAggregation(
                    self.inner_dims[index], **common, name=f"{before}_word_aggregation"
                )
                words = merge(words, sentences.shape[1:3])
                sentences = SentenceAggregation(
                    self.outer_dims[index], **common, name=f"{before}_sentence_aggregation"
                )(sentences)
            n, heads = math.prod(sentences.shape[1:3]), self.num_outer_heads[index]
            keys = n // REDUCTIONS[index] ** 2
            # As released, a free number for each pair of places, normal(1) at first.
            relative = self.param(
                f"{stage}_relative_position", nn.initializers.normal(1.0), (heads, n, keys)
            )
            for layer in range(1, depth + 1):
                words, sentences = layer_class(
                    **shared,
                    num_inner_heads=self.num_inner_heads[index],
                    num_outer_heads=heads,
                    has_inner=has_words(layer, depth),
                    reduction=REDUCTIONS[index],
                    drop_path_rate=next(rates),
                    name=f"{stage}_layer{layer}",
                )(words, sentences, relative, train)
            sentences = expose(self, stage, sentences)

        x = LayerNorm(LAYER_NORM_EPSILON, **common, name="norm")(sentences)
        x = x.astype(at_least_float32(x)).mean(axis=(1, 2))  # [b, d]
        self.sow("intermediates", "pre_logits", x)
        logits = nn.Dense(self.num_classes, kernel_init=truncated_normal, name="head")(x)
        chex.assert_shape(logits, (None, self.num_classes))
        return logits

    def _with_positions(self, words: Array, sentences: Array) -> tuple[Array, Array]:
        """Maps words [b, n, m, c] and sentences [b, h, w, d] to the same."""
        each = words.reshape(-1, *words.shape[2:])  # [b * n, m, c]: one table for all sentences
        each = PositionEmbedding(self.dtype, name="word_position")(each)
        plane = sentences.shape
        sentences = sentences.reshape(plane[0], -1, plane[-1])  # [b, n, d]
        sentences = PositionEmbedding(self.dtype, name="sentence_position")(sentences)
        return each.reshape(words.shape), sentences.reshape(plane)
