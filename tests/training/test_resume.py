"""Interrupted equals uninterrupted, bit for bit: state, average, optimizer and every metric."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import train
from configs import common
from harness.errors import ConfigError, Interrupted, NonFiniteError
from saving.checkpoints import Checkpoints
from saving.series import Series
from training import experiment, running
from training.curves import TIMINGS
from training.trained_run import check_same_config
from workdirs.claims import claimed
from workdirs.results import read_metrics

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("compiled_once")


def final_record(config, workdir):
    """Returns the states of the last and the best checkpoint and all logged metrics."""
    run = experiment.build(config)
    with Checkpoints(workdir=workdir, read_only=True, **config.checkpoint.to_dict()) as saved:
        step, state, _ = saved.restore(run.shapes)
        best_step, best_state, _ = saved.restore(run.shapes, "best")
    records = read_metrics(workdir).sound
    for record in records:
        for name in TIMINGS:
            record.pop(name, None)
    return step, best_step, jax.device_get((state, best_state)), records


def assert_equal_runs(one, other):
    assert one[:2] == other[:2]
    assert one[3] == other[3]
    chex.assert_trees_all_equal(one[2], other[2])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Trains once for all tests; a dict because the config fixture lives shorter."""
    cache = {}

    def get(config):
        if not cache:
            workdir = tmp_path_factory.mktemp("uninterrupted")
            train.train_and_evaluate(config, workdir)
            cache["record"] = final_record(config, workdir)
        return cache["record"]

    return get


def kill_when(monkeypatch, where, number):
    """Sends SIGTERM to this process at the `number`-th time the run passes `where`."""
    count = 0

    def strike():
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGTERM)

    if where == "step":
        build = experiment.build

        def build_striking(config, **options):
            run = build(config, **options)
            return dataclasses.replace(
                run, train_step=lambda *args: (strike(), run.train_step(*args))[1]
            )

        monkeypatch.setattr(experiment, "build", build_striking)
    elif where == "evaluation":
        original = running.evaluate

        def evaluate(step, task, state, batches, **kwargs):
            def striking():
                for batch in batches:
                    strike()
                    yield batch

            return original(step, task, state, striking(), **kwargs)

        monkeypatch.setattr(running, "evaluate", evaluate)
    elif where == "save":
        original_write = Series.write

        def write(self, *args):
            original_write(self, *args)  # returns while the files are being written
            strike()

        monkeypatch.setattr(Series, "write", write)


@pytest.mark.parametrize(
    ("where", "number"),
    # 20 steps; evaluation (2 batches) at 5, 10, 15, 20; saves at 7, 14, 20 and of the best.
    [
        *[("step", 11), ("evaluation", 3), ("save", 2)],
        *(
            pytest.param(*place, marks=pytest.mark.slow)
            for place in (("step", 1), ("step", 20), ("evaluation", 8))
        ),
    ],
)
def test_interrupted_equals_uninterrupted(
    small_config, uninterrupted, tmp_path, monkeypatch, where, number
):
    expected = uninterrupted(small_config)
    with monkeypatch.context() as patch:
        kill_when(patch, where, number)
        with pytest.raises(Interrupted, match="the same command resumes"):
            train.train_and_evaluate(small_config, tmp_path)
    assert not (tmp_path / "DONE").exists()
    metrics = train.train_and_evaluate(small_config, tmp_path)
    assert_equal_runs(final_record(small_config, tmp_path), expected)
    assert json.loads((tmp_path / "DONE").read_text()) == metrics

    # The best is that of the evaluations in metrics.jsonl, of equals the first.
    records = read_metrics(tmp_path).sound
    best = max((r["top1_accuracy"], -r["step"]) for r in records if r["kind"] == "eval")
    assert (metrics["best_top1_accuracy"], metrics["best_epoch"]) == (best[0], -best[1] / 5)


@pytest.mark.slow
def test_interrupted_again_and_again(small_config, uninterrupted, tmp_path, monkeypatch):
    expected = uninterrupted(small_config)
    for _ in range(3):
        with monkeypatch.context() as patch:
            kill_when(patch, "step", 4)
            with pytest.raises(Interrupted):
                train.train_and_evaluate(small_config, tmp_path)
    train.train_and_evaluate(small_config, tmp_path)
    assert_equal_runs(final_record(small_config, tmp_path), expected)


def test_killed_without_warning(small_config, uninterrupted, tmp_path, monkeypatch):
    """What was logged after the last checkpoint is computed and logged again, once."""
    expected = uninterrupted(small_config)

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        kill_when(patch, "step", 13)  # the checkpoint is of step 7
        patch.setattr("training.interrupts.Interrupts._handle", die)
        with pytest.raises(KeyboardInterrupt):
            train.train_and_evaluate(small_config, tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # and a line was cut off
    train.train_and_evaluate(small_config, tmp_path)
    assert_equal_runs(final_record(small_config, tmp_path), expected)


def test_damaged_newest_checkpoint(small_config, uninterrupted, tmp_path, monkeypatch):
    expected = uninterrupted(small_config)
    with monkeypatch.context() as patch:
        kill_when(patch, "step", 12)
        with pytest.raises(Interrupted):
            train.train_and_evaluate(small_config, tmp_path)
    latest = tmp_path / "checkpoints" / "latest"
    assert sorted(int(p.name) for p in latest.iterdir()) == [7, 12]
    for file in (latest / "12" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    train.train_and_evaluate(small_config, tmp_path)
    assert_equal_runs(final_record(small_config, tmp_path), expected)


@pytest.mark.slow
def test_damaged_best_checkpoint_is_replaced(small_config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        kill_when(patch, "step", 12)
        with pytest.raises(Interrupted):
            train.train_and_evaluate(small_config, tmp_path)
    for file in (tmp_path / "checkpoints" / "best").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    train.train_and_evaluate(small_config, tmp_path)
    _, best_step, _, _ = final_record(small_config, tmp_path)
    assert best_step >= 15


@pytest.mark.slow
def test_random_step(small_config, uninterrupted, tmp_path, monkeypatch):
    expected = uninterrupted(small_config)
    step = int(np.random.default_rng().integers(1, 21))
    print(f"interrupted in step {step}")
    with monkeypatch.context() as patch:
        kill_when(patch, "step", step)
        with pytest.raises(Interrupted):
            train.train_and_evaluate(small_config, tmp_path)
    train.train_and_evaluate(small_config, tmp_path)
    assert_equal_runs(final_record(small_config, tmp_path), expected)


def test_signal_while_building(small_config, uninterrupted, tmp_path, monkeypatch):
    expected = uninterrupted(small_config)
    original = experiment.build

    def build(config, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(config, **options)

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "build", build)
        with pytest.raises(Interrupted, match="saved step 0"):
            train.train_and_evaluate(small_config, tmp_path)
    train.train_and_evaluate(small_config, tmp_path)
    assert_equal_runs(final_record(small_config, tmp_path), expected)


def test_failed_background_save(small_config, uninterrupted, tmp_path, monkeypatch):
    """The disk takes a checkpoint away while it is written: the run ends, a rerun is exact."""
    expected = uninterrupted(small_config)
    original_write = Series.write

    def write(self, step, *args):
        original_write(self, step, *args)
        if step == 14:
            for folder in (tmp_path / "checkpoints" / "latest").glob("14*"):
                shutil.rmtree(folder, ignore_errors=True)

    with monkeypatch.context() as patch:
        patch.setattr(Series, "write", write)
        with contextlib.suppress(Exception):
            train.train_and_evaluate(small_config, tmp_path)
    (tmp_path / "DONE").unlink(missing_ok=True)
    train.train_and_evaluate(small_config, tmp_path)
    assert_equal_runs(final_record(small_config, tmp_path), expected)


def test_one_run_a_workdir(small_config, tmp_path):
    plain = experiment.check_config(small_config)
    with claimed(tmp_path, plain, None):
        with pytest.raises(ConfigError, match="another process is training in"):
            train.train_and_evaluate(small_config, tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {
            *(".lock", ".lock.lease", "checksums", "config.json")
        }


def test_new_defaults_do_not_lock_old_workdirs_out(small_config, tmp_path):
    plain = experiment.check_config(small_config)
    del plain["optimizer"]["b1"], plain["task"]["ema_warmup"]
    with claimed(tmp_path, plain, None):
        pass
    small_config.mesh.data = 2
    small_config.data.num_threads = 3
    check_same_config(tmp_path, small_config)
    small_config.optimizer.b1 = 0.8
    with pytest.raises(ConfigError, match="optimizer.b1: 0.9 there, 0.8 now$"):
        check_same_config(tmp_path, small_config)


def test_only_damaged_checkpoints_are_an_error(small_config, tmp_path, monkeypatch):
    kill_when(monkeypatch, "step", 3)
    with pytest.raises(Interrupted):
        train.train_and_evaluate(small_config, tmp_path)
    (tmp_path / "checkpoints" / "latest" / "3" / "state" / "_METADATA").write_bytes(b"")
    with pytest.raises(ConfigError, match="no checkpoint in .*latest is readable"):
        train.train_and_evaluate(small_config, tmp_path)


def test_what_a_task_refuses_is_not_saved(tmp_path):
    def kept():
        return [int(path.name) for path in (tmp_path / "checkpoints").glob("*/*")]

    def state(is_bad=False):
        return {"bad": jnp.bool_(is_bad), "weights": jnp.ones(3)}

    with Checkpoints(workdir=tmp_path, is_good=lambda state: ~state["bad"]) as saved:
        assert saved.save(1, state(is_bad=True), {}).endswith("saved is nothing")
        assert saved.save(2, state(), {}) == "saved step 2"
        assert saved.save(3, state(is_bad=True), {}, wait=True).endswith("saved is step 2")
        saved.save_best(3, state(is_bad=True), {}, {"top1_accuracy": 1.0})
        saved.wait()
        assert kept() == [2]
        saved.save(4, state(is_bad=True), {}, is_last=True, wait=True)  # the run's result
        assert sorted(kept()) == [2, 4]
        with pytest.raises(NonFiniteError, match="step 5: the state has non-finite values"):
            saved.save(5, {**state(), "weights": jnp.array([1.0, jnp.nan, 1.0])}, {}, is_last=True)


@pytest.mark.parametrize(
    ("metric", "mode", "best"),
    [("frechet_distance", None, 2), ("precision", None, 1), ("precision", "min", 2)],
)
def test_which_checkpoint_is_best(tmp_path, metric, mode, best):
    """As a GAN's config leaves it, the metric's name decides."""
    assert common.gan_config().checkpoint.best_mode is None
    with Checkpoints(workdir=tmp_path, best_metric=metric, best_mode=mode) as saved:
        for step, value in ((1, 3.0), (2, 1.0), (3, 2.0)):
            saved.save_best(step, {"weights": jnp.ones(3)}, {}, {metric: value})
    (path,) = (tmp_path / "checkpoints" / "best").glob("[0-9]*")
    assert path.name == str(best)


def test_sigterm_to_a_real_process(tmp_path):
    """Exit 75 after a signal, 0 after the same command again, 0 and nothing done after that."""
    command = [
        sys.executable,
        "train.py",
        "--config=configs/digits_nest.py:debug",
        f"--workdir={tmp_path}",
        "--config.loop.num_epochs=100.0",
        "--config.loop.evaluate_every_epochs=50.0",
        "--config.loop.save_every_epochs=50.0",
        "--config.model.depths=(1,1,1)",
        "--config.model.dims=(16,16,16)",
        "--config.data.batch_size=32",
        "--config.data.train_split=train[:64]",
        "--config.data.eval_split=test[:101]",
        "--config.mesh.data=1",
    ]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 75, stderr
    assert "saved step" in stderr
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert again.returncode == 0, again.stderr
    assert "resuming at step" in again.stdout
    once_more = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert once_more.returncode == 0
    assert "is finished" in once_more.stdout
