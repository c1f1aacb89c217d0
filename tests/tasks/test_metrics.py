"""Evaluation metrics against scikit-learn and answers known by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from clu.metrics import Average
from sklearn.metrics import log_loss, top_k_accuracy_score

from harness.errors import NonFiniteError
from tasks.metrics import (
    ClassificationMetrics,
    check_finite,
    classification_metrics,
    label_rank,
    mean_scalars,
)
from tasks.protocol import Evaluation, Task
from training.evaluation import evaluate


class Summing(Task):
    """A task that only evaluates; the trivial rest of it is Task's."""

    init = train_step = eval_step = metric_names = parameters = summarize = None

    def __init__(self, summarize):
        self.summarize = summarize


@pytest.fixture
def predictions():
    rng = np.random.default_rng(0)
    return rng.normal(size=(103, 10)).astype(np.float32), rng.integers(0, 10, 103)


def test_metrics_equal_scikit_learn(predictions):
    logits, labels = predictions
    summary = ClassificationMetrics.of(logits, labels, np.ones(103)).summary()
    shifted = logits - logits.max(-1, keepdims=True)
    probabilities = np.exp(shifted) / np.exp(shifted).sum(-1, keepdims=True)
    classes = np.arange(10)
    assert summary["top1_accuracy"] == top_k_accuracy_score(labels, logits, k=1, labels=classes)
    assert summary["top5_accuracy"] == top_k_accuracy_score(labels, logits, k=5, labels=classes)
    assert summary["loss"] == pytest.approx(log_loss(labels, probabilities, labels=classes), 1e-5)
    assert summary["num_examples"] == 103


@pytest.mark.parametrize("num_classes", [2, 5, 6])
def test_no_top5_for_five_classes_or_fewer(num_classes):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(9, num_classes)), rng.integers(0, num_classes, 9)
    kind = classification_metrics(num_classes)
    summary = kind.of(logits, labels, np.ones(9)).summary()
    assert summary["top1_accuracy"] == (logits.argmax(1) == labels).mean()
    names = {"loss", "top1_accuracy", "num_examples"}
    assert summary.keys() == (names if num_classes <= 5 else names | {"top5_accuracy"})


def evaluated_in_parts(metrics, logits, labels, batch_size):
    """Returns the summary of a whole split in batches, the last one padded with NaN and zeros."""

    def batches():
        for start in range(0, len(labels), batch_size):
            part = slice(start, start + batch_size)
            pad = batch_size - len(labels[part])
            yield (
                np.concatenate([logits[part], np.full((pad, 10), np.nan, np.float32)]),
                np.concatenate([labels[part], np.zeros((pad, *labels.shape[1:]), int)]),
                np.concatenate([np.ones(len(labels[part])), np.zeros(pad)]),
            )

    return evaluate(
        lambda _, batch, key: ({"raw": metrics.of(*batch)}, ()),
        Summing(lambda sums, rows: Evaluation(sums["raw"].summary())),
        None,
        batches(),
        key=None,
    ).metrics


@pytest.mark.parametrize("batch_size", [1, 7, 16, 103, 200])
def test_padding_never_counts(predictions, batch_size):
    logits, labels = predictions
    whole = ClassificationMetrics.of(logits, labels, np.ones(103)).summary()

    parts = evaluated_in_parts(ClassificationMetrics, logits, labels, batch_size)
    assert parts["loss"] == pytest.approx(whole.pop("loss"), rel=1e-6)
    del parts["loss"]
    assert parts == whole


def test_ties_and_nan_are_not_correct():
    constant = jnp.zeros((10, 10))
    assert label_rank(constant, jnp.arange(10)).tolist() == list(range(10))
    broken = jnp.full((2, 10), jnp.nan)
    assert (label_rank(broken, jnp.asarray([0, 9])) >= 5).all()
    one_nan = jnp.zeros((1, 10)).at[0, 3].set(jnp.nan)
    assert label_rank(one_nan, jnp.asarray([0]))[0] == 1


def test_evaluation_can_be_abandoned():
    seen = []

    def step(_, batch, key):
        seen.append(batch)
        return {}, ()

    task = Summing(lambda sums, rows: Evaluation({}))
    assert evaluate(step, task, None, range(5), key=None, stop=lambda: len(seen) == 2) is None
    assert len(seen) == 2


def test_rows_arrive_in_order_and_a_task_may_add_batches():
    class More(Summing):
        def eval_batches(self, batches):
            yield from batches
            yield 10

    def step(state, batch, key):
        metric = Average.from_model_output(jnp.asarray([batch]))
        return {"batch": metric}, {"twice": jnp.asarray([state * batch])}

    task = More(
        lambda sums, rows: Evaluation({"mean": sums["batch"].compute()}, protocol={"rows": rows})
    )
    evaluation = evaluate(step, task, 2, [1, 2, 3], key=None)
    assert evaluation.metrics == {"mean": 4.0}
    assert [int(row["twice"][0]) for row in evaluation.protocol["rows"]] == [2, 4, 6, 20]
    assert all(isinstance(row["twice"], np.ndarray) for row in evaluation.protocol["rows"])


def test_window_mean_and_non_finite():
    window = [{"loss": jnp.float32(1.0), "count": jnp.int32(9)}, {"loss": 2.5, "count": 4}]
    assert mean_scalars(window) == {"loss": 1.75, "count": 4}  # how many there are now
    check_finite({"loss": 1.0}, 3)
    with pytest.raises(NonFiniteError, match="loss=nan.*step 7"):
        check_finite({"loss": float("nan"), "grad_norm": 1.0}, 7)
