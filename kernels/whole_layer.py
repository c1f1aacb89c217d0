"""Which kernel computes a whole transformer layer: x + attention(norm(x)), then x + mlp(norm(x)).

A kernel maps (x, params, keep, gelu, epsilon) to the layer's output, as
`kernels.gpu_words.transformer_block` describes them. It has no dropout, and is of multi-head
attention.
"""

from collections.abc import Callable

from jax import Array

from kernels import gpu_words, tpu_tokens, tpu_words
from kernels.target import platform


def choose(
    x: Array, *, num_heads: int, hidden_dim: int, qkv_bias: bool
) -> Callable[..., Array] | None:
    """Returns the kernel for the device that is traced for, or None.

    Args:
        x: tokens, [..., n, c], in the computation type.
        num_heads: of the attention.
        hidden_dim: of the perceptron.
        qkv_bias: whether query, key and value have a bias.
    """
    if platform() == "gpu" and not qkv_bias and gpu_words.fits(x, num_heads):
        return gpu_words.transformer_block
    if platform() == "tpu" and tpu_tokens.fits(x, hidden_dim):
        return tpu_tokens.transformer_layer
    if platform() == "tpu" and tpu_words.fits(x, num_heads):
        return tpu_words.transformer_block
    return None
