"""Where metrics go besides the workdir: nothing twice, nothing lost, and no harm to the run."""

import os
import signal
import sys
import threading
import time

import numpy as np
import pytest

import train
from harness.errors import ConfigError, Interrupted
from tasks.protocol import Evaluation
from training import metric_logs, reporting, services
from training.reporting import Reporter
from workdirs.results import read_metrics

pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture
def fake(monkeypatch):
    """A service in memory, as `--log_to=fake`; the class holds its runs: id -> what they got."""

    class Fake:
        runs, endings, where, fails_at, server = {}, [], "in memory", None, "here"
        buffers, found = False, {}

        def __init__(self, run_id, workdir, config):
            self.id = run_id or f"run{len(self.runs)}"
            self.runs.setdefault(self.id, {"config": config, "scalars": [], "images": []})

        @staticmethod
        def check():
            pass

        @classmethod
        def place(cls, workdir):
            return cls.server

        def scalars(self, kind, step, metrics):
            if (kind, step) == self.fails_at:
                raise OSError("no\nnetwork")
            self.runs[self.id]["scalars"].append((kind, step, metrics))

        def image(self, name, step, picture):
            self.runs[self.id]["images"].append((name, step, picture.shape))

        def finish(self, metrics, error):
            self.endings.append((metrics, type(error)))

    monkeypatch.setitem(services.SERVICES, "fake", Fake)
    return Fake


def interrupt_at(monkeypatch, step):
    """Sends SIGTERM to this process when the training metrics of `step` are reported."""
    report = Reporter.train

    def train_and_interrupt(self, at, *args):
        report(self, at, *args)
        if at == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Reporter, "train", train_and_interrupt)


def lines(workdir):
    """Returns metrics.jsonl as a service gets it."""
    records = read_metrics(workdir).sound
    ours = ("kind", "step", "protocol")
    return [(r["kind"], r["step"], {k: v for k, v in r.items() if k not in ours}) for r in records]


def test_an_interrupted_run_goes_on_in_the_same_run(small_config, tmp_path, monkeypatch, fake):
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt_at(patch, 9)
        train.train_and_evaluate(small_config, tmp_path, log_to=["fake"])
    metrics = train.train_and_evaluate(small_config, tmp_path, log_to=["fake"])
    assert list(fake.runs) == ["run0"]
    assert fake.runs["run0"]["scalars"] == lines(tmp_path)
    assert [step for kind, step, _ in lines(tmp_path) if kind == "eval"] == [5, 10, 15, 20]
    assert fake.runs["run0"]["config"]["optimizer.base_lr"] == 1e-2
    assert fake.endings == [(None, Interrupted), (metrics, type(None))]


def test_steps_computed_again_after_a_crash_are_not_sent_again(
    small_config, tmp_path, monkeypatch, fake
):
    """Of step 18 nothing is saved: the checkpoint is that of step 15, the best."""

    class Crash(BaseException):
        pass

    def crash_at_18(self, step, *what):
        report(self, step, *what)
        if step == 18:
            raise Crash

    report = Reporter.train
    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(Reporter, "train", crash_at_18)
        train.train_and_evaluate(small_config, tmp_path, log_to=["fake"])
    assert fake.runs["run0"]["scalars"][-1][:2] == ("train", 18)
    train.train_and_evaluate(small_config, tmp_path, log_to=["fake"])
    sent = [what[:2] for what in fake.runs["run0"]["scalars"]]
    assert sent == [what[:2] for what in lines(tmp_path)]
    assert fake.endings[0] == (None, Crash)


def test_a_service_that_fails_ends_no_run_and_catches_up(small_config, tmp_path, capsys, fake):
    """The run is stopped in between, as only a new attempt catches up."""
    fake.fails_at = ("eval", 5)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        interrupt_at(patch, 9)
        train.train_and_evaluate(small_config, tmp_path, log_to=["fake"])
    warning = "warning: logging to fake has ended, training goes on: OSError: no network"
    assert capsys.readouterr().out.count(warning) == 1
    assert [what[:2] for what in fake.runs["run0"]["scalars"]] == _train(1, 3)
    assert fake.endings == []
    assert [what[:2] for what in lines(tmp_path)] == [*_train(1, 3), ("eval", 5), *_train(6, 9)]
    fake.fails_at = None
    train.train_and_evaluate(small_config, tmp_path, log_to=["fake"])
    assert fake.runs["run0"]["scalars"] == lines(tmp_path)


def _train(*steps):
    return [("train", step) for step in steps]


def test_a_service_new_to_a_run_gets_what_went_before(make_reporter, tmp_path, fake):
    with make_reporter(log_to=()) as report:
        report.train(1, {"loss": 1.0})
        report.train(2, {"loss": 0.5})
    with make_reporter(first_step=2, log_to=["fake"]) as report:
        report.train(3, {"loss": 0.25})
    assert [(step, m["loss"]) for _, step, m in fake.runs["run0"]["scalars"]] == [
        *((1, 1.0), (2, 0.5), (3, 0.25))
    ]
    fake.server = "another"  # which knows nothing of the run yet
    with make_reporter(first_step=3, log_to=["fake"]) as report:
        report.train(4, {"loss": 0.125})
    assert [step for _, step, _ in fake.runs["run1"]["scalars"]] == [1, 2, 3, 4]
    assert [step for _, step, _ in fake.runs["run0"]["scalars"]] == [1, 2, 3]


@pytest.mark.parametrize("has", [{}, {"train": 2}])
def test_what_a_service_held_back_in_a_crash_is_sent_again(tmp_path, fake, monkeypatch, has):
    """Unless it says that it has it: only a run that was closed surely left all of it there."""
    monkeypatch.setattr(fake, "buffers", True)

    def service():
        return metric_logs.Service("fake", tmp_path, {}, records=records, say=print)

    records = [{"kind": "train", "step": step, "loss": 1.0} for step in (1, 2, 3)]
    service()  # crashes
    fake.runs["run0"]["scalars"].clear()
    monkeypatch.setattr(fake, "found", has)
    service().finish(None, None)
    sent = [step for _, step, _ in fake.runs["run0"]["scalars"]]
    assert sent == ([3] if has else [1, 2, 3])
    service()
    assert len(fake.runs["run0"]["scalars"]) == len(sent)


def test_pictures_are_sent_once(make_reporter, fake):
    picture = np.zeros((4, 6, 3), np.uint8)
    for first_step in (0, 0, 1):
        with make_reporter(first_step=first_step, log_to=["fake"]) as report:
            report.evaluation(first_step + 1, Evaluation({"loss": 1.0}, {"samples": picture}), "t")
    assert fake.runs["run0"]["images"] == [("samples", 1, (4, 6, 3)), ("samples", 2, (4, 6, 3))]


def test_a_service_that_cannot_be_opened(make_reporter, capsys, fake, monkeypatch):
    def refuse(self, *_):
        raise ConnectionError

    monkeypatch.setattr(fake, "__init__", refuse)
    with make_reporter(log_to=["fake"]) as report:
        report.train(1, {"loss": 1.0})
    warning = "logging to fake has ended, training goes on: ConnectionError: ConnectionError"
    assert capsys.readouterr().out.count(warning) == 1
    assert len(report.records) == 1


@pytest.mark.parametrize("error", [None, Interrupted("saved")])
def test_a_service_that_never_answers_is_left_behind(
    make_reporter, capsys, fake, monkeypatch, error
):
    answer = threading.Event()
    monkeypatch.setattr(fake, "scalars", lambda *_: answer.wait())
    monkeypatch.setattr(metric_logs, "INTERRUPTED_SECONDS" if error else "FINISH_SECONDS", 1.5)
    report = make_reporter(log_to=["fake"])
    started = time.monotonic()
    report.train(1, {"loss": 1.0})
    assert time.monotonic() - started < 1.0  # training does not wait
    report.__exit__(type(error), error, None)
    assert 1.4 < time.monotonic() - started < 10.0
    out = capsys.readouterr().out
    assert "fake: sending the rest, for 2 s at most" in out
    assert "warning: fake has not taken everything; not waiting longer" in out
    answer.set()


def test_in_a_hurry_nobody_waits(make_reporter, fake, monkeypatch):
    answer = threading.Event()
    monkeypatch.setattr(fake, "scalars", lambda *_: answer.wait())
    report = make_reporter(log_to=["fake"])
    started = time.monotonic()
    report.train(1, {"loss": 1.0})
    report.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert time.monotonic() - started < 1.0
    answer.set()


def test_only_the_first_process_logs(make_reporter, fake, monkeypatch):
    monkeypatch.setattr(reporting.jax, "process_index", lambda: 1)
    with make_reporter(log_to=["fake"]) as report:
        report.train(1, {"loss": 1.0})
    assert not fake.runs


def test_wrong_names_and_missing_packages_are_found_first(tmp_path, run_script, monkeypatch):
    line = ["train.py", "--config=configs/digits_nest.py", f"--workdir={tmp_path / 'run'}"]
    code, _, err = run_script(*line, "--log_to=wandb,mlfow")
    expected = "--log_to=mlfow: unknown; did you mean 'mlflow'? allowed: wandb, mlflow"
    assert (code, err.strip()) == (2, f"train.py: {expected}")
    for name in services.SERVICES:
        monkeypatch.setitem(sys.modules, name, None)  # as if not installed
        with pytest.raises(ConfigError) as error:
            metric_logs.check_services([name])
        text = str(error.value)
        assert text.startswith(f"--log_to={name}: ") and "\n" not in text
        assert text.endswith("pip install -r requirements-loggers.txt")
    assert not (tmp_path / "run").exists()
