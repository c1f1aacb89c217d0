"""Block aggregation: the step from one level of NesT to the next.

Every aggregation maps the image plane [b, h, w, c] of a level to [b, h/2, w/2, dim], so that
cutting it into blocks of the old size leaves a quarter of the blocks. A field of the model chooses
one. All are built with the same fields, though some need only a few of them.

Padding: at stride 2 on an even side, "same" (the official code) adds one row after the last, and
"torch" (timm) adds one before the first, so the 3x3 windows lie differently.
"""

from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from kernels.target import Kernels
from layers.initializers import truncated_normal
from layers.layer_norm import LayerNorm
from layers.transformer_layer import LAYER_NORM_EPSILON
from nest.blocks import block, unblock

Padding = Literal["same", "torch"]
# (before, after) on each axis, for a window of 3 with stride 2 on an even side.
PADDINGS = {"same": (0, 1), "torch": (1, 1)}


def max_pool(x: Array, padding: Padding) -> Array:
    """Takes the maximum over 3x3 windows with stride 2.

    Each axis in turn is a maximum over three shifted slices. Values and, away from ties, gradients
    equal those of `nn.max_pool`, whose gradient is several times slower on CPU.

    Args:
        x: [b, h, w, c] with even h and w.
        padding: a key of PADDINGS.

    Returns:
        [b, h/2, w/2, c].
    """
    lowest = jnp.array(-jnp.inf, x.dtype)
    for axis in (1, 2):
        even, odd = (lax.slice_in_dim(x, i, None, stride=2, axis=axis) for i in range(2))
        # The third token of a window is the even one after its pair, or the odd one before.
        third, move = (even, (-1, 1, 0)) if padding == "same" else (odd, (1, -1, 0))
        moves = [move if i == axis else (0, 0, 0) for i in range(x.ndim)]
        x = jnp.maximum(jnp.maximum(even, odd), lax.pad(third, lowest, moves))
    return x  # [b, h/2, w/2, c]


class Aggregation(nn.Module):
    """What all aggregations have in common: their fields and the layers that they are made of.

    Attributes:
        dim: channels of the result.
        block_size: sides of a block in tokens; only what works inside blocks reads it.
        padding: a key of PADDINGS.
        dtype: computation type; parameters stay float32.
        kernels: "auto", or "plain" for the forms that define the numbers.
    """

    dim: int
    block_size: tuple[int, int]
    padding: Padding = "same"
    dtype: Any = jnp.float32
    kernels: Kernels = "auto"

    def _conv(self, x: Array, stride: int, dim: int | None = None, name: str = "conv") -> Array:
        edges = (1, 1) if stride == 1 else PADDINGS[self.padding]
        return nn.Conv(
            dim or self.dim,
            kernel_size=(3, 3),
            strides=(stride, stride),
            padding=(edges, edges),
            dtype=self.dtype,
            kernel_init=truncated_normal,
            name=name,
        )(x)

    def _norm(self, x: Array) -> Array:
        return LayerNorm(LAYER_NORM_EPSILON, self.dtype, self.kernels, name="norm")(x)

    def _planes_of_blocks(self, x: Array) -> Array:
        """Cuts [b, h, w, c] into one small plane per block, [b * t, bh, bw, c]."""
        return block(x, self.block_size).reshape(-1, *self.block_size, x.shape[-1])

    def _match_dim(self, x: Array) -> Array:
        """Projects to `dim` channels if the pooling alone leaves another number."""
        if x.shape[-1] == self.dim:
            return x
        return nn.Dense(
            self.dim, dtype=self.dtype, kernel_init=truncated_normal, name="projection"
        )(x)


class ConvNormMaxPool(Aggregation):
    """3x3 convolution, layer norm and 3x3 max-pool on the image plane: the paper's choice.

    On the plane, tokens at the border of a block meet those of the neighbouring blocks.

    Reference:
        NesT paper, section "block aggregation"; official libml/self_attention.py, ConvPool.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [b, h, w, c] to [b, h/2, w/2, dim]."""
        return max_pool(self._norm(self._conv(x, stride=1)), self.padding)


class ConvNormMaxPoolInBlock(Aggregation):
    """ConvNormMaxPool inside each block, so that blocks never meet: an ablation."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [b, h, w, c] to [b, h/2, w/2, dim]."""
        b, h, w, _ = x.shape
        bh, bw = self.block_size
        x = self._planes_of_blocks(x)  # [b * t, bh, bw, c]
        x = max_pool(self._norm(self._conv(x, stride=1)), self.padding)  # [b * t, bh/2, bw/2, dim]
        x = x.reshape(b, -1, (bh // 2) * (bw // 2), self.dim)  # [b, t, n/4, dim]
        return unblock(x, (bh // 2, bw // 2), (h // bh, w // bw))  # [b, h/2, w/2, dim]


class ConvInBlockConvNormMaxPool(Aggregation):
    """ConvNormMaxPool after another 3x3 convolution, inside each block: an ablation.

    The first convolution, with zeros around each block, keeps the width, and nothing stands between
    the two; so what follows it is the paper's choice, and the ablation adds one thing alone. From c
    channels to d it has 9c^2 + c parameters more than ConvNormMaxPool, 9cd + 3d.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [b, h, w, c] to [b, h/2, w/2, dim]."""
        b, h, w, c = x.shape
        bh, bw = self.block_size
        x = self._planes_of_blocks(x)  # [b * t, bh, bw, c]
        x = self._conv(x, stride=1, dim=c, name="conv_in_block")  # [b * t, bh, bw, c]
        x = x.reshape(b, -1, bh * bw, c)  # [b, t, n, c]
        x = unblock(x, (bh, bw), (h // bh, w // bw))  # [b, h, w, c]
        return max_pool(self._norm(self._conv(x, stride=1)), self.padding)


class MaxPool(Aggregation):
    """3x3 max-pool alone, with a linear projection if the width changes: an ablation."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [b, h, w, c] to [b, h/2, w/2, dim]."""
        return self._match_dim(max_pool(x, self.padding))


class AveragePool(Aggregation):
    """3x3 average-pool alone, with a linear projection if the width changes: an ablation.

    The mean is over real tokens: padding does not count.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [b, h, w, c] to [b, h/2, w/2, dim]."""
        edges = PADDINGS[self.padding]
        x = nn.avg_pool(x, (3, 3), (2, 2), padding=(edges, edges), count_include_pad=False)
        return self._match_dim(x)  # [b, h/2, w/2, dim]


class StridedConv(Aggregation):
    """3x3 convolution with stride 2, then layer norm: the paper's without its pool, an ablation."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [b, h, w, c] to [b, h/2, w/2, dim]."""
        return self._norm(self._conv(x, stride=2))


class PatchMerging(Aggregation):
    """Four neighbours concatenated, layer norm, linear projection: an ablation.

    The four are in row-major order; the projection has no bias.

    Reference:
        Liu et al., "Swin Transformer", arXiv 2103.14030, section 3.1.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [b, h, w, c] to [b, h/2, w/2, dim]."""
        b, h, w, c = x.shape
        x = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(b, h // 2, w // 2, 4 * c)  # [b, h/2, w/2, 4 * c]
        return nn.Dense(
            self.dim,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=truncated_normal,
            name="projection",
        )(self._norm(x))  # [b, h/2, w/2, dim]


AggregationName = Literal[
    "conv_norm_maxpool",
    "conv_norm_maxpool_in_block",
    "conv_in_block_conv_norm_maxpool",
    "maxpool",
    "avgpool",
    "strided_conv",
    "patch_merging",
]
AGGREGATIONS = {
    "conv_norm_maxpool": ConvNormMaxPool,
    "conv_norm_maxpool_in_block": ConvNormMaxPoolInBlock,
    "conv_in_block_conv_norm_maxpool": ConvInBlockConvNormMaxPool,
    "maxpool": MaxPool,
    "avgpool": AveragePool,
    "strided_conv": StridedConv,
    "patch_merging": PatchMerging,
}
