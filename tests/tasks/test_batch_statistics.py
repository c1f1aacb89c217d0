"""Models with batch statistics in the loop that knows nothing of them."""

import chex
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import evaluate
import train
from harness.errors import Interrupted
from tests.training.test_resume import assert_equal_runs, final_record, kill_when
from training import experiment


@pytest.fixture
def conv_config(small_config):
    """The small run with one bottleneck of a ResNet and its recipe's optimizer, 20 steps."""
    small_config.model = ConfigDict({"name": "resnet50", "depths": (1,), "dims": (8,)})
    small_config.optimizer.update(
        name="sgd", nesterov=True, base_lr=0.05, weight_decay=1e-3, grad_clip_norm=None
    )
    small_config.optimizer.decay_exclude = ("bias$", "scale$")
    return small_config


def run_steps(config, steps):
    """Trains; returns the run, the losses, and the first and the last state as NumPy arrays."""
    run = experiment.build(config)
    state, batches, losses = run.init(), run.data.train_batches(), []
    first = jax.device_get(state)
    for _ in range(steps):
        state, scalars = run.train_step(state, next(batches), run.key, run.hyperparameters)
        losses.append(scalars["loss"])
    return run, np.asarray(jax.device_get(losses)), first, jax.device_get(state)


@pytest.mark.usefixtures("compiled_once")
def test_interrupted_equals_uninterrupted_and_evaluation_agrees(conv_config, tmp_path, monkeypatch):
    conv_config.loop.num_epochs = 2.0
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    metrics = train.train_and_evaluate(conv_config, whole)
    with monkeypatch.context() as patch:
        kill_when(patch, "step", 6)
        with pytest.raises(Interrupted):
            train.train_and_evaluate(conv_config, parts)
    assert train.train_and_evaluate(conv_config, parts) == metrics
    expected = final_record(conv_config, whole)
    assert_equal_runs(final_record(conv_config, parts), expected)

    evaluated = evaluate.evaluate_workdir(conv_config, whole)
    last = {name: value for name, value in metrics.items() if not name.startswith("best_")}
    assert {name: evaluated[name] for name in last} == last
    losses = [record["loss"] for record in expected[3] if record["kind"] == "train"]
    assert losses[-1] < losses[0] - 0.05  # it learns


def test_one_device_equals_eight(conv_config):
    """Statistics of eight shares of the batch would differ from those of the whole batch."""
    _, losses, first, last = run_steps(conv_config, 5)
    conv_config.mesh.data = 8
    run, other_losses, _, other = run_steps(conv_config, 5)
    assert run.mesh.size == 8
    np.testing.assert_allclose(other_losses, losses, rtol=1e-4)
    chex.assert_trees_all_close(other.model_state, last.model_state, rtol=1e-3, atol=1e-4)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), first.model_state, last.model_state)
    assert list(moved) == ["batch_stats"] and min(jax.tree.leaves(moved)) > 1e-3


def test_accumulation_updates_the_averages_part_by_part(conv_config):
    conv_config.task.accumulation_steps = 2
    run, _, first, last = run_steps(conv_config, 1)
    batch = jax.device_get(next(run.data.train_batches()))
    mean, std = (np.asarray(values) for values in run.data.statistics)
    images = (batch["image"] / 255.0 - mean) / std
    model_state = first.model_state
    for part in (images[0::2], images[1::2]):
        variables = {"params": first.params, **model_state}
        _, model_state = run.task.model.apply(
            variables, np.float32(part), train=True, mutable=["batch_stats"]
        )
    chex.assert_trees_all_close(last.model_state, dict(model_state), rtol=1e-4, atol=1e-5)


def test_the_moving_average_of_parameters_is_evaluated_with_the_same_statistics(conv_config):
    conv_config.task.ema_decay = 0.5
    run, _, _, last = run_steps(conv_config, 3)
    batch = next(iter(run.data.eval_batches()))
    metrics = run.task.summarize(*run.eval_step(last, batch, run.key)).metrics
    assert metrics["ema_loss"] != metrics["loss"]
    same = last.replace(ema=last.params)
    metrics = run.task.summarize(*run.eval_step(same, batch, run.key)).metrics
    assert metrics["ema_loss"] == metrics["loss"]
