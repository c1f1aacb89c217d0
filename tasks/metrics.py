"""Metrics of a classifier's evaluation, and averages of scalars for the training log.

To add a metric to evaluation, add a line to ClassificationMetrics.
"""

import math

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu.metrics import Average, Collection

from harness.errors import BadImage, NonFiniteError


def label_rank(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns how many classes come before the label when logits are sorted, largest first.

    Ties go to the lower class index, as in argmax, so that a constant output is not all correct.
    NaN comes before everything.

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


@flax.struct.dataclass
class ClassificationMetrics(Collection):
    """The metrics of an evaluation; a field is the name that train.py and evaluate.py report.

    Each is a sum and a count over examples, so that batches, devices and hosts merge by adding and
    every example counts once. `from_output` and `from_fun` see the values that `of` makes per
    example: logits [b, num_classes], labels, loss and rank [b].
    """

    loss: Average.from_output("loss")
    top1_accuracy: Average.from_fun(lambda rank, **_: rank < 1)
    top5_accuracy: Average.from_fun(lambda rank, **_: rank < 5)

    @classmethod
    def of(cls, logits: jax.Array, labels: jax.Array, mask: jax.Array) -> "ClassificationMetrics":
        """Returns the metrics of a batch.

        Args:
            logits: [b, num_classes] float32.
            labels: [b] int32.
            mask: [b], 1 for an example, 0 for padding.
        """
        chex.assert_rank(logits, 2)
        chex.assert_shape([labels, mask], logits.shape[:1])
        return cls.single_from_model_output(
            logits=logits,
            labels=labels,
            loss=optax.softmax_cross_entropy_with_integer_labels(logits, labels),  # in nats
            rank=label_rank(logits, labels),
            mask=mask,
        )

    def summary(self) -> dict[str, float]:
        """Returns each metric and `num_examples`, as Python numbers."""
        metrics = jax.device_get(self)  # NumPy divides counts in float64
        if not metrics.loss.count:
            raise BadImage("no example was evaluated: none of the split's images could be read")
        averages = {name: float(value) for name, value in metrics.compute().items()}
        return averages | {"num_examples": int(metrics.loss.count)}


def to_numbers(window: list[dict]) -> list[dict[str, float]]:
    """Fetches a list of dicts of device scalars; Python floats keep every bit of a float32."""
    return [
        {name: np.asarray(value).item() for name, value in scalars.items()}
        for scalars in jax.device_get(window)
    ]


def mean_scalars(window: list[dict]) -> dict[str, float]:
    """Returns the mean of each scalar over a window of steps; of integers (counts), the last."""
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
