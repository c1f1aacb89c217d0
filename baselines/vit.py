"""ViT with the settings of DeiT, without distillation.

Words of the papers (ViT arXiv 2010.11929, DeiT arXiv 2012.12877):
    patch        a rectangle of pixels that becomes one token.
    class token  a learned token in front of the patches, from which the image is classified.
    block        a transformer layer; every token attends to every token.

Shape letters: b batch, h and w sides of the plane of patches, n tokens (h * w, and one more with a
class token), c channels.
"""

from typing import Any, Literal

import chex
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from kernels.precision import at_least_float32
from kernels.target import Kernels
from layers.drop_path import drop_path_rates
from layers.embeddings import PositionEmbedding, patch_embedding
from layers.field_checks import (
    check_choices,
    check_counts,
    check_divisor,
    check_fields,
    check_image_size,
    check_mlp_ratio,
    check_rates,
    height_and_width,
    is_sides,
)
from layers.initializers import truncated_normal
from layers.intermediates import expose
from layers.layer_norm import LayerNorm
from layers.mlp import Gelu
from layers.remat import Remat, recomputed_layer
from layers.shared_fields import shared_fields
from layers.transformer_layer import LAYER_NORM_EPSILON, TransformerLayer

Pooling = Literal["class_token", "average"]


def _deit(dim: int, num_heads: int) -> dict:
    """Twelve blocks on patches of 16 x 16, heads of 64 channels."""
    return {
        "patch_size": 16,
        "dim": dim,
        "depth": 12,
        "num_heads": num_heads,
        "drop_path_rate": 0.1,
    }


# DeiT paper, table 1; official models.py and, for drop path, main.py (facebookresearch/deit,
# commit 7e160fe). 224 x 224 is their training size; all take any size that the patch divides.
VARIANTS = {
    "deit_ti_patch16_224": _deit(192, 3),
    "deit_s_patch16_224": _deit(384, 6),
    "deit_b_patch16_224": _deit(768, 12),
}


class Vit(nn.Module):
    """Vision transformer.

    Height and width of the image must be multiples of the patch's. The tokens after each block,
    [b, n, c] with the class token first, are sown as "intermediates" block1_tokens, ..., and the
    input of the head, [b, c], as pre_logits. For gradients with respect to the tokens, see
    `layers.intermediates.differentiate`.

    Attributes:
        num_classes: number of logits.
        dim: channels of a token.
        depth: number of blocks.
        num_heads: attention heads of a block.
        patch_size: side or (height, width) of a patch in pixels.
        mlp_ratio: hidden width of the perceptron, in multiples of `dim`.
        pooling: "class_token", or "average" of all tokens, without a class token.
        qkv_bias: whether query, key and value have a bias.
        gelu: "exact" (DeiT) or "tanh".
        drop_path_rate: drop-path rate of the last block; it grows linearly from 0.
        dropout_rate: rate after the position embedding, after attention and after both dense
            layers of the perceptron.
        attention_dropout_rate: rate on the attention weights.
        dtype: computation type. Parameters and logits are always float32.
        remat: what the backward pass recomputes, to save memory: "none", "attention", "dots" or
            "block", see layers/remat.py.
        kernels: "auto" for the fastest form of each operation, or "plain" for the ones that define
            the numbers.

    Reference:
        ViT paper, section 3.1; official models.py of DeiT. Two things differ: the patch embedding
        starts as normal(0.02) instead of PyTorch's default, and initial values are cut at two
        standard deviations, see layers/initializers.py.
    """

    num_classes: int
    dim: int
    depth: int
    num_heads: int
    patch_size: int | tuple[int, int]
    mlp_ratio: float = 4
    pooling: Pooling = "class_token"
    qkv_bias: bool = True
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
            dim=self.dim,
            depth=self.depth,
            num_heads=self.num_heads,
        )
        check_fields(is_sides, "a positive integer or a pair of them", patch_size=self.patch_size)
        check_divisor(self.dim, f"dim={self.dim}", num_heads=self.num_heads)
        check_mlp_ratio(self.mlp_ratio, (self.dim,))
        check_rates(
            drop_path_rate=self.drop_path_rate,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
        )
        check_choices(self)
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
            ValueError: if the patch does not divide the image.
        """
        chex.assert_rank(images, 4, custom_message="images: [b, height, width, channels]")
        patch = height_and_width(self.patch_size)
        rule = f"height and width multiples of patch_size={self.patch_size}"
        check_image_size(images.shape[1:3], patch, rule)
        shared = shared_fields(self, TransformerLayer, but=("drop_path_rate",))
        block_class = recomputed_layer(TransformerLayer, self.remat, train=2)

        x = patch_embedding(self.dim, patch, self.dtype)(images)  # [b, h, w, c]
        b, h, w, c = x.shape
        x = x.reshape(b, h * w, c)  # [b, n, c]
        if self.pooling == "class_token":
            token = self.param("class_token", truncated_normal, (c,), jnp.float32)
            first = jnp.broadcast_to(token.astype(x.dtype), (b, 1, c))
            x = jnp.concatenate([first, x], axis=1)  # [b, n, c]
        x = PositionEmbedding(self.dtype, name="position")(x)
        x = nn.Dropout(self.dropout_rate, name="drop")(x, deterministic=not train)

        rates = drop_path_rates(self.drop_path_rate, self.depth)
        for block, drop_path_rate in enumerate(rates, start=1):
            x = block_class(**shared, drop_path_rate=drop_path_rate, name=f"block{block}")(x, train)
            # Not under the block's own name: modules and sown values share one namespace.
            x = expose(self, f"block{block}_tokens", x)

        x = LayerNorm(LAYER_NORM_EPSILON, self.dtype, self.kernels, name="norm")(x)
        x = x.astype(at_least_float32(x))
        x = x[:, 0] if self.pooling == "class_token" else x.mean(axis=1)  # [b, c]
        self.sow("intermediates", "pre_logits", x)
        logits = nn.Dense(self.num_classes, kernel_init=truncated_normal, name="head")(x)
        chex.assert_shape(logits, (None, self.num_classes))
        return logits
