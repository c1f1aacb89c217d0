"""Stochastic depth: dropping whole residual branches, sample by sample."""

from flax import linen as nn
from jax import Array


def drop_path_rates(max_rate: float, num_layers: int) -> tuple[float, ...]:
    """Returns the drop-path rate of each layer, growing linearly from 0 to `max_rate`.

    The rates are Python floats: a NumPy scalar would promote bfloat16 activations to float32.

    Args:
        max_rate: rate of the last layer.
        num_layers: number of layers, over all levels.

    Returns:
        One rate per layer.

    Reference:
        Huang et al., "Deep Networks with Stochastic Depth", section 3, linear decay rule.
    """
    steps = max(num_layers - 1, 1)
    return tuple(float(max_rate) * layer / steps for layer in range(num_layers))


class DropPath(nn.Module):
    """Zeroes a residual branch for a random share of the samples and scales up the others.

    One draw is made per entry of the leading axis. Randomness comes from the "dropout" stream.

    Attributes:
        rate: share of samples that lose the branch, in [0, 1).

    Reference:
        Huang et al., "Deep Networks with Stochastic Depth", arXiv 1603.09382.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, deterministic: bool) -> Array:
        """Drops samples of `x` ([b, ...]) unless `deterministic`."""
        all_but_leading = tuple(range(1, x.ndim))
        drop = nn.Dropout(self.rate, broadcast_dims=all_but_leading, name="drop")
        return drop(x, deterministic=deterministic)
