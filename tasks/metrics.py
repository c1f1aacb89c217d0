"""Metrics of a classifier's evaluation, and averages of scalars for the training log.

To add a metric to evaluation, add a line to ClassificationMetrics (and
FewClassesMetrics) or MultiLabelMetrics.
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
from tasks.losses import Loss, loss_of, targets_of


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


def is_first(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns whether the likeliest class is the label, or one of the labels, [b] bool.

    Args:
        logits: [b, num_classes].
        labels: [b] integers; with several labels an image, [b, num_classes] of 0 and 1.
    """
    if labels.ndim == 1:
        return label_rank(logits, labels) < 1
    return jnp.take_along_axis(labels, jnp.argmax(logits, -1)[:, None], -1)[:, 0] > 0


class _Metrics(Collection):
    def summary(self) -> dict[str, float]:
        """Returns each metric and `num_examples`, as Python numbers."""
        metrics = jax.device_get(self)  # NumPy divides counts in float64
        if not metrics.loss.count:
            raise BadImage("no example was evaluated: none of the split's images could be read")
        averages = {name: float(value) for name, value in metrics.compute().items()}
        return averages | {"num_examples": int(metrics.loss.count)}


@flax.struct.dataclass
class FewClassesMetrics(_Metrics):
    """The metrics of an evaluation; a field is the name that train.py and evaluate.py report.

    The label is always among the five likeliest of five classes or fewer: no metric says so.

    Each is a sum and a count over examples, so that batches, devices and hosts merge by adding and
    every example counts once. `from_output` and `from_fun` see the values that `of` makes per
    example: logits [b, num_classes], labels, loss and rank [b].
    """

    loss: Average.from_output("loss")
    top1_accuracy: Average.from_fun(lambda rank, **_: rank < 1)

    @classmethod
    def of(
        cls, logits: jax.Array, labels: jax.Array, mask: jax.Array, loss: Loss = "softmax"
    ) -> "FewClassesMetrics":
        """Returns the metrics of a batch.

        Args:
            logits: [b, num_classes] float32; -inf for classes that are not compared.
            labels: [b] int32.
            mask: [b], 1 for an example, 0 for padding.
            loss: of the classifier.
        """
        chex.assert_rank(logits, 2)
        chex.assert_shape([labels, mask], logits.shape[:1])
        if loss == "softmax":
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)  # in nats
        else:
            losses = _loss_of_compared(logits, labels, loss)
        return cls.single_from_model_output(
            logits=logits,
            labels=labels,
            loss=losses,
            rank=label_rank(logits, labels),
            mask=mask,
        )


@flax.struct.dataclass
class ClassificationMetrics(FewClassesMetrics):
    """The metrics of an evaluation with more than five classes; see FewClassesMetrics.

    clu reads the annotations of the class itself alone, so that those above are repeated.
    """

    loss: Average.from_output("loss")
    top1_accuracy: Average.from_fun(lambda rank, **_: rank < 1)
    top5_accuracy: Average.from_fun(lambda rank, **_: rank < 5)


def classification_metrics(num_classes: int) -> type[FewClassesMetrics]:
    """Returns the metrics of an evaluation that compares so many classes."""
    return ClassificationMetrics if num_classes > 5 else FewClassesMetrics


def _loss_of_compared(logits: jax.Array, labels: jax.Array, loss: Loss) -> jax.Array:
    targets = targets_of(labels, logits.shape[-1], loss)
    return loss_of(logits, targets, loss, where=~jnp.isneginf(logits))


def _over_labelled(name: str) -> type[Average]:
    """Returns the average of an output over the images that have a class."""

    @flax.struct.dataclass
    class OverLabelled(Average):
        @classmethod
        def from_model_output(cls, **output) -> Average:
            return super().from_model_output(output[name], output["mask"] * output["has_label"])

    return OverLabelled


@flax.struct.dataclass
class MultiLabelMetrics(_Metrics):
    """The metrics of an evaluation with several labels an image; see ClassificationMetrics.

    Of an image's k classes those are named that are among its k likeliest: `classes_named` is their
    share, `set_accuracy` whether it is all. `top1_accuracy` is whether the likeliest class is one
    of the image's. Images without a class do not count there, as in ImageNet-ReaL (arXiv
    2006.07159). Ties go to the lower class index, but in `label_ranking_average_precision`, which
    is sklearn.metrics.label_ranking_average_precision_score: the mean over an image's classes of
    the share of its own among all that are at least as likely, and 1 for an image without a class.
    """

    loss: Average.from_output("loss")
    top1_accuracy: _over_labelled("is_first")
    classes_named: _over_labelled("share_named")
    set_accuracy: _over_labelled("are_all_named")
    label_ranking_average_precision: Average.from_output("precision")

    @classmethod
    def of(
        cls, logits: jax.Array, labels: jax.Array, mask: jax.Array, loss: Loss = "softmax"
    ) -> "MultiLabelMetrics":
        """Returns the metrics of a batch.

        Args:
            logits: [b, num_classes] float32; -inf for classes that are not compared.
            labels: [b, num_classes] int32 of 0 and 1.
            mask: [b], 1 for an example, 0 for padding.
            loss: of the classifier.
        """
        chex.assert_equal_shape([logits, labels])
        chex.assert_shape(mask, logits.shape[:1])
        order = jnp.argsort(logits, axis=-1, descending=True, stable=True)  # NaN first
        own = jnp.take_along_axis(labels, order, -1)  # [b, c], likeliest first, as all below
        found, count = jnp.cumsum(own, axis=-1), own.sum(axis=-1)  # [b, c], [b]
        at_count = jnp.take_along_axis(found, jnp.maximum(count - 1, 0)[:, None], -1)[:, 0]
        scores = jnp.take_along_axis(logits, order, -1)
        as_likely = jax.vmap(lambda row: jnp.searchsorted(-row, -row, side="right"))(scores)
        precision = jnp.take_along_axis(found, as_likely - 1, -1) / as_likely
        return cls.single_from_model_output(
            loss=_loss_of_compared(logits, labels, loss),
            is_first=own[:, 0] > 0,
            share_named=at_count / jnp.maximum(count, 1),
            are_all_named=at_count == count,
            precision=jnp.where(
                count > 0, (own * precision).sum(axis=-1) / jnp.maximum(count, 1), 1.0
            ),
            has_label=count > 0,
            mask=mask,
        )


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
