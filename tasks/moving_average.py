"""How fast a moving average of parameters forgets."""

import jax
import jax.numpy as jnp


def average_rate(step: jax.Array, decay: float, *, warmup: bool) -> jax.Array | float:
    """Returns the share of the new parameters in their moving average, 1 - decay.

    Args:
        step: number of updates made before this one.
        decay: of the average per step.
        warmup: start with a shorter memory, decay min(decay, (1 + step) / (10 + step)).
    """
    rate = 1.0 - decay  # in float32 it would be off by one in ten thousand
    return jnp.maximum(rate, 9.0 / (10.0 + step)) if warmup else rate
