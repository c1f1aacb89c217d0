"""The transformer block that TNT uses twice: on words (inner) and on sentences (outer)."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from kernels import tpu_tokens, tpu_words
from kernels.target import Kernels, platform
from layers.attention import MultiHeadAttention
from layers.initializers import truncated_normal
from layers.mlp import Gelu, Mlp

LAYER_NORM_EPSILON = 1e-5


class SqueezeExcite(nn.Module):
    """Gates every channel by the mean token: x * tanh(dense(relu(dense(norm(mean))))).

    Attributes:
        dtype: computation type; parameters stay float32.

    Reference:
        TNT paper, appendix A.2; official tnt_pytorch/tnt.py, SE.
    """

    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [b, n, d] to [b, n, d]."""
        dim = x.shape[-1]
        gate = x.mean(axis=-2, keepdims=True)  # [b, 1, d]
        gate = nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=self.dtype, name="norm")(gate)
        for name, width, activation in (("dense1", dim // 4, nn.relu), ("dense2", dim, jnp.tanh)):
            gate = activation(
                nn.Dense(width, dtype=self.dtype, kernel_init=truncated_normal, name=name)(gate)
            )
        return x * gate  # [b, n, d]


class TransformerBlock(nn.Module):
    """One block, inner or outer: x + attention(norm(x)), then x + mlp(norm(x)).

    Attributes: as in `Tnt`, for a single block.

    Reference:
        TNT paper, section 2.1; official tnt_pytorch/tnt.py, Block.
    """

    num_heads: int
    mlp_ratio: float
    qkv_bias: bool
    gelu: Gelu
    drop_path_rate: float
    dropout_rate: float
    attention_dropout_rate: float
    dtype: Any
    squeeze_excite: bool = False
    kernels: Kernels = "auto"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Maps [..., n, c] to [..., n, c]; tokens of different leading indices never meet."""
        if self._fits_one_kernel(x, train):
            return self._in_one_kernel(x, train)
        y = self._norm(x, "norm_attention")
        y = MultiHeadAttention(
            num_heads=self.num_heads,
            qkv_bias=self.qkv_bias,
            dropout_rate=self.attention_dropout_rate,
            dtype=self.dtype,
            kernels=self.kernels,
            name="attention",
        )(y, deterministic=not train)
        y = nn.Dropout(self.dropout_rate, name="drop")(y, deterministic=not train)
        x = x + self._drop_path(y, train, "drop_path1")

        y = self._norm(x, "norm_mlp")
        y = Mlp(
            hidden_dim=int(x.shape[-1] * self.mlp_ratio),
            gelu=self.gelu,
            dropout_rate=self.dropout_rate,
            dtype=self.dtype,
            name="mlp",
        )(y, deterministic=not train)
        if self.squeeze_excite:
            y = y + SqueezeExcite(self.dtype, name="squeeze_excite")(y)
        return x + self._drop_path(y, train, "drop_path2")

    def _norm(self, x: Array, name: str) -> Array:
        return nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=self.dtype, name=name)(x)

    def _drop_path(self, y: Array, train: bool, name: str) -> Array:
        # One draw per sequence: sentences are dropped per image, words per patch, as released.
        drop = nn.Dropout(self.drop_path_rate, broadcast_dims=(-2, -1), name=name)
        return drop(y, deterministic=not train)

    def _fits_one_kernel(self, x: Array, train: bool) -> bool:
        drops = train and (self.dropout_rate or self.attention_dropout_rate)
        return (
            self.kernels == "auto"
            and platform() == "tpu"
            and not (self.is_initializing() or self.squeeze_excite or drops)
            and self._kernel_for(x.astype(self.dtype)) is not None
        )

    def _in_one_kernel(self, x: Array, train: bool) -> Array:
        """Computes the block from the parameters that its layers made."""
        keep = None
        if train and self.drop_path_rate:
            ones = jnp.ones((*x.shape[:-2], 1, 1))
            names = ("drop_path1", "drop_path2")
            keep = [self._drop_path(ones, train, name)[..., 0] for name in names]
            keep = jnp.concatenate(keep, axis=-1)  # [..., 2]
        x = x.astype(self.dtype)
        block = self._kernel_for(x)
        return block(x, self.variables["params"], keep, self.gelu, LAYER_NORM_EPSILON)

    def _kernel_for(self, x: Array) -> Callable[..., Array] | None:
        if tpu_words.fits(x, self.num_heads):
            return tpu_words.transformer_block
        hidden_dim = int(x.shape[-1] * self.mlp_ratio)
        if tpu_tokens.fits(x, hidden_dim):
            return tpu_tokens.transformer_layer
        return None
