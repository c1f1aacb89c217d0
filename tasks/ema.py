"""The exponential moving average (EMA) of a network's parameters, and its warm-up."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The numbers that a compiled step gets as values; {} when off."""
        if not self.decay:
            return {}
        rate = 1.0 - self.decay  # of a float32 it would be off by one in ten thousand
        return {"rate": np.float32(rate), "kept": np.float32(1.0 - rate)}

    def update(
        self,
        ema: Any,
        params: Any,
        step: jax.Array,
        trained: Any,
        hyperparameters: dict[str, Any] | None = None,
    ) -> Any:
        """Returns the next average.

        Args:
            ema: the average so far.
            params: the new parameters.
            step: number of updates made before this one.
            trained: tree of bools; where it is False, the average stays bit-for-bit unchanged.
            hyperparameters: values of a compiled step; None: its own.
        """
        if not self.decay:
            return None
        rate, kept = self.shares(step, hyperparameters)
        average = jax.tree.map(lambda new, old: rate * new + kept * old, params, ema)
        return select(trained, average, ema)

    def shares(
        self, step: jax.Array, hyperparameters: dict[str, Any] | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the shares of the new parameters, 1 - decay, and of the average; see `update`."""
        given = self.hyperparameters if hyperparameters is None else hyperparameters
        if not self.warmup:
            return given["rate"], given["kept"]
        rate = jnp.maximum(given["rate"], 9.0 / (10.0 + step))
        return rate, 1.0 - rate
