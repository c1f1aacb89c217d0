"""The loop of train.py: what it asks of the devices between two steps."""

import contextlib
import dataclasses
import threading

import jax
import numpy as np
import pytest

import train
from harness.errors import ConfigError
from parallel import watchdog
from training import beginning, experiment
from workdirs.results import read_metrics


@pytest.fixture
def guarded(monkeypatch):
    """Makes every transfer between host and devices that a step does not ask for an error."""
    build = experiment.build

    def build_guarded(config, **options):
        run = build(config, **options)

        def guard(step):
            def call(*args):
                with jax.transfer_guard("disallow"):
                    return step(*args)

            return call

        return dataclasses.replace(
            run, train_step=guard(run.train_step), eval_step=guard(run.eval_step)
        )

    monkeypatch.setattr(experiment, "build", build_guarded)


def test_steps_transfer_nothing(guarded, small_config, tmp_path):
    small_config.mesh.data = 2
    small_config.loop.num_epochs = 2.0
    train.train_and_evaluate(small_config, tmp_path)
    records = read_metrics(tmp_path).sound
    assert [r["step"] for r in records if r["kind"] == "eval"] == [5, 10]


def test_the_guard_sees_a_transfer(guarded, small_config):
    run = experiment.build(small_config)
    batch = jax.tree.map(np.asarray, next(run.data.train_batches()))
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        run.train_step(run.init(), batch, run.key, run.hyperparameters)


def test_profile_steps(small_config, tmp_path):
    with pytest.raises(ConfigError, match="--profile_steps=19:21: must be .* <= 20"):
        train.train_and_evaluate(small_config, tmp_path / "run", profile_steps="19:21")
    assert not (tmp_path / "run").exists()
    small_config.loop.num_epochs = 2.0
    metrics = train.train_and_evaluate(small_config, tmp_path / "run", profile_steps="2:3")
    assert list((tmp_path / "run/profile").glob("plugins/profile/*/perfetto_trace.json.gz"))
    assert metrics == train.train_and_evaluate(small_config, tmp_path / "other")


@pytest.mark.parametrize("where", ["the start", "the end"])
def test_the_watchdog_sees_what_hangs_before_the_first_step_and_after_the_last(
    where, small_config, tmp_path, monkeypatch
):
    """As where another process, which was stopped, is waited for."""
    ended, over = [], threading.Event()

    def end(code, line):
        ended.append(code)
        over.set()

    def hangs(*_, **__):
        over.wait(20)
        raise ConfigError("the test is over")

    @contextlib.contextmanager
    def closes_badly(*_, **__):
        try:
            yield
        finally:
            ended.clear()  # opening the data may have taken too long, too
            over.clear()
            hangs()

    monkeypatch.setattr(watchdog, "end_now", end)
    if where == "the start":
        monkeypatch.setattr(experiment, "build", hangs)
    else:
        monkeypatch.setattr(beginning, "claimed", closes_badly)
        monkeypatch.setattr(beginning, "Checkpoints", hangs_not)
    with pytest.raises(ConfigError, match="over"):
        train.train_and_evaluate(small_config, tmp_path, watchdog_seconds=1.0)
    assert set(ended) == {70}


def hangs_not(**_):
    raise ConfigError("it ends here")
