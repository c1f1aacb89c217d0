"""The speed of a generator, beside one of the same size that attends to whole images."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from layers.attention import ATTENTIONS
from layers.embeddings import PositionEmbedding
from layers.mlp import Mlp
from nest.aggregation import LAYER_NORM_EPSILON
from nest.deaggregation import DEAGGREGATIONS
from nest.generator import NestGenerator


class FullAttentionLayer(nn.Module):
    """One transformer layer over all tokens: x + attention(norm(x)), then x + mlp(norm(x))."""

    num_heads: int
    mlp_ratio: float
    attention: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [b, n, c] to [b, n, c]."""
        y = nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=self.dtype, name="norm_attention")(x)
        attention = ATTENTIONS[self.attention](self.num_heads, dtype=self.dtype, name="attention")
        x = x + attention(y, deterministic=True)
        y = nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=self.dtype, name="norm_mlp")(x)
        hidden_dim = int(x.shape[-1] * self.mlp_ratio)
        mlp = Mlp(hidden_dim=hidden_dim, gelu="tanh", dtype=self.dtype, name="mlp")
        return x + mlp(y, deterministic=True)


class FullAttentionGenerator(nn.Module):
    """A TransGAN-style generator: at each resolution every token attends to every other.

    It has the widths, depths and heads of a NesT generator, hence its parameters, to the last one.

    Attributes:
        like: the NesT generator.

    Reference:
        Jiang, Chang and Wang, "TransGAN", arXiv 2102.07074, section 3 and figure 1: transformer
        layers on 8x8, 16x16, 32x32, ... tokens, pixel shuffle in between. Its later grid attention
        for large images is left out.
    """

    like: NestGenerator

    @nn.compact
    def __call__(self, noise: Array) -> Array:
        """Maps [b, z] to images, [b, h, w, k]."""
        like, levels = self.like, len(self.like.dims)
        side = like.image_size // (like.patch_size * 2 ** (levels - 1))
        x = nn.Dense(side * side * like.dims[0], dtype=like.dtype, name="latent_projection")(noise)
        x = x.reshape(-1, side * side, like.dims[0])  # [b, n, c]
        for level in range(1, levels + 1):
            x = PositionEmbedding(like.dtype, name=f"level{level}_position")(x)
            for layer in range(1, like.depths[level - 1] + 1):
                x = FullAttentionLayer(
                    num_heads=like.num_heads[level - 1],
                    mlp_ratio=like.mlp_ratio,
                    attention=like.attention,
                    dtype=like.dtype,
                    name=f"level{level}_layer{layer}",
                )(x)
            x = x.reshape(-1, side, side, x.shape[-1])  # [b, h, w, c]
            if level < levels:
                x = DEAGGREGATIONS["pixel_shuffle"](
                    dim=like.dims[level], dtype=like.dtype, name=f"level{level}_shuffle"
                )(x)  # [b, 2h, 2w, c of the next level]
                side *= 2
                x = x.reshape(-1, side * side, x.shape[-1])  # [b, 4n, c of the next level]
        x = nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=like.dtype, name="norm")(x)
        return nn.Dense(like.num_channels, name="to_pixels")(x.astype(jnp.float32))


def count_multiply_adds(function: Callable, *arguments: Any) -> int:
    """Counts the multiply-adds of a function's matrix products and convolutions, traced only."""

    def count(program: Any) -> int:
        total = 0
        for equation in program.eqns:
            size = equation.outvars[0].aval.size if equation.outvars else 0
            if equation.primitive is lax.dot_general_p:
                (contracted, _), _ = equation.params["dimension_numbers"]
                left = equation.invars[0].aval.shape
                total += size * math.prod(left[axis] for axis in contracted)
            if equation.primitive is lax.conv_general_dilated_p:
                kernel = equation.invars[1].aval
                out_axis = equation.params["dimension_numbers"].rhs_spec[0]
                total += size * kernel.size // kernel.shape[out_axis]
            for value in equation.params.values():
                for inner in value if isinstance(value, tuple | list) else (value,):
                    inner = getattr(inner, "jaxpr", inner)
                    total += count(inner) if hasattr(inner, "eqns") else 0
        return total

    return count(jax.make_jaxpr(function)(*arguments).jaxpr)
