"""The dense layer, with one or several axes of features on either side."""

import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.nn.initializers import Initializer

from layers.initializers import truncated_normal


class Dense(nn.Module):
    """A linear map of the last axes, with the parameters of `nn.DenseGeneral`.

    The map itself runs on one axis each: XLA then adds the bias inside the product, while for
    several axes it writes and reads the bias at the size of the result, 231 MB in NesT-T's first
    layer at 64 images.

    Attributes:
        features: sizes of the axes of the result.
        num_axes: how many axes of the input are mapped.
        use_bias: whether a bias is added.
        dtype: computation type; parameters stay float32.
        kernel_init: of the weights, as a matrix.
    """

    features: int | tuple[int, ...]
    num_axes: int = 1
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Initializer = truncated_normal

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [..., *inputs] to [..., *features]."""
        features = (self.features,) if isinstance(self.features, int) else self.features
        leading, inputs = x.shape[: -self.num_axes], x.shape[-self.num_axes :]
        flat = (math.prod(inputs), math.prod(features))
        kernel = self.param(
            "kernel", lambda key: self.kernel_init(key, flat).reshape(*inputs, *features)
        )
        x = x.reshape(*leading, -1).astype(self.dtype)
        x = jnp.matmul(x, kernel.reshape(flat).astype(self.dtype))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, features)
            x = x + bias.reshape(-1).astype(self.dtype)
        return x.reshape(*leading, *features)
