"""The exponential moving average (EMA) of a network's parameters, and its warm-up."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from harness.arguments import check_range
from harness.trees import select


@dataclasses.dataclass(frozen=True)
class ParameterEma:
    """The average that is evaluated in place of the newest parameters.

    Attributes:
        decay: per step; 0 or None: no average.
        warmup: start with a shorter memory, decay min(decay, (1 + step) / (10 + step)), so that the
            average does not hold on to the initial values for 1 / (1 - decay) steps.
    """

    decay: float | None
    warmup: bool

    def __post_init__(self):
        if self.decay is not None:
            check_range("config.task.ema_decay", self.decay, 0, below=1)

    def init(self, params: Any) -> Any:
        """Returns the average at step 0, None when off."""
        return jax.tree.map(jnp.copy, params) if self.decay else None

    def update(self, ema: Any, params: Any, step: jax.Array, trained: Any) -> Any:
        """Returns the next average.

        Args:
            ema: the average so far.
            params: the new parameters.
            step: number of updates made before this one.
            trained: tree of bools; where it is False, the average stays bit-for-bit unchanged.
        """
        if not self.decay:
            return None
        return select(trained, optax.incremental_update(params, ema, self.rate(step)), ema)

    def rate(self, step: jax.Array) -> jax.Array | float:
        """Returns the share of the new parameters, 1 - decay, in update number `step`."""
        rate = 1.0 - self.decay  # in float32 it would be off by one in ten thousand
        return jnp.maximum(rate, 9.0 / (10.0 + step)) if self.warmup else rate
