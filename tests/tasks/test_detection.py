"""The task of detection: its runs, its losses, its evaluation."""

import chex
import jax
import numpy as np
import pytest

import train
from configs import digits_detr
from harness.errors import ConfigError, Interrupted
from tests.tasks.test_batch_statistics import run_steps
from tests.training.test_resume import assert_equal_runs, final_record, kill_when
from training import experiment


@pytest.fixture
def tiny_config():
    config = digits_detr.get_config("debug")
    config.model.update(dims=(8, 16), depths=(1, 1), num_heads=(2, 2))
    config.detector.update(dim=16, num_heads=2, mlp_dim=16, num_queries=8, num_encoder_layers=1)
    config.detector.update(num_decoder_layers=2, dropout_rate=0.1)
    config.data.update(train_split="train[:32]", eval_split="test[:12]", image_size=32)
    config.data.update(scene_pixels=(8, 12), scene_digits=(1, 3), max_objects=3)
    config.data.update(batch_size=8, eval_batch_size=8)
    config.loop.update(num_epochs=2.0, evaluate_every_epochs=1.0, save_every_epochs=0.75)
    config.optimizer.base_lr = 1e-2
    config.mesh.data = 1
    return config


@pytest.mark.usefixtures("compiled_once")
def test_an_interrupted_run_is_the_same_bit_for_bit(tiny_config, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    metrics = train.train_and_evaluate(tiny_config, whole)
    assert metrics["num_examples"] == 12  # in batches of 8: each counts once
    assert {"ap", "ap50", "ema_ap", "ap_of/7", "best_ema_ap"} <= set(metrics)
    with monkeypatch.context() as patch:
        kill_when(patch, "step", 5)
        with pytest.raises(Interrupted):
            train.train_and_evaluate(tiny_config, parts)
    assert train.train_and_evaluate(tiny_config, parts) == metrics
    expected = final_record(tiny_config, whole)
    assert_equal_runs(final_record(tiny_config, parts), expected)
    losses = [record["loss"] for record in expected[3] if record["kind"] == "train"]
    assert losses[-1] < losses[0]


def plain(config):
    """The paper's DETR, whose class loss is a weighted mean."""
    config.detector.update(classes="softmax", queries="learned", num_decoder_layers=1)
    return config


def test_one_device_equals_eight(tiny_config):
    """Steps of training and an evaluation whose last batch is filled up; images with padding."""
    tiny_config.augment.random_resize = {"short_sides": (16, 24, 32), "longest_side": 32}
    tiny_config.data.eval_short_side = 24
    tiny_config.detector.update(dropout_rate=0.0, num_decoder_layers=1)
    tiny_config.optimizer.name = "sgd"  # Adam would make much of the noise where a gradient is 0
    run, losses, first, last = run_steps(tiny_config, 3)
    found = evaluated(run, last)
    tiny_config.mesh.data = 8
    other_run, other_losses, _, other = run_steps(tiny_config, 3)
    np.testing.assert_allclose(other_losses, losses, rtol=1e-5)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), first.params, last.params)
    assert max(jax.tree.leaves(moved)) > 1e-2
    chex.assert_trees_all_close(other.params, last.params, atol=1e-5)
    for ours, theirs in zip(evaluated(other_run, last), found, strict=True):
        chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=1e-4)


def evaluated(run, state):
    """Returns the rows of the evaluation of a state that may lie on other devices."""
    state = jax.device_put(state, run.shardings)
    return [
        jax.device_get(run.eval_step(state, batch, run.key)[1]) for batch in run.data.eval_batches()
    ]


@pytest.mark.slow
def test_parts_of_a_batch_equal_the_whole(tiny_config):
    plain(tiny_config).detector.dropout_rate = 0.0
    tiny_config.optimizer.name = "sgd"
    _, losses, _, last = run_steps(tiny_config, 3)
    tiny_config.task.accumulation_steps = 2
    _, other_losses, _, other = run_steps(tiny_config, 3)
    np.testing.assert_allclose(other_losses, losses, rtol=1e-4)
    chex.assert_trees_all_close(other.params, last.params, atol=1e-4)


def loss_and_scalars(run, batch):
    """Returns the loss of a batch before the first step."""
    params = run.init().params

    @jax.jit
    def of(batch):
        batch, key = run.task.augmented(batch, 0, run.key)
        loss, (_, scalars) = run.task.batch_loss(params, {}, batch, key)
        return loss, scalars

    return of(batch)


def test_what_is_padded_changes_nothing(tiny_config):
    """Neither rows of objects, nor crowds, nor pixels beyond the image; images without objects."""
    run = experiment.build(tiny_config)
    batch = jax.device_get(next(iter(run.data.train_batches())))
    batch["image_mask"] = np.broadcast_to(np.arange(32) < 24, (8, 32, 32)).copy()
    changed = {name: array.copy() for name, array in batch.items()}
    changed["image"][:, :, 24:] = 255
    rows = batch["labels"] < 0
    assert rows.any()
    changed["boxes"][rows] = 0.3
    changed["labels"][rows], changed["is_crowd"][rows] = 4, True
    assert loss_and_scalars(run, changed)[0] == loss_and_scalars(run, batch)[0]

    changed["labels"][:] = -1
    loss, scalars = loss_and_scalars(run, changed)
    assert scalars["l1_loss"] == scalars["giou_loss"] == 0 < scalars["class_loss"]
    assert np.isfinite(loss)


def test_evaluation_of_perfect_predictions(tiny_config):
    run = experiment.build(tiny_config)
    rows = []
    for batch in jax.device_get(list(run.data.eval_batches())):
        names = ("boxes", "labels", "area", "is_crowd", "size", "mask")
        half = batch["boxes"][..., 2:] / 2
        corners = [batch["boxes"][..., :2] - half, batch["boxes"][..., :2] + half]
        found = {
            "scores": (batch["labels"] >= 0) * np.float32(0.9),
            "labels": np.maximum(batch["labels"], 0),
            "boxes": np.concatenate(corners, axis=-1) * 32,
        }
        rows.append({"truth": {name: batch[name] for name in names}, "raw": found})
    metrics = run.task.summarize({}, rows).metrics
    assert metrics["ap"] == metrics["ap50"] == pytest.approx(1.0)
    assert metrics["num_examples"] == 12


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("detector", {"num_queries": 2}, "config.detector.num_queries=2: fewer than .*=3"),
        ("detector", {"num_queries": 17}, "num_queries=17: needs 17 places .* which has 16"),
        ("task", {"proposal_repeats": 6}, "proposal_repeats=6: needs 18 places .* which has 16"),
        ("detector", {"classes": "sofmax"}, "config.detector.classes='sofmax': unknown"),
        ("detector", {"pool": 3}, "config.detector.pool=3: does not divide the map of .4, 4."),
        ("detector", {"temperature": 0.0}, "config.detector.temperature=0.0"),
        ("detector", {"num_encoder_layers": -1}, "config.detector.num_encoder_layers=-1"),
        ("detector", {"dim": 20}, "config.detector.dim=20: .*multiples of 8"),
        ("detector", {"map_number": 3}, "config.detector.maps=.*wrong"),
        ("task", {"giou_weight": -1.0}, "config.task.giou_weight"),
        ("optimizer", {"slow": ("^backbone/", "^bone/")}, "slow='.bone/'.*matches no parameter"),
    ],
)
def test_wrong_values_are_named(tiny_config, section, values, message):
    tiny_config[section].update(values)
    with pytest.raises(ConfigError, match=message):
        experiment.build(tiny_config)
