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

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from layers.attention import ATTENTIONS
from layers.drop_path import DropPath, drop_path_rates
from layers.embeddings import PositionEmbedding
from layers.initializers import truncated_normal
from layers.mlp import GELUS, Mlp
from nest.aggregation import AGGREGATIONS, LAYER_NORM_EPSILON, PADDINGS
from nest.blocks import block, unblock
from nest.checks import block_size_for, check_fields


class NestLayer(nn.Module):
    """One transformer layer: x + attention(norm(x)), then x + mlp(norm(x)).

    Attributes: as in `Nest`, for a single layer.

    Reference:
        NesT paper, equation 1; official libml/self_attention.py, EncoderNDBlock.
    """

    num_heads: int
    mlp_ratio: float
    attention: str
    qkv_bias: bool
    gelu: str
    drop_path_rate: float
    dropout_rate: float
    attention_dropout_rate: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Maps [b, t, n, c] to [b, t, n, c]."""
        y = nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=self.dtype, name="norm_attention")(x)
        y = ATTENTIONS[self.attention](
            num_heads=self.num_heads,
            qkv_bias=self.qkv_bias,
            dropout_rate=self.attention_dropout_rate,
            dtype=self.dtype,
            name="attention",
        )(y, deterministic=not train)
        y = nn.Dropout(self.dropout_rate, name="drop")(y, deterministic=not train)
        x = x + DropPath(self.drop_path_rate, name="drop_path1")(y, deterministic=not train)

        y = nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=self.dtype, name="norm_mlp")(x)
        y = Mlp(
            hidden_dim=int(x.shape[-1] * self.mlp_ratio),
            gelu=self.gelu,
            dropout_rate=self.dropout_rate,
            dtype=self.dtype,
            name="mlp",
        )(y, deterministic=not train)
        return x + DropPath(self.drop_path_rate, name="drop_path2")(y, deterministic=not train)


class Nest(nn.Module):
    """Nested hierarchical transformer.

    The height and the width of the image must be multiples of patch_size * 2^(levels - 1).
    Each level's map on the image plane, [b, h, w, c] before aggregation, is sown as
    "intermediates" level1, level2, ...; add zeros to it under the same names in the collection
    "perturbations" for gradients with respect to it.

    Attributes:
        num_classes: number of logits.
        dims: channels of each level, lowest first.
        depths: transformer layers of each level.
        num_heads: attention heads of each level.
        patch_size: side of a patch in pixels.
        block_size: side or (height, width) of a block in tokens. None: whatever leaves one block at
            the top. If given, only images of patch_size * block_size * 2^(levels - 1) fit.
        mlp_ratio: hidden width of the perceptron, in multiples of a level's width.
        attention: "multi_head" or "multi_query".
        qkv_bias: whether query, key and value have a bias.
        aggregation: a key of `nest.aggregation.AGGREGATIONS`.
        aggregation_padding: "same" (official) or "torch" (timm).
        gelu: "tanh" (official) or "exact" (timm).
        drop_path_rate: drop-path rate of the last layer; it grows linearly from 0.
        dropout_rate: rate after attention and after both dense layers of the perceptron.
        attention_dropout_rate: rate on the attention weights.
        dtype: computation type. Parameters and logits are float32 whatever it is.
        remat: recompute each layer in the backward pass, to save memory.

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
    attention: str = "multi_head"
    qkv_bias: bool = True
    aggregation: str = "conv_norm_maxpool"
    aggregation_padding: str = "same"
    gelu: str = "tanh"
    drop_path_rate: float = 0.0
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    remat: bool = False

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error where the model is built."""
        check_fields(
            self,
            names={
                "attention": ATTENTIONS,
                "aggregation": AGGREGATIONS,
                "aggregation_padding": PADDINGS,
                "gelu": GELUS,
            },
        )
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
            ValueError: if the levels do not divide the image.
        """
        levels = len(self.dims)
        block_size = block_size_for(self, images.shape[1:3])
        rates = iter(drop_path_rates(self.drop_path_rate, sum(self.depths)))
        # `train` (argument 2, after self and x) is a Python bool, not an array.
        layer_class = nn.remat(NestLayer, static_argnums=(2,)) if self.remat else NestLayer

        patch = (self.patch_size, self.patch_size)
        x = nn.Conv(
            self.dims[0],
            kernel_size=patch,
            strides=patch,
            padding="VALID",
            dtype=self.dtype,
            kernel_init=truncated_normal,
            name="patch_embedding",
        )(images)  # [b, h, w, c]
        for level in range(1, levels + 1):
            x = block(x, block_size)  # [b, t, n, c]
            x = PositionEmbedding(self.dtype, name=f"level{level}_position")(x)
            for layer in range(1, self.depths[level - 1] + 1):
                x = layer_class(
                    num_heads=self.num_heads[level - 1],
                    mlp_ratio=self.mlp_ratio,
                    attention=self.attention,
                    qkv_bias=self.qkv_bias,
                    gelu=self.gelu,
                    drop_path_rate=next(rates),
                    dropout_rate=self.dropout_rate,
                    attention_dropout_rate=self.attention_dropout_rate,
                    dtype=self.dtype,
                    name=f"level{level}_layer{layer}",
                )(x, train)
            blocks_per_side = 2 ** (levels - level)
            x = unblock(x, block_size, (blocks_per_side, blocks_per_side))  # [b, h, w, c]
            x = self._show(f"level{level}", x)
            if level < levels:
                x = AGGREGATIONS[self.aggregation](
                    dim=self.dims[level],
                    block_size=block_size,
                    padding=self.aggregation_padding,
                    dtype=self.dtype,
                    name=f"level{level}_aggregation",
                )(x)  # [b, h/2, w/2, c of the next level]

        x = nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=self.dtype, name="norm")(x)
        x = x.astype(jnp.float32).mean(axis=(1, 2))  # [b, c]
        return nn.Dense(self.num_classes, kernel_init=truncated_normal, name="head")(x)

    def _show(self, name: str, x: Array) -> Array:
        """Makes a map readable as an intermediate and open to gradients; free when unused."""
        if not self.is_initializing():  # init would return the zeros beside the parameters
            x = self.perturb(name, x)
        self.sow("intermediates", name, x)
        return x
