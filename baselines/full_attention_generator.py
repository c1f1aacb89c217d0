"""A TransGAN-style generator of images, which the NesT paper's generator is compared with.

Words and shape letters are those of nest/gan/generator.py; n is all tokens of a level.
"""

from typing import Any

import chex
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from kernels.target import Kernels
from layers.attention import Attention
from layers.embeddings import PositionEmbedding
from layers.layer_norm import LayerNorm
from layers.mlp import Gelu
from layers.shared_fields import shared_fields
from layers.transformer_layer import LAYER_NORM_EPSILON, TransformerLayer
from nest.gan.deaggregation import DEAGGREGATIONS, DeaggregationName, pixel_shuffle
from nest.gan.generator import NestGenerator


class FullAttentionGenerator(nn.Module):
    """A generator without classes in which every token attends to every other at each resolution.

    With the fields of a NesT generator, it has the same parameters, up to the shape of the position
    embeddings.

    Attributes:
        deaggregation: as in `NestGenerator`; TransGAN's own is pixel shuffle.
        dims and the rest: as in `NestGenerator`.

    Reference:
        Jiang, Chang and Wang, "TransGAN", arXiv 2102.07074, section 3 and figure 1: transformer
        layers on 8x8, 16x16, 32x32, ... tokens, pixel shuffle in between. Its later grid attention
        for large images is left out.
    """

    image_size: int
    dims: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    num_channels: int = 3
    latent_dim: int = 128
    patch_size: int = 1
    mlp_ratio: float = 4
    attention: Attention = "multi_head"
    qkv_bias: bool = True
    deaggregation: DeaggregationName = "pixel_shuffle"
    gelu: Gelu = "tanh"
    dtype: Any = jnp.float32
    kernels: Kernels = "auto"

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error where the model is built."""
        NestGenerator(**shared_fields(self, NestGenerator), parent=None)  # takes the same values
        super().__post_init__()

    @nn.compact
    def __call__(self, noise: Array) -> Array:
        """Maps noise [b, latent_dim] to images [b, image_size, image_size, num_channels]."""
        chex.assert_shape(noise, (None, self.latent_dim), custom_message="noise: [b, latent_dim]")
        shared = shared_fields(self, TransformerLayer, but=("num_heads",))
        levels = len(self.dims)
        side = self.image_size // (self.patch_size * 2 ** (levels - 1))
        x = nn.Dense(side * side * self.dims[0], dtype=self.dtype, name="latent_projection")(noise)
        x = x.reshape(-1, side * side, self.dims[0])  # [b, n, c]
        for level in range(1, levels + 1):
            x = PositionEmbedding(self.dtype, name=f"level{level}_position")(x)
            for layer in range(1, self.depths[level - 1] + 1):
                name = f"level{level}_layer{layer}"
                heads = self.num_heads[level - 1]
                x = TransformerLayer(**shared, num_heads=heads, name=name)(x, False)  # [b, n, c]
            x = x.reshape(-1, side, side, x.shape[-1])  # [b, h, w, c]
            if level < levels:
                x = DEAGGREGATIONS[self.deaggregation](
                    dim=self.dims[level], dtype=self.dtype, name=f"level{level}_deaggregation"
                )(x)  # [b, 2h, 2w, c of the next level]
                side *= 2
                x = x.reshape(-1, side * side, x.shape[-1])  # [b, 4n, c of the next level]
        x = LayerNorm(LAYER_NORM_EPSILON, self.dtype, self.kernels, name="norm")(x)
        x = nn.Dense(self.patch_size**2 * self.num_channels, name="to_pixels")(
            x.astype(jnp.float32)
        )  # [b, h, w, p^2 * k]
        x = pixel_shuffle(x, self.patch_size)  # [b, p * h, p * w, k]
        chex.assert_shape(x, (None, self.image_size, self.image_size, self.num_channels))
        return x
