"""The task of segmentation: its runs, its loss, its evaluation, what it starts from."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import jaccard_score

import evaluate
import train
from configs import digits_segment
from data.annotations.annotated import IGNORE
from harness.errors import ConfigError, Interrupted
from segmentation import measures
from tests.model_inputs import fill
from tests.tasks.test_batch_statistics import run_steps
from tests.training.test_resume import assert_equal_runs, final_record, kill_when
from training import experiment
from zoo.registry import create_model, variable_shapes
from zoo.save import write_weights


@pytest.fixture
def tiny_config():
    config = digits_segment.get_config("debug")
    config.model.update(dims=(8, 16), depths=(1, 1), num_heads=(2, 2))
    config.decoder.update(dim=16, num_heads=2, mask_dim=8)
    config.data.update(train_split="train[:32]", eval_split="test[:12]", image_size=32)
    config.data.update(scene_pixels=(8, 12), batch_size=8, eval_batch_size=8)
    config.loop.update(num_epochs=2.0, evaluate_every_epochs=1.0, save_every_epochs=0.75)
    config.optimizer.base_lr = 1e-2
    config.task.ema_decay = 0.5
    config.mesh.data = 1
    return config


@pytest.mark.usefixtures("compiled_once")
def test_an_interrupted_run_is_the_same_bit_for_bit(tiny_config, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    metrics = train.train_and_evaluate(tiny_config, whole)
    assert metrics["num_examples"] == 12  # in batches of 8: each counts once
    assert {"mean_iou", "pixel_accuracy", "ema_mean_iou", "iou/background"} <= set(metrics)
    with monkeypatch.context() as patch:
        kill_when(patch, "step", 5)
        with pytest.raises(Interrupted):
            train.train_and_evaluate(tiny_config, parts)
    assert train.train_and_evaluate(tiny_config, parts) == metrics
    expected = final_record(tiny_config, whole)
    assert_equal_runs(final_record(tiny_config, parts), expected)
    losses = [record["loss"] for record in expected[3] if record["kind"] == "train"]
    assert losses[-1] < losses[0]
    evaluated = evaluate.evaluate_workdir(tiny_config, whole)
    last = {name: value for name, value in metrics.items() if not name.startswith("best_")}
    assert {name: evaluated[name] for name in last} == last


def test_one_device_equals_eight(tiny_config):
    """Batch statistics and the mean over the pixels are the whole batch's."""
    # AdamW would turn the sign of a tiny gradient into a whole step.
    tiny_config.optimizer.update(name="sgd", base_lr=0.1, weight_decay=0.0)
    tiny_config.data.eval_short_side = 24  # padded
    run, losses, _, last = run_steps(tiny_config, 3)
    tiny_config.mesh.data = 8
    other_run, other_losses, _, other = run_steps(tiny_config, 3)
    np.testing.assert_allclose(other_losses, losses, rtol=1e-4)
    chex.assert_trees_all_close(other.model_state, last.model_state, atol=1e-3)
    chex.assert_trees_all_close(other.params, last.params, atol=2e-4)
    sums = []
    for one in (run, other_run):  # the last batch is filled up
        state = jax.device_put(last, one.shardings)
        sums.append([one.eval_step(state, b, one.key)[0]["raw"] for b in one.data.eval_batches()])
    for ours, theirs in zip(*sums, strict=True):
        assert int(ours.num_examples) == int(theirs.num_examples)
        ours_pixels, theirs_pixels = ours.pixels(), theirs.pixels()
        np.testing.assert_array_equal(ours_pixels.sum(axis=1), theirs_pixels.sum(axis=1))
        # An untrained model's logits are almost equal: another one of them may be the largest.
        assert np.abs(ours_pixels - theirs_pixels).sum() < 0.01 * ours_pixels.sum()
        np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-4)


def test_what_is_padded_or_ignored_changes_nothing(tiny_config):
    run = experiment.build(tiny_config)
    batch = jax.device_get(next(iter(run.data.train_batches())))
    batch["image_mask"] = np.broadcast_to(np.arange(32) < 24, (8, 32, 32)).copy()
    batch["segments"] = np.where(np.arange(32) < 24, batch["segments"], IGNORE)
    state = run.init()
    loss = jax.jit(lambda b: run.task.batch_loss(state.params, state.model_state, b, run.key)[0])
    changed = {**batch, "image": batch["image"].copy()}
    changed["image"][:, :, 24:] = 255
    assert loss(changed) == loss(batch)
    nothing = {**batch, "segments": np.full_like(batch["segments"], IGNORE)}
    assert loss(nothing) == 0
    sums, _ = jax.jit(run.task.eval_step)(state, nothing | {"mask": np.ones(8)}, run.key)
    with pytest.raises(ConfigError, match="no pixel was evaluated: every one is ignored"):
        run.task.summarize(jax.device_get(sums), [])
    assert measures.IGNORE == IGNORE


def test_evaluation_is_that_of_scikit_learn(tiny_config):
    run = experiment.build(tiny_config)
    state, sums, answers, truth = run.init(), None, [], []

    @jax.jit
    def both(state, batch):  # in one program: an untrained model's logits are almost equal
        found = run.task.predict(run.task.evaluated(state)["raw"], batch)
        return run.task.eval_step(state, batch, run.key)[0], found

    for batch in run.data.eval_batches():
        step, found = both(state, batch)
        sums = step if sums is None else {name: sums[name].merge(step[name]) for name in sums}
        real = np.asarray(batch["mask"]) > 0
        answers.append(np.asarray(found)[real])
        truth.append(np.asarray(batch["segments"])[real])
    metrics = run.task.summarize(jax.device_get(sums), []).metrics
    answers, truth = (np.concatenate(parts).ravel() for parts in (answers, truth))
    assert len(truth) == 12 * 32 * 32
    present = np.union1d(answers, truth)
    iou = jaccard_score(truth, answers, labels=present, average=None)
    assert metrics["mean_iou"] == pytest.approx(iou.mean(), rel=1e-9)
    names = run.data.dataset.class_names
    for label, value in zip(present, iou, strict=True):
        assert metrics[f"iou/{names[label]}"] == pytest.approx(value, rel=1e-9)


def test_weights_of_a_classification_start_the_backbone(tiny_config, tmp_path):
    section = tiny_config.model.to_dict()
    classifier = create_model(**section, num_classes=7)
    weights = fill(variable_shapes(classifier, (16, 16, 3)))  # of other images: resized
    write_weights(tmp_path / "weights.npz", weights, classifier, (16, 16))
    tiny_config.init_from = str(tmp_path / "weights.npz")
    run = experiment.build(tiny_config)
    loaded, report = run.read_weights()
    assert set(report.skipped) == {"norm/scale", "norm/bias", "head/kernel", "head/bias"}
    assert "backbone" in str(report) and not report.reinitialized
    first, state = jax.device_get((run.init(), run.init((loaded, report))))
    layer = "level1_layer1"
    np.testing.assert_array_equal(
        state.params["backbone"][layer]["mlp"]["dense1"]["kernel"],
        weights["params"][layer]["mlp"]["dense1"]["kernel"],
    )
    chex.assert_trees_all_equal(state.params["decoder"], first.params["decoder"])
    chex.assert_trees_all_equal(state.model_state, first.model_state)
    chex.assert_trees_all_equal(state.ema, state.params)
    assert jnp.isfinite(state.params["backbone"]["level1_position"]["embedding"]).all()


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("decoder", {"num_heads": 3}, "config.decoder.num_heads=3: does not divide"),
        ("decoder", {"maps": (3,)}, r"config.decoder.maps=\(3,\): wrong"),
        ("decoder", {"strides": (3, 8)}, "config.decoder.strides="),
        ("optimizer", {"poly_power": 0.0}, "config.optimizer.poly_power"),
        ("data", {"image_size": 30}, "config.data.image_size=.*does not fit"),
    ],
)
def test_wrong_values_are_named(tiny_config, section, values, message):
    tiny_config[section].update(values)
    with pytest.raises(ConfigError, match=message):
        experiment.build(tiny_config)


def test_weights_of_a_segmentation_are_said_to_start_no_other(tiny_config, tmp_path):
    run = experiment.build(tiny_config)
    weights = {"params": jax.device_get(run.init().params)}
    classifier = create_model(**tiny_config.model.to_dict(), num_classes=7)
    write_weights(tmp_path / "weights.npz", weights, classifier, (32, 32))
    tiny_config.init_from = str(tmp_path / "weights.npz")
    with pytest.raises(ConfigError, match="of a detection or segmentation, from which no other"):
        experiment.build(tiny_config).read_weights()
