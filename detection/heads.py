"""What reads a class and a box off a token."""

import math
from typing import Any

from flax import linen as nn
from jax import Array

from kernels.precision import at_least_float32
from layers.initializers import fan_in_uniform


class Heads(nn.Module):
    """The class, and a perceptron of three layers for the box.

    Attributes:
        num_logits, prior, dtype: see Detr.
        moves: whether the box is where one is moved to, at first not at all.
    """

    num_logits: int
    prior: float | None
    moves: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Maps [..., c] to logits [..., k] and what gives boxes [..., 4] by a sigmoid, float32."""
        bias = 0.0 if self.prior is None else math.log(self.prior / (1 - self.prior))
        logits = nn.Dense(
            self.num_logits,
            dtype=self.dtype,
            kernel_init=fan_in_uniform,
            bias_init=nn.initializers.constant(bias),
            name="classes",
        )(x)
        y = x
        for layer in (1, 2):
            y = nn.Dense(
                x.shape[-1], dtype=self.dtype, kernel_init=fan_in_uniform, name=f"box_dense{layer}"
            )(y)
            y = nn.relu(y)
        last = nn.initializers.zeros if self.moves else fan_in_uniform
        y = nn.Dense(4, dtype=self.dtype, kernel_init=last, name="box_dense3")(y)
        return tuple(out.astype(at_least_float32(out)) for out in (logits, y))
