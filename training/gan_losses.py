"""Losses of a discriminator and a generator, as functions of the discriminator's logits.

Logits are [b], high for what looks real.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class GanLoss(NamedTuple):
    """A pair of losses.

    Attributes:
        discriminator: `(real_logits, generated_logits) -> scalar`.
        generator: `(generated_logits) -> scalar`.
    """

    discriminator: Callable[[jax.Array, jax.Array], jax.Array]
    generator: Callable[[jax.Array], jax.Array]


def _logistic(real: jax.Array, generated: jax.Array) -> jax.Array:
    return jax.nn.softplus(-real).mean() + jax.nn.softplus(generated).mean()


def _hinge(real: jax.Array, generated: jax.Array) -> jax.Array:
    return jax.nn.relu(1.0 - real).mean() + jax.nn.relu(1.0 + generated).mean()


LOSSES = {
    # Goodfellow et al., arXiv 1406.2661, section 3: the generator maximises log D(G(z)).
    "logistic": GanLoss(_logistic, lambda generated: jax.nn.softplus(-generated).mean()),
    # Lim and Ye, "Geometric GAN", arXiv 1705.02894.
    "hinge": GanLoss(_hinge, lambda generated: -generated.mean()),
    # Arjovsky et al., arXiv 1701.07875; it needs the gradient penalty below.
    "wasserstein": GanLoss(
        lambda real, generated: generated.mean() - real.mean(),
        lambda generated: -generated.mean(),
    ),
}


def squared_gradient_norms(logits: Callable[[jax.Array], jax.Array], images: jax.Array):
    """Returns |d logit / d image|^2 of each image, [b].

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
    algorithm 1 without its weight.
    """
    share = jax.random.uniform(key, (len(real), 1, 1, 1))
    between = share * real + (1.0 - share) * generated
    # The root has no gradient at 0.
    norms = jnp.sqrt(squared_gradient_norms(logits, between) + 1e-12)
    return ((norms - 1.0) ** 2).mean()


def is_collapsed(real: jax.Array, generated: jax.Array, gap: float | None) -> jax.Array:
    """Tells whether a generator can still learn from a discriminator with these logits.

    It can not if the discriminator is right about every image of the batch, real and generated,
    and their mean logits lie more than `gap` apart: what is left is a slope that leads nowhere. Nor
    if all images have the same logit.

    Args:
        real, generated: logits [b].
        gap: in logits; 0 or None: only the second is looked for.

    Returns:
        int32, 1 for collapsed.
    """
    logits = jnp.concatenate([real, generated])
    same = logits.max() - logits.min() < 1e-6
    if not gap:
        return same.astype(jnp.int32)
    is_right = (real > 0).all() & (generated < 0).all()
    return (same | (is_right & (real.mean() - generated.mean() > gap))).astype(jnp.int32)
