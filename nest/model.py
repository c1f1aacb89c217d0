"""NesT: nested hierarchical transformer for image classification.

Words of the paper (arXiv 2105.12723):
    patch        a square of pixels that becomes one token.
    block        a rectangle of neighbouring tokens; attention never leaves it.
    level        transformer layers over all blocks, with shared weights. Level 1 is the lowest.
    aggregation  the step between two levels: four neighbouring blocks become one of the same size.

Shape letters: b batch, h and w sides of a level's plane in tokens, t blocks, n tokens of a block,
c channels.
"""

from typing import Any

import chex
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from kernels.precision import at_least_float32
from kernels.target import Kernels
from layers.attention import Attention
from layers.drop_path import drop_path_rates
from layers.embeddings import PositionEmbedding, patch_embedding
from layers.field_checks import check_choices, check_counts, check_mlp_ratio, check_rates
from layers.initializers import truncated_normal
from layers.intermediates import expose
from layers.layer_norm import LayerNorm
from layers.mlp import Gelu
from layers.remat import Remat, recomputed_layer
from layers.shared_fields import shared_fields
from layers.transformer_layer import LAYER_NORM_EPSILON, TransformerLayer
from nest.aggregation import AGGREGATIONS, AggregationName, Padding
from nest.blocks import block, unblock
from nest.checks import block_sides, check_block_size, check_levels


class Nest(nn.Module):
    """Nested hierarchical transformer.

    The height and the width of the image must be multiples of patch_size * 2^(levels - 1).
    Each level's map on the image plane, [b, h, w, c] before aggregation, is sown as
    "intermediates" level1, level2, ..., and the input of the head, [b, c], as pre_logits. For
    gradients with respect to the maps, see `layers.intermediates.differentiate`.

    Attributes:
        num_classes: number of logits.
        dims: channels of each level, lowest first.
        depths: transformer layers of each level.
        num_heads: attention heads of each level.
        patch_size: side of a patch in pixels.
        block_size: side or (height, width) of a block in tokens. None: the size that leaves one
            block at the top. If given, only images of patch_size * block_size * 2^(levels - 1) fit.
        mlp_ratio: hidden width of the perceptron, in multiples of a level's width.
        attention: "multi_head" or "multi_query".
        qkv_bias: whether query, key and value have a bias.
        aggregation: a key of `nest.aggregation.AGGREGATIONS`.
        aggregation_padding: "same" (official) or "torch" (timm).
        gelu: "tanh" (official) or "exact" (timm).
        drop_path_rate: drop-path rate of the last layer; it grows linearly from 0.
        dropout_rate: rate after attention and after both dense layers of the perceptron.
        attention_dropout_rate: rate on the attention weights.
        dtype: computation type. Parameters and logits are always float32.
        remat: what the backward pass recomputes, to save memory: "none", "attention", "dots" or
            "block", see layers/remat.py.
        kernels: "auto" for the fastest form of each operation, or "plain" for the ones that define
            the numbers.

    Reference:
        NesT paper, section "Proposed method" and figure 1; official models/nest_net.py.
    """

    num_classes: int
    dims: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    patch_size: int
    block_size: int | tuple[int, int] | None = None
    mlp_ratio: float = 4
    attention: Attention = "multi_head"
    qkv_bias: bool = True
    aggregation: AggregationName = "conv_norm_maxpool"
    aggregation_padding: Padding = "same"
    gelu: Gelu = "tanh"
    drop_path_rate: float = 0.0
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    remat: Remat = "none"
    kernels: Kernels = "auto"

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error where the model is built."""
        check_counts(num_classes=self.num_classes, patch_size=self.patch_size)
        check_levels(dims=self.dims, depths=self.depths, num_heads=self.num_heads)
        check_choices(self)
        check_rates(
            drop_path_rate=self.drop_path_rate,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
        )
        check_mlp_ratio(self.mlp_ratio, self.dims)
        check_block_size(self.block_size, aggregation=self.aggregation, levels=len(self.dims))
        super().__post_init__()

    def block_sides_for(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Returns (height, width) of a block in tokens, for images of (height, width) pixels.

        Raises:
            ValueError: if the levels do not divide the image, naming the nearest sizes that fit.
        """
        return block_sides(
            image_size,
            patch_size=self.patch_size,
            levels=len(self.dims),
            block_size=self.block_size,
            aggregation=self.aggregation,
        )

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        """Classifies images.

        Args:
            images: [b, height, width, channels], normalised.
            train: whether dropout and drop path act; they draw from the stream "dropout".

        Returns:
            Logits, [b, num_classes], float32.

        Raises:
            ValueError: if the levels do not divide the image.
        """
        chex.assert_rank(images, 4, custom_message="images: [b, height, width, channels]")
        levels = len(self.dims)
        block_size = self.block_sides_for(images.shape[1:3])
        rates = iter(drop_path_rates(self.drop_path_rate, sum(self.depths)))
        shared = shared_fields(self, TransformerLayer, but=("num_heads", "drop_path_rate"))
        layer_class = recomputed_layer(TransformerLayer, self.remat, train=2)

        patch = (self.patch_size, self.patch_size)
        x = patch_embedding(self.dims[0], patch, self.dtype)(images)  # [b, h, w, c]
        for level in range(1, levels + 1):
            blocks_per_side = 2 ** (levels - level)
            x = block(x, block_size)
            tokens = block_size[0] * block_size[1]
            chex.assert_shape(x, (None, blocks_per_side**2, tokens, self.dims[level - 1]))
            x = PositionEmbedding(self.dtype, name=f"level{level}_position")(x)  # [b, t, n, c]
            for layer in range(1, self.depths[level - 1] + 1):
                x = layer_class(
                    **shared,
                    num_heads=self.num_heads[level - 1],
                    drop_path_rate=next(rates),
                    name=f"level{level}_layer{layer}",
                )(x, train)
            x = unblock(x, block_size, (blocks_per_side, blocks_per_side))  # [b, h, w, c]
            x = expose(self, f"level{level}", x)
            if level < levels:
                x = AGGREGATIONS[self.aggregation](
                    dim=self.dims[level],
                    block_size=block_size,
                    padding=self.aggregation_padding,
                    dtype=self.dtype,
                    kernels=self.kernels,
                    name=f"level{level}_aggregation",
                )(x)  # [b, h/2, w/2, c of the next level]

        x = LayerNorm(LAYER_NORM_EPSILON, self.dtype, self.kernels, name="norm")(x)
        x = x.astype(at_least_float32(x)).mean(axis=(1, 2))  # [b, c]
        self.sow("intermediates", "pre_logits", x)
        logits = nn.Dense(self.num_classes, kernel_init=truncated_normal, name="head")(x)
        chex.assert_shape(logits, (None, self.num_classes))
        return logits
