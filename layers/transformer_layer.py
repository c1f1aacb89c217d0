"""The transformer layer that NesT and ViT stack. TNT's block drops paths in another way."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from kernels import tpu_tokens
from kernels.target import Kernels, platform
from layers.attention import ATTENTIONS, Attention
from layers.drop_path import DropPath
from layers.mlp import Gelu, Mlp

LAYER_NORM_EPSILON = 1e-6


class TransformerLayer(nn.Module):
    """One transformer layer: x + attention(norm(x)), then x + mlp(norm(x)).

    Attributes:
        num_heads: attention heads; they must divide the width of the input.
        mlp_ratio: hidden width of the perceptron, in multiples of the input's.
        gelu: a key of `layers.mlp.GELUS`.
        dtype: computation type; parameters stay float32.
        attention: a key of `layers.attention.ATTENTIONS`.
        qkv_bias: whether query, key and value have a bias.
        drop_path_rate: rate at which a sample loses either branch.
        dropout_rate: rate after attention and after both dense layers of the perceptron.
        attention_dropout_rate: rate on the attention weights.
        kernels: "auto" for the fastest form of each operation, or "plain" for the ones that define
            the numbers.

    Reference:
        NesT paper (arXiv 2105.12723), equation 1; official libml/self_attention.py,
        EncoderNDBlock. ViT paper (arXiv 2010.11929), equations 2 and 3.
    """

    num_heads: int
    mlp_ratio: float
    gelu: Gelu
    dtype: Any
    attention: Attention = "multi_head"
    qkv_bias: bool = True
    drop_path_rate: float = 0.0
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    kernels: Kernels = "auto"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Maps [..., n, c] to [..., n, c]; tokens of different leading indices never meet."""
        if self._fits_one_kernel(x, train):
            return self._in_one_kernel(x, train)
        y = nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=self.dtype, name="norm_attention")(x)
        y = ATTENTIONS[self.attention](
            num_heads=self.num_heads,
            qkv_bias=self.qkv_bias,
            dropout_rate=self.attention_dropout_rate,
            dtype=self.dtype,
            kernels=self.kernels,
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

    def _fits_one_kernel(self, x: Array, train: bool) -> bool:
        drops = train and (self.dropout_rate or self.attention_dropout_rate)
        return (
            self.kernels == "auto"
            and platform() == "tpu"
            and self.attention == "multi_head"
            and not (self.is_initializing() or drops)
            and tpu_tokens.fits(x.astype(self.dtype), int(x.shape[-1] * self.mlp_ratio))
        )

    def _in_one_kernel(self, x: Array, train: bool) -> Array:
        """Computes the layer from the parameters that its parts made."""
        keep = None
        if train and self.drop_path_rate:
            ones = jnp.ones((len(x), *(1,) * (x.ndim - 2)))
            drops = (DropPath(self.drop_path_rate, name=f"drop_path{i}") for i in (1, 2))
            keep = [drop(ones, deterministic=False) for drop in drops]
            keep = jnp.concatenate(keep, axis=-1)  # [b, 1, 2] or [b, 2]
            keep = jnp.broadcast_to(keep, (*x.shape[:-2], 2))
        return tpu_tokens.transformer_layer(
            x.astype(self.dtype), self.variables["params"], keep, self.gelu, LAYER_NORM_EPSILON
        )
