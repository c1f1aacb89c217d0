"""Block de-aggregation: the step from one level of the transposed NesT to the next.

Every de-aggregation maps the image plane [b, h, w, c] of a level to [b, 2h, 2w, dim], so that
cutting it into blocks of the old size gives four times as many. A field of the generator chooses
one. Tokens on both sides of a block's border meet only in those with a convolution.
"""

from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

# Keeps the variance of its input. With the 0.02 of the other models, pixel shuffles shrink what
# comes from the noise far below the position embeddings: at 64x64 (widths 256, 128, 64, 64) to
# 0.2 % of the variance, so that all samples start as the same image.
keep_variance = nn.initializers.lecun_normal()
# Each output of the transposed convolution sees a quarter of the kernel: 4 of 16 places.
keep_variance_of_quarter = nn.initializers.variance_scaling(4.0, "fan_in", "truncated_normal")


def pixel_shuffle(x: Array, factor: int) -> Array:
    """Rearranges the channels of each token into a square of tokens: "depth to space".

    Args:
        x: [b, h, w, factor^2 * c]. The channels of a token are those of the square's tokens in
            turn, row by row (PatchMerging's order, not PyTorch's).
        factor: side of the square.

    Returns:
        [b, factor * h, factor * w, c].

    Reference:
        Shi et al., arXiv 1609.05158, equation 4, up to the order of the channels.
    """
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, factor, factor, c // factor**2)  # [b, h, w, f, f, c]
    x = x.transpose(0, 1, 3, 2, 4, 5)  # [b, h, f, w, f, c]
    return x.reshape(b, h * factor, w * factor, c // factor**2)  # [b, f * h, f * w, c]


class Deaggregation(nn.Module):
    """What all de-aggregations have in common.

    Attributes:
        dim: channels of the result.
        dtype: computation type; parameters stay float32.
    """

    dim: int
    dtype: Any = jnp.float32

    def _conv(self, x: Array, dim: int) -> Array:
        return nn.Conv(
            dim,
            kernel_size=(3, 3),
            dtype=self.dtype,
            kernel_init=keep_variance,
            name="conv",
        )(x)


class PixelShuffle(Deaggregation):
    """Pixel shuffle, with a linear projection if a quarter of the channels is not `dim`.

    No information crosses the border between a block, with the four it becomes, and the others.

    Reference:
        HiT-GAN (Zhao et al., arXiv 2106.07631), the step between its stages. That NesT's generator
        also shuffles pixels is unverified.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [b, h, w, c] to [b, 2h, 2w, dim]; c is a multiple of 4."""
        # Without a barrier, XLA of jax 0.11 takes minutes on a CPU to fuse two levels' shuffles.
        x = lax.optimization_barrier(pixel_shuffle(x, 2))  # [b, 2h, 2w, c/4]
        if x.shape[-1] == self.dim:
            return x
        return nn.Dense(self.dim, dtype=self.dtype, kernel_init=keep_variance, name="projection")(
            x
        )  # [b, 2h, 2w, dim]


class ConvPixelShuffle(Deaggregation):
    """3x3 convolution to 4 * dim channels on the image plane, then pixel shuffle.

    Reference:
        Shi et al., arXiv 1609.05158, figure 1: the sub-pixel convolution.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [b, h, w, c] to [b, 2h, 2w, dim]."""
        return pixel_shuffle(self._conv(x, 4 * self.dim), 2)


class NearestConv(Deaggregation):
    """Each token repeated four times, then a 3x3 convolution on the image plane."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [b, h, w, c] to [b, 2h, 2w, dim]."""
        x = x.repeat(2, axis=1).repeat(2, axis=2)  # [b, 2h, 2w, c]
        return self._conv(x, self.dim)


class TransposedConv(Deaggregation):
    """Transposed 4x4 convolution with stride 2 on the image plane.

    Reference:
        Radford et al., "DCGAN", arXiv 1511.06434, section 3.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [b, h, w, c] to [b, 2h, 2w, dim]."""
        return nn.ConvTranspose(
            self.dim,
            kernel_size=(4, 4),
            strides=(2, 2),
            dtype=self.dtype,
            kernel_init=keep_variance_of_quarter,
            name="conv",
        )(x)


DeaggregationName = Literal[
    "pixel_shuffle",
    "conv_pixel_shuffle",
    "nearest_conv",
    "transposed_conv",
]
DEAGGREGATIONS = {
    "pixel_shuffle": PixelShuffle,
    "conv_pixel_shuffle": ConvPixelShuffle,
    "nearest_conv": NearestConv,
    "transposed_conv": TransposedConv,
}
