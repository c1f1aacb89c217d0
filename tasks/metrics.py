"""Metrics: masked sums for evaluation, averages of scalars for the training log.

Evaluation takes sums rather than means off the device: they add up over batches of any size, over
devices and over hosts, and are divided once, at the end, so that every example counts exactly once.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from harness.errors import NonFiniteError


def label_rank(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns how many classes stand before the label when logits are sorted.

    Ties go to the lower class index, as argmax does, so that a constant output is not all correct.
    NaN counts as standing before everything.

    Args:
        logits: [b, num_classes].
        labels: [b], integers.

    Returns:
        [b] int32; 0 where the label has the largest logit.
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)  # [b, 1]
    before = ~(logits <= own)
    tied_before = (logits == own) & (jnp.arange(logits.shape[-1]) < labels[:, None])
    return jnp.sum(before | tied_before, axis=-1)


def classification_sums(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> dict:
    """Returns sums over the examples with mask 1.

    Args:
        logits: [b, num_classes] float32.
        labels: [b] int32.
        mask: [b], 1 for an example, 0 for padding.

    Returns:
        `loss` (cross entropy in nats, float32), `top1`, `top5`, `count` (int32).
    """
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    rank = label_rank(logits, labels)
    real = mask > 0
    return {
        "loss": jnp.sum(jnp.where(real, loss, 0.0)),  # where: a NaN in the padding stays out
        "top1": jnp.sum(real & (rank < 1), dtype=jnp.int32),
        "top5": jnp.sum(real & (rank < 5), dtype=jnp.int32),
        "count": jnp.sum(real, dtype=jnp.int32),
    }


def classification_summary(sums: dict) -> dict[str, float]:
    """Returns `loss`, `top1_accuracy`, `top5_accuracy` in 0..1 and `num_examples`."""
    count = int(sums["count"])
    return {
        "loss": float(sums["loss"]) / count,
        "top1_accuracy": int(sums["top1"]) / count,
        "top5_accuracy": int(sums["top5"]) / count,
        "num_examples": count,
    }


def to_numbers(window: list[dict]) -> list[dict[str, float]]:
    """Fetches a list of dicts of device scalars; Python floats keep every bit of a float32."""
    return [
        {name: np.asarray(value).item() for name, value in scalars.items()}
        for scalars in jax.device_get(window)
    ]


def mean_scalars(window: list[dict]) -> dict[str, float]:
    """Returns the mean of each scalar over a window of steps; of integers, counts, the last."""
    rows = to_numbers(window)
    return {
        name: last if isinstance(last, int) else float(np.mean([row[name] for row in rows]))
        for name, last in rows[-1].items()
    }


def check_finite(scalars: dict[str, float], step: int) -> None:
    """Raises NonFiniteError, naming the scalars and the step, unless all are finite."""
    bad = {name: value for name, value in scalars.items() if not math.isfinite(value)}
    if bad:
        named = ", ".join(f"{name}={value}" for name, value in bad.items())
        raise NonFiniteError(f"{named} at or shortly before step {step}; stopped")
