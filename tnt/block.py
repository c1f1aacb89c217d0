"""The transformer block that TNT uses twice: on words (inner) and on sentences (outer)."""

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from kernels.target import Kernels
from layers.attention import MultiHeadAttention
from layers.initializers import truncated_normal
from layers.layer_norm import LayerNorm
from layers.mlp import Gelu, Mlp
from layers.one_kernel import in_one_kernel
from layers.remat import Remat, recomputed_attention

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
    dtype: Any
    drop_path_rate: float = 0.0
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    squeeze_excite: bool = False
    remat: Remat = "none"
    kernels: Kernels = "auto"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Maps [..., n, c] to [..., n, c]; tokens of different leading indices never meet."""
        drop_path = partial(self._drop_path, train=train)
        if not self.squeeze_excite:
            y = in_one_kernel(self, x, train, drop_path=drop_path, epsilon=LAYER_NORM_EPSILON)
            if y is not None:
                return y
        y, x = self._norm(x, "norm_attention")
        y = recomputed_attention(MultiHeadAttention, self.remat)(
            num_heads=self.num_heads,
            qkv_bias=self.qkv_bias,
            dropout_rate=self.attention_dropout_rate,
            dtype=self.dtype,
            kernels=self.kernels,
            name="attention",
        )(y, not train)
        y = nn.Dropout(self.dropout_rate, name="drop")(y, deterministic=not train)
        x = x + drop_path(y, "drop_path1")

        y, x = self._norm(x, "norm_mlp")
        y = Mlp(
            hidden_dim=int(x.shape[-1] * self.mlp_ratio),
            gelu=self.gelu,
            dropout_rate=self.dropout_rate,
            dtype=self.dtype,
            kernels=self.kernels,
            name="mlp",
        )(y, deterministic=not train)
        if self.squeeze_excite:
            y = y + SqueezeExcite(self.dtype, name="squeeze_excite")(y)
        return x + drop_path(y, "drop_path2")

    def _norm(self, x: Array, name: str) -> tuple[Array, Array]:
        norm = LayerNorm(LAYER_NORM_EPSILON, self.dtype, self.kernels, name=name)
        return norm(x, hand_on=True)

    def _drop_path(self, y: Array, name: str, train: bool) -> Array:
        # One draw per sequence: sentences are dropped per image, words per patch, as released.
        drop = nn.Dropout(self.drop_path_rate, broadcast_dims=(-2, -1), name=name)
        return drop(y, deterministic=not train)
