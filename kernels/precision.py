"""The type in which sums and statistics are computed."""

from typing import Any

import jax.numpy as jnp
from jax import Array


def at_least_float32(x: Array | Any) -> Any:
    """Returns float32, or the type of `x` (an array or a type) where that is wider: float64."""
    return jnp.promote_types(getattr(x, "dtype", x), jnp.float32)
