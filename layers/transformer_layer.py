"""The transformer layer that NesT and ViT stack. TNT's block drops paths in another way."""

from functools import partial
from typing import Any

from flax import linen as nn
from jax import Array

from kernels.target import Kernels
from layers.attention import ATTENTIONS, Attention
from layers.drop_path import DropPath
from layers.layer_norm import LayerNorm
from layers.mlp import Gelu, Mlp
from layers.one_kernel import in_one_kernel
from layers.remat import Remat, recomputed_attention

LAYER_NORM_EPSILON = 1e-6


class TransformerLayer(nn.Module):
    """One transformer layer: x + attention(norm(x)), then x + mlp(norm(x)).

    Attributes:
        num_heads: attention heads; they must divide the width of the input.
        mlp_ratio: hidden width of the perceptron, in multiples of the input's.
        gelu: "tanh" or "exact".
        dtype: computation type; parameters stay float32.
        attention: a key of `layers.attention.ATTENTIONS`.
        qkv_bias: whether query, key and value have a bias.
        drop_path_rate: rate at which a sample loses either branch.
        dropout_rate: rate after attention and after both dense layers of the perceptron.
        attention_dropout_rate: rate on the attention weights.
        remat: "attention" recomputes the attention weights in the backward pass; for the other
            values see `layers.remat.recomputed_layer`.
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
    remat: Remat = "none"
    kernels: Kernels = "auto"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Maps [..., n, c] to [..., n, c]; tokens of different leading indices never meet."""
        drop_path = partial(self._drop_path, train=train)
        if self.attention == "multi_head":
            y = in_one_kernel(self, x, train, drop_path=drop_path, epsilon=LAYER_NORM_EPSILON)
            if y is not None:
                return y
        y, x = self._norm(x, "norm_attention")
        y = recomputed_attention(ATTENTIONS[self.attention], self.remat)(
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
        return x + drop_path(y, "drop_path2")

    def _norm(self, x: Array, name: str) -> tuple[Array, Array]:
        norm = LayerNorm(LAYER_NORM_EPSILON, self.dtype, self.kernels, name=name)
        return norm(x, hand_on=True)

    def _drop_path(self, y: Array, name: str, train: bool) -> Array:
        return DropPath(self.drop_path_rate, name=name)(y, deterministic=not train)
