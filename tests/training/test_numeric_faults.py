"""Non-finite losses and gradients: stopped by name, or left out; losses that jump."""

import dataclasses
import json
import math
import os
import shlex
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import train
from configs import cifar_wrn, digits_nest_gan
from harness.errors import ConfigError, Interrupted, NonFiniteError
from saving.checkpoints import Checkpoints
from tasks.classification import Classification
from tasks.skipping import SKIPPED, skip_update, skipping
from training import experiment
from training.curves import TIMINGS
from training.numeric_faults import NumericFaults, draw_command, read_rows
from workdirs.results import read_metrics


def poison(monkeypatch, steps, *, loss=False):
    """Makes the gradients, or the loss alone, of these steps NaN."""
    original = Classification._accumulated_gradients

    def poisoned(self, state, batch, key):
        grads, model_state, metrics = original(self, state, batch, key)
        is_bad = jnp.isin(state.step + 1, jnp.asarray(steps))
        bad = jnp.where(is_bad, jnp.nan, 0.0)
        if loss:
            return grads, model_state, metrics | {"loss": metrics["loss"] + bad}
        return jax.tree.map(lambda g: g + bad, grads), model_state, metrics

    monkeypatch.setattr(Classification, "_accumulated_gradients", poisoned)


def result(config, workdir):
    """Returns the last state and the lines of metrics.jsonl without what differs in every run."""
    run = experiment.build(config)
    with Checkpoints(workdir=workdir, read_only=True) as saved:
        step, state, _ = saved.restore(run.shapes)
    lines = read_metrics(workdir).sound
    return (
        step,
        jax.device_get(state),
        [{name: value for name, value in line.items() if name not in TIMINGS} for line in lines],
    )


@pytest.mark.parametrize("loss", [False, True], ids=["gradient", "loss"])
def test_the_first_one_stops_the_run_and_is_named(
    small_config, tmp_path, monkeypatch, loss, run_script
):
    """20 steps, logged every third, saved at 7 and 14, evaluated at every fifth."""
    with monkeypatch.context() as patch:
        poison(patch, [8], loss=loss)
        with pytest.raises(NonFiniteError) as error:
            train.train_and_evaluate(small_config, tmp_path)
    name = "loss" if loss else "grad_norm"
    records = experiment.build(small_config).records_of(8)
    text = str(error.value)
    assert text.startswith(f"step 8: {name}=nan; stopped, the last good checkpoint stays")
    assert f"has the records {', '.join(map(str, records))}: " in text and "\n" not in text
    assert text.endswith(f"visualize.py batch --workdir={tmp_path} --step=8")
    assert sorted(p.name for p in (tmp_path / "checkpoints/latest").iterdir()) == ["7"]
    if loss:  # the command that it ends with
        command = text.partition(": python ")[2].split()
        code, said, _ = run_script(*command, f"--output={tmp_path / 'batch.png'}")
        assert code == 0 and (tmp_path / "batch.png").exists()
        listed = " ".join(map(str, records))
        assert said.splitlines()[0] == f"step 8, {len(records)} records: {listed}"
    train.train_and_evaluate(small_config, tmp_path)  # with what was wrong put right
    assert result(small_config, tmp_path)[0] == 20


@pytest.mark.parametrize("step", [7, 10, 16])
def test_it_is_named_before_a_save_an_evaluation_and_a_stop(
    small_config, tmp_path, monkeypatch, step
):
    """These come before the next line is logged, at 9, 12 and 18."""
    poison(monkeypatch, [step])
    if step == 16:
        interrupt(monkeypatch, 17)
    with pytest.raises(NonFiniteError, match=f"^step {step}: grad_norm=nan"):
        train.train_and_evaluate(small_config, tmp_path)


def interrupt(monkeypatch, step):
    """Sends SIGTERM to this process when it makes a step."""
    build = experiment.build

    def build_striking(config, **options):
        run, made = build(config, **options), 0

        def strike(*args):
            nonlocal made
            made += 1
            if made == step:
                os.kill(os.getpid(), signal.SIGTERM)
            return run.train_step(*args)

        return dataclasses.replace(run, train_step=strike)

    monkeypatch.setattr(experiment, "build", build_striking)


@pytest.fixture
def skipping_config(small_config):
    small_config.faults = {"max_skipped_updates": 3}
    return small_config


def test_interrupted_equals_uninterrupted_with_updates_left_out(
    skipping_config, tmp_path, monkeypatch
):
    poison(monkeypatch, [4, 8, 9])
    train.train_and_evaluate(skipping_config, tmp_path / "whole")
    expected = result(skipping_config, tmp_path / "whole")
    for step in (4, 5, 8):  # 8 is in the middle of what is logged at 9
        with monkeypatch.context() as patch:
            interrupt(patch, step if step < 8 else 3)  # the third one lies after the fifth step
            with pytest.raises(Interrupted):
                train.train_and_evaluate(skipping_config, tmp_path / "pieces")
    train.train_and_evaluate(skipping_config, tmp_path / "pieces")
    step, state, lines = result(skipping_config, tmp_path / "pieces")
    assert (step, lines) == (20, expected[2])
    chex.assert_trees_all_equal(state, expected[1])

    logged = {line["step"]: line for line in lines if line["kind"] == "train"}
    assert [logged[step][SKIPPED] for step in (3, 6, 9, 12)] == [0, 1, 3, 3]
    assert all(math.isfinite(line["loss"]) for line in logged.values())
    records_of = experiment.build(skipping_config).records_of
    assert logged[9]["faults"] == [
        {"kind": "skipped", "step": step, "not_finite": ["grad_norm"], "records": records_of(step)}
        for step in (8, 9)
    ]
    assert "faults" not in logged[12]
    assert int(state.step) == 20


def test_one_more_than_allowed_stops_the_run(skipping_config, tmp_path, monkeypatch):
    poison(monkeypatch, [2, 4, 5, 11])
    with pytest.raises(NonFiniteError, match=r"^step 11: .*max_skipped_updates=3 before it"):
        train.train_and_evaluate(skipping_config, tmp_path)


def test_a_line_without_any_update(skipping_config, tmp_path, monkeypatch, capsys):
    poison(monkeypatch, [4, 5, 6])
    train.train_and_evaluate(skipping_config, tmp_path)
    line = result(skipping_config, tmp_path)[2][3]  # after two and the evaluation of step 5
    assert line.keys() == {"kind", "step", SKIPPED, "faults"} and line["step"] == 6
    assert "step 5: left out, grad_norm not finite; its batch: python" in capsys.readouterr().out


def test_a_stopped_run_may_go_on_with_skipping(small_config, tmp_path, monkeypatch):
    poison(monkeypatch, [8])
    with pytest.raises(NonFiniteError):
        train.train_and_evaluate(small_config, tmp_path)
    small_config.faults = {"max_skipped_updates": 1}
    train.train_and_evaluate(small_config, tmp_path)
    assert result(small_config, tmp_path)[2][-2][SKIPPED] == 1


def recipes():
    wide = cifar_wrn.get_config("debug")
    wide.data.name = "synthetic"
    return {"batch statistics": wide, "gan": digits_nest_gan.get_config("debug")}


@pytest.mark.parametrize("kind", ["average, dropout", "frozen, fsdp", "batch statistics", "gan"])
def test_what_a_skipped_update_leaves(small_config, kind):
    config = recipes().get(kind, small_config)
    if kind == "frozen, fsdp":
        config.optimizer.freeze = ("^patch_embedding/",)
        config.mesh = {"data": 2, "fsdp": 2}
    run = experiment.build(config)

    def poisoned(state, *inputs):
        state, scalars = run.task.train_step(state, *inputs)
        is_bad = state.step == 2
        first = next(name for name in scalars if name.endswith("grad_norm"))
        return state, scalars | {first: jnp.where(is_bad, jnp.inf, scalars[first])}

    def jitted(step):
        places = (run.shardings, None)
        return jax.jit(step, out_shardings=places)

    step, plain = jitted(skipping(poisoned, run.task.skip)), jitted(run.task.train_step)
    batches = run.data.train_batches()
    one, scalars = step(run.init(), next(batches), run.key, run.hyperparameters)
    assert int(scalars[SKIPPED]) == 0
    chex.assert_trees_all_close(
        one,
        plain(run.init(), run_batch(run, 0), run.key, run.hyperparameters)[0],
        rtol=1e-3,
        atol=1e-6,
    )
    two, scalars = step(one, next(batches), run.key, run.hyperparameters)
    assert int(scalars[SKIPPED]) == 1 and int(two.step) == 2
    chex.assert_trees_all_equal(two, skip_update(one))
    chex.assert_trees_all_equal(two.replace(step=one.step), without_schedule(one, two))
    assert jax.tree.map(lambda x: x.sharding, two) == jax.tree.map(lambda x: x.sharding, one)
    three, scalars = step(
        two, next(batches), run.key, run.hyperparameters
    )  # the schedules have gone on as well
    assert int(scalars[SKIPPED]) == 0 and int(three.step) == 3
    batches.close()


def run_batch(run, number):
    batches = run.data.train_batches(number)
    batch = next(batches)
    batches.close()
    return batch


def without_schedule(one, two):
    """Returns `one`, but with those integers of `two`'s optimizer that are one higher."""

    def merged(a, b):
        is_count = a.dtype == jnp.int32 and a.ndim == 0 and int(b) == int(a) + 1
        return b if is_count else a

    return jax.tree.map(merged, one, two).replace(step=one.step)


def test_off_it_is_the_task_s_own_step(small_config, skipping_config):
    small_config.faults = {}
    run = experiment.build(small_config)
    assert run.train_step.__wrapped__ == run.task.train_step
    small_config.faults = {"max_skipped_updates": 1}
    assert experiment.build(small_config).train_step.__wrapped__ != run.task.train_step


@pytest.mark.parametrize(("key", "value"), [("max_skipped_updates", -1), ("spike_factor", -2.0)])
def test_wrong_values(small_config, key, value):
    small_config.faults = {key: value}
    with pytest.raises(ConfigError, match=f"^config.faults.{key}={value}: out of range"):
        experiment.check_config(small_config)


@pytest.mark.parametrize("repeats", [1, 2])
def test_records_are_those_that_the_loader_takes(small_config, repeats):
    config = small_config
    config.augment = {}
    config.data.repeats = repeats
    run = experiment.build(config)
    for step in (1, 2, 6, 11):  # 5 steps an epoch
        batch, records = run_batch(run, step - 1), run.records_of(step)
        assert len(records) == config.data.batch_size
        for image, label, record in zip(batch["image"], batch["label"], records, strict=True):
            there = run.data.train_source[record]
            np.testing.assert_array_equal(image, there["image"])
            assert label == there["label"]


def rows_of(losses):
    return [{"loss": float(loss), "grad_norm": 1.0, "top1_accuracy": 0.5} for loss in losses]


def faults(**options):
    return NumericFaults(records_of=lambda step: [step, step + 1], workdir="run", **options)


def noisy(rng, jumps):
    losses = 2.0 * np.exp(-np.arange(300) / 150) + 0.05 * rng.standard_normal(300)
    for step, height in jumps.items():
        losses[step - 1] += height
    return losses


def test_jumps_of_the_loss_are_found_however_the_steps_are_cut():
    rows = rows_of(noisy(np.random.default_rng(0), {40: 5.0, 120: 3.0, 121: 3.0, 250: 0.2}))
    found = []
    for cuts in ([300], [50] * 6, [7] * 42 + [6], [1] * 300):
        state, start, all_found = faults(), 0, []
        for count in cuts:
            _, new, state = state.look(rows[start : start + count], start + count)
            start += count
            all_found += new
            record = json.loads(json.dumps(state.record()))  # as a checkpoint keeps it
            state = faults().resumed(record)
        found.append(all_found)
        assert [one["step"] for one in all_found] == [40, 120, 121]
    assert all(one == found[0] for one in found)
    first = found[0][0]
    assert first["kind"] == "spike" and first["records"] == [40, 41]
    assert first["value"] == rows[39]["loss"] and abs(first["median"] - 1.77) < 0.1


def test_noise_trends_and_beginnings_are_no_jumps():
    rng = np.random.default_rng(1)
    harmless = {
        "falling": noisy(rng, {}),
        "rising slowly": np.linspace(0.5, 3.0, 300) + 0.1 * rng.standard_normal(300),
        "near 0": 1e-3 * rng.exponential(size=300),
        "negative": -1.0 + 0.2 * rng.standard_normal(300),
        "constant": np.ones(300),
        "a beginning": np.array([100.0, *[2.0] * 10, 90.0]),
    }
    for name, losses in harmless.items():
        assert faults().look(rows_of(losses), len(losses))[1] == [], name
    jumps = rows_of(noisy(rng, {100: 50.0}))
    assert faults().look(jumps, 300)[1] and not faults(spike_factor=None).look(jumps, 300)[1]


def test_averages_are_of_the_updates_that_were_made():
    window = [
        {"loss": np.float32(1.0), SKIPPED: np.int32(0)},
        {"loss": np.float32(np.nan), SKIPPED: np.int32(1)},
        {"loss": np.float32(3.0), SKIPPED: np.int32(0)},
    ]
    rows = json.loads(json.dumps(read_rows(window)))
    assert rows[1]["loss"] == "nan" and read_rows(rows) == rows
    averages, found, after = faults(max_skipped_updates=5, skipped=2).look(rows, 12)
    assert averages == {"loss": 2.0, SKIPPED: 3} and after.skipped == 3
    assert found == [{"kind": "skipped", "step": 11, "not_finite": ["loss"], "records": [11, 12]}]


def test_the_command_that_draws_a_batch_can_be_pasted():
    words = shlex.split(draw_command("my runs/it's $HOME", 7))
    assert words[-2:] == ["--workdir=my runs/it's $HOME", "--step=7"]


def test_of_a_long_line_the_jumps_are_kept():
    """Updates that were left out are counted as well; a jump is said here only."""
    rows = rows_of(noisy(np.random.default_rng(0), {40: 5.0, 59: 5.0}))[:60]
    for row in rows[41:57]:
        row["loss"] = "nan"
    _, found, state = faults(max_skipped_updates=20).look(rows, 60)
    assert [one["kind"] for one in found] == ["spike"] * 2 + ["skipped"] * 8
    assert [one["step"] for one in found][:3] == [40, 59, 42] and state.skipped == 16
