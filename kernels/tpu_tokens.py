"""A transformer layer on a TPU: all of it over the tokens of a block in one kernel.

Shape letters: b images, t blocks, n tokens of a block, c channels, h heads, f hidden units.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl

from kernels.target import vmem_for_a_kernel
from kernels.tpu_attention import FLOATS, MAX_TOKENS, backward, forward
from kernels.tpu_fused import Block, block_weights, dot, fused, gelu

MIN_TOKENS = MIN_DIM = 64  # A step takes one block; smaller ones leave the matrix unit idle.


def fits(x: Array, hidden_dim: int) -> bool:
    """Returns whether the kernel takes tokens [b, t, n, c] or [b, n, c].

    The backward kernel holds the weights and the sums of their gradients twice each, and float32
    arrays of a block: hidden units and what their gradient needs, scores, queries.
    """
    if x.ndim not in (3, 4) or x.dtype not in FLOATS:
        return False
    n, c = x.shape[-2:]
    weights = 4 * c * c + 2 * c * hidden_dim
    held = weights * 2 * (x.dtype.itemsize + 4)
    rows = pl.cdiv(n, 8) * 8
    values = rows * 4 * (6 * hidden_dim + 30 * c + 6 * pl.cdiv(n, 128) * 128)
    enough = held + values <= vmem_for_a_kernel()
    return MIN_TOKENS <= n <= MAX_TOKENS and c >= MIN_DIM and enough


def transformer_layer(
    x: Array, params: Mapping[str, Any], keep: Array | None, gelu: str, epsilon: float
) -> Array:
    """Computes x + attention(norm(x)), then x + mlp(norm(x)), without dropout.

    Args:
        x: [b, t, n, c] or [b, n, c]; the tokens of different blocks never meet.
        params: of a `layers.transformer_layer.TransformerLayer` with multi-head attention.
        keep: what each of the two branches of a block is multiplied by: 0 where its path is
            dropped; [b, t, 2] or [b, 2]. None: 1.
        gelu: "tanh" or "exact".
        epsilon: of the layer norms.

    Returns:
        Of the shape and type of `x`; sums, norms and the softmax in float32.
    """
    _, _, num_heads, _ = params["attention"]["qkv"]["kernel"].shape
    *_, n, c = x.shape
    hidden_dim = params["mlp"]["dense1"]["bias"].size
    tokens = Tokens(n, c, num_heads, hidden_dim, gelu, epsilon, x.dtype)
    blocks = x.reshape(x.shape[0], -1, n, c)  # [b, t, n, c]
    if keep is not None:
        keep = keep.astype(jnp.float32).reshape(*blocks.shape[:2], 1, 2)
    return fused(tokens, blocks, keep, block_weights(params)).reshape(x.shape)


class Tokens(Block):
    """A layer over the tokens of a block, one block a step."""

    @property
    def products(self) -> int:
        n, c = self.num_tokens, self.dim
        return n * c * (4 * c + 2 * self.hidden_dim + 2 * n)

    def pack(self, weights: tuple[Array, ...]) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """Gives each array two axes: matrices for tokens as rows, and vectors."""
        qkv, qkv_bias, out, out_bias, dense1, bias1, dense2, bias2, *norms = weights
        matrices = (qkv.reshape(self.dim, -1), out.reshape(-1, self.dim), dense1, dense2)
        return matrices, tuple(x.reshape(1, -1) for x in (qkv_bias, out_bias, bias1, bias2, *norms))

    def compute(
        self, x: Array, keep: Array | None, constants: tuple, matrices: tuple, vectors: tuple
    ) -> Array:
        """Maps the tokens of a block, [n, c], to the same, in float32."""
        qkv, out, dense1, dense2 = matrices
        qkv_bias, out_bias, bias1, bias2, scale1, shift1, scale2, shift2 = vectors
        first, second = (1.0, 1.0) if keep is None else (keep[:, :1], keep[:, 1:])
        y = dot(self._norm(x, scale1, shift1), qkv) + qkv_bias  # [n, 3 * c]
        y = dot(_attend(self.num_heads, self.dtype, y), out) + out_bias  # [n, c]
        x = x + y * first
        y = dot(self._norm(x, scale2, shift2), dense1) + bias1  # [n, f]
        y = dot(gelu(y, self.gelu), dense2) + bias2
        return x + y * second

    def _norm(self, x: Array, scale: Array, shift: Array) -> Array:
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + self.epsilon) * scale + shift


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(num_heads: int, dtype: Any, qkv: Array) -> Array:
    """Maps queries, keys and values [n, 3 * c] to [n, c]."""
    return forward((qkv.astype(dtype),), num_heads)[0]


_attend.defvjp(
    lambda num_heads, dtype, qkv: (_attend(num_heads, dtype, qkv), qkv),
    lambda num_heads, dtype, qkv, d_out: backward(
        (qkv.astype(dtype), d_out.astype(dtype)), num_heads
    ),
)
