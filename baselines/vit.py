"""ViT with the settings of DeiT, without distillation.

Words of the papers (ViT arXiv 2010.11929, DeiT arXiv 2012.12877):
    patch        a rectangle of pixels that becomes one token.
    class token  a learned token beside the patches, from which the image is classified.
    block        a transformer layer; every token attends to every token.

Shape letters: b batch, h and w sides of the plane of patches, n tokens (h * w, and one more with a
class token), c channels.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from baselines.checks import (
    check_counts,
    check_names,
    check_positive,
    check_rates,
    is_count,
    is_counts,
)
from layers.attention import MultiHeadAttention
from layers.drop_path import DropPath, drop_path_rates
from layers.embeddings import PositionEmbedding
from layers.initializers import truncated_normal
from layers.mlp import GELUS, Mlp

LAYER_NORM_EPSILON = 1e-6
POOLINGS = ("class_token", "average")


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
# commit 7e160fe). 224 x 224 is their training size; every variant takes any that its patch divides.
VARIANTS = {
    "deit_ti_patch16_224": _deit(192, 3),
    "deit_s_patch16_224": _deit(384, 6),
    "deit_b_patch16_224": _deit(768, 12),
}


class VitBlock(nn.Module):
    """One transformer layer: x + attention(norm(x)), then x + mlp(norm(x)).

    Attributes: as in `Vit`, for a single block.

    Reference:
        ViT paper, equations 2 and 3.
    """

    num_heads: int
    mlp_ratio: float
    qkv_bias: bool
    gelu: str
    drop_path_rate: float
    dropout_rate: float
    attention_dropout_rate: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Maps [b, n, c] to [b, n, c]."""
        y = nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=self.dtype, name="norm_attention")(x)
        y = MultiHeadAttention(
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


class Vit(nn.Module):
    """Vision transformer.

    Height and width of the image must be multiples of the patch's. The tokens after each block,
    [b, n, c] with the class token first, are sown as "intermediates" block1, block2, ...

    Attributes:
        num_classes: number of logits.
        dim: channels of a token.
        depth: number of blocks.
        num_heads: attention heads of a block.
        patch_size: side or (height, width) of a patch in pixels.
        mlp_ratio: hidden width of the perceptron, in multiples of `dim`.
        pooling: "class_token", or "average" of all tokens, and then there is no class token.
        qkv_bias: whether query, key and value have a bias.
        gelu: "exact" (DeiT) or "tanh".
        drop_path_rate: drop-path rate of the last block; it grows linearly from 0.
        dropout_rate: rate after the position embedding, after attention and after both dense
            layers of the perceptron.
        attention_dropout_rate: rate on the attention weights.
        dtype: computation type. Parameters and logits are float32 whatever it is.
        remat: recompute each block in the backward pass, to save memory.

    Reference:
        ViT paper, section 3.1; official models.py of DeiT. Ours is the initialisation of the
        patch embedding, normal(0.02) in place of PyTorch's default, and the cut at two standard
        deviations, see layers/initializers.py.
    """

    num_classes: int
    dim: int
    depth: int
    num_heads: int
    patch_size: int | tuple[int, int]
    mlp_ratio: float = 4
    pooling: str = "class_token"
    qkv_bias: bool = True
    gelu: str = "exact"
    drop_path_rate: float = 0.0
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    remat: bool = False

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error where the model is built."""
        check_counts(self, ("num_classes", "dim", "depth", "num_heads"))
        check_positive(self, ("mlp_ratio",))
        check_rates(self, ("drop_path_rate", "dropout_rate", "attention_dropout_rate"))
        check_names(self, {"pooling": POOLINGS, "gelu": GELUS})
        size = self.patch_size
        if not is_count(size) and not (is_counts(size) and len(size) == 2):
            raise ValueError(f"patch_size={size!r} must be a positive integer or a pair of them")
        if self.dim % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} does not divide dim={self.dim}")
        if int(self.dim * self.mlp_ratio) < 1:
            raise ValueError(
                f"mlp_ratio={self.mlp_ratio!r} leaves no hidden channel at width {self.dim}"
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
            ValueError: if the patch does not divide the image.
        """
        patch = self._patch_for(images.shape[1:3])
        # `train` (argument 2, after self and x) is a Python bool, not an array.
        block_class = nn.remat(VitBlock, static_argnums=(2,)) if self.remat else VitBlock

        x = nn.Conv(
            self.dim,
            kernel_size=patch,
            strides=patch,
            padding="VALID",
            dtype=self.dtype,
            kernel_init=truncated_normal,
            name="patch_embedding",
        )(images)  # [b, h, w, c]
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
            x = block_class(
                num_heads=self.num_heads,
                mlp_ratio=self.mlp_ratio,
                qkv_bias=self.qkv_bias,
                gelu=self.gelu,
                drop_path_rate=drop_path_rate,
                dropout_rate=self.dropout_rate,
                attention_dropout_rate=self.attention_dropout_rate,
                dtype=self.dtype,
                name=f"block{block}",
            )(x, train)
            # Not under the block's own name: a module and what it sows share one name space.
            self.sow("intermediates", f"block{block}_tokens", x)

        x = nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=self.dtype, name="norm")(x)
        x = x.astype(jnp.float32)
        x = x[:, 0] if self.pooling == "class_token" else x.mean(axis=1)  # [b, c]
        return nn.Dense(self.num_classes, kernel_init=truncated_normal, name="head")(x)

    def _patch_for(self, image_size: tuple[int, ...]) -> tuple[int, int]:
        """Returns (height, width) of a patch; ValueError if it does not divide the image."""
        size = self.patch_size
        patch = (size, size) if isinstance(size, int) else size
        for side, image, part in zip(("height", "width"), image_size, patch, strict=True):
            if image < part or image % part:
                below = image // part * part
                near = f"{below} or {below + part}" if below else f"{part}"
                raise ValueError(
                    f"image size {image_size[0]}x{image_size[1]} does not fit patch_size={size}: "
                    f"the {side} must be a multiple of {part}; nearest: {near}"
                )
        return patch
