"""Losses of a discriminator and a generator, as functions of the discriminator's logits.

Logits are [b], high for what looks real.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp


class GanLoss(NamedTuple):
    """A pair of losses.

    Attributes:
        discriminator: `(real_logits, generated_logits) -> scalar`.
        generator: `(generated_logits) -> scalar`.
        has_floor: whether the discriminator's loss ends at 0, where it is perfect.
    """

    discriminator: Callable[[jax.Array, jax.Array], jax.Array]
    generator: Callable[[jax.Array], jax.Array]
    has_floor: bool


def _logistic(real: jax.Array, generated: jax.Array) -> jax.Array:
    return jax.nn.softplus(-real).mean() + jax.nn.softplus(generated).mean()


def _hinge(real: jax.Array, generated: jax.Array) -> jax.Array:
    return jax.nn.relu(1.0 - real).mean() + jax.nn.relu(1.0 + generated).mean()


LOSSES = {
    # Goodfellow et al., arXiv 1406.2661, section 3: the generator maximises log D(G(z)).
    "logistic": GanLoss(_logistic, lambda generated: jax.nn.softplus(-generated).mean(), True),
    # Lim and Ye, "Geometric GAN", arXiv 1705.02894.
    "hinge": GanLoss(_hinge, lambda generated: -generated.mean(), True),
    # Arjovsky et al., arXiv 1701.07875; it needs the gradient penalty below. Their critic, and that
    # of Gulrajani et al., makes five steps per step of the generator; this one makes one.
    "wasserstein": GanLoss(
        lambda real, generated: generated.mean() - real.mean(),
        lambda generated: -generated.mean(),
        False,
    ),
}


def squared_gradient_norms(logits: Callable[[jax.Array], jax.Array], images: jax.Array):
    """Returns |d logit / d image|^2 per image, [b].

    Args:
        logits: images [b, h, w, c] -> [b].
        images: where the gradient is taken.
    """
    gradients = jax.grad(lambda x: logits(x).sum())(images)
    return (gradients.astype(jnp.float32) ** 2).sum(axis=(1, 2, 3))


def r1_penalty(logits: Callable[[jax.Array], jax.Array], real: jax.Array) -> jax.Array:
    """Returns half the mean squared gradient at real images.

    Reference: Mescheder et al., "Which training methods for GANs do actually converge?", arXiv
    1801.04406, equation 9 without its weight.
    """
    return 0.5 * squared_gradient_norms(logits, real).mean()


def wasserstein_penalty(
    key: jax.Array,
    logits: Callable[[jax.Array], jax.Array],
    real: jax.Array,
    generated: jax.Array,
) -> jax.Array:
    """Returns the mean squared distance of the gradient's norm from 1, between real and generated.

    Reference: Gulrajani et al., "Improved training of Wasserstein GANs", arXiv 1704.00028,
    equation 3 without its weight.
    """
    chex.assert_equal_shape([real, generated])
    share = jax.random.uniform(key, (len(real), 1, 1, 1))
    between = share * real + (1.0 - share) * generated
    # The root has no gradient at 0.
    norms = jnp.sqrt(squared_gradient_norms(logits, between) + 1e-12)
    return ((norms - 1.0) ** 2).mean()


# A discriminator's loss below this is a collapse: it is right with a probability of 0.99995
# ("logistic"), or all logits lie beyond the margin ("hinge"). In working training it is near 1.
COLLAPSED_LOSS = 1e-4
# Logits that differ by less, as a share of the largest, are equal but for rounding.
SAME_LOGITS = 1e-5


def is_collapsed(loss: GanLoss, real: jax.Array, generated: jax.Array) -> jax.Array:
    """Returns whether a generator can learn nothing more from a discriminator with these logits.

    That is so if the discriminator's loss is 0 (below COLLAPSED_LOSS): it has won, and its own
    gradient is 0 as well. Or if all images have the same logit (within SAME_LOGITS times the
    largest, or times 1 if all are smaller). The loss of a Wasserstein critic has no floor, so only
    the second applies to it.

    Args:
        loss: of the training.
        real, generated: logits [b].

    Returns:
        A bool.
    """
    logits = jnp.concatenate([real, generated])
    size = jnp.maximum(1.0, jnp.abs(logits).max())
    collapsed = logits.max() - logits.min() <= SAME_LOGITS * size
    if loss.has_floor:
        collapsed |= loss.discriminator(real, generated) < COLLAPSED_LOSS
    return collapsed


def count_collapsed(count: jax.Array, collapsed: jax.Array) -> jax.Array:
    """Returns the running count of collapsed steps: +1 for one, -1 for another, never below 0.

    A single step neither hides a collapse nor makes one.

    Args:
        count: before this step, int32.
        collapsed: whether this step is, see `is_collapsed`.
    """
    return jnp.maximum(count + jnp.where(collapsed, 1, -1), 0)
