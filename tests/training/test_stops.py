"""Every signal at every moment of a run, gone terminals, and closed streams of real runs."""

import contextlib
import dataclasses
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import pytest

import train
from harness.errors import Interrupted
from process.signals import STOPPING
from saving.checkpoints import Checkpoints
from saving.series import Series
from tasks.classification import Classification
from training import experiment, running
from training.curves import TIMINGS
from workdirs.results import read_metrics

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.faults

TINY = [
    *("--config=configs/digits_nest.py:debug", "--config.loop.num_epochs=60.0"),
    *("--config.loop.evaluate_every_epochs=20.0", "--config.loop.save_every_epochs=20.0"),
    *("--config.model.depths=(1,1,1)", "--config.model.dims=(16,16,16)", "--config.mesh.data=1"),
    *("--config.data.batch_size=32", "--config.data.train_split=train[:64]"),
    *("--config.data.eval_split=test[:101]", "--config.data.eval_batch_size=64"),
]
MOMENTS = ("start", "compilation", "step", "evaluation", "save")


def once(action, at):
    """Returns a function whose `at`-th call acts."""
    calls = 0

    def count():
        nonlocal calls
        calls += 1
        if calls == at:
            action()

    return count


def before(strike, function):
    return lambda *args, **options: (strike(), function(*args, **options))[1]


def strike_at(monkeypatch, moment, action):
    """Acts at a moment of a run of 20 steps, saved at 7 and 14, evaluated at every fifth."""
    build, write, evaluate = experiment.build, Series.write, running.evaluate
    if moment == "start":
        monkeypatch.setattr(experiment, "build", before(once(action, 1), build))
    elif moment == "compilation":
        monkeypatch.setattr(
            Classification, "train_step", before(once(action, 1), Classification.train_step)
        )
    elif moment == "step":

        def striking(config, **options):
            run = build(config, **options)
            return dataclasses.replace(run, train_step=before(once(action, 9), run.train_step))

        monkeypatch.setattr(experiment, "build", striking)
    elif moment == "evaluation":

        def watched(step, task, state, batches, **options):
            return evaluate(step, task, state, struck(batches), **options)

        strike = once(action, 4)

        def struck(batches):
            for batch in batches:
                strike()
                yield batch

        monkeypatch.setattr(running, "evaluate", watched)
    else:
        strike = once(action, 2)
        monkeypatch.setattr(
            Series, "write", lambda *args: (write(*args), strike())[0]
        )  # returns while the files are being written


def result(config, workdir):
    run = experiment.build(config)
    with Checkpoints(workdir=workdir, read_only=True) as saved:
        step, state, _ = saved.restore(run.shapes)
    return step, jax.device_get(state), records(workdir)


def records(workdir):
    lines = read_metrics(workdir).sound
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in lines]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    found = {}

    def get(config):
        if not found:
            workdir = tmp_path_factory.mktemp("whole")
            train.train_and_evaluate(config, workdir)
            found["result"] = result(config, workdir)
        return found["result"]

    return get


@pytest.mark.usefixtures("compiled_once")
@pytest.mark.parametrize("number", STOPPING, ids=lambda number: number.name)
def test_each_signal_saves_at_each_moment(small_config, tmp_path, monkeypatch, expected, number):
    whole = expected(small_config)
    for moment in (moment for moment in MOMENTS if moment != "compilation"):
        with monkeypatch.context() as patch:
            strike_at(patch, moment, lambda: os.kill(os.getpid(), number))
            with pytest.raises(Interrupted, match="saved step"):
                train.train_and_evaluate(small_config, tmp_path / moment)
        train.train_and_evaluate(small_config, tmp_path / moment)
        again = result(small_config, tmp_path / moment)
        assert again[2] == whole[2], moment
        chex.assert_trees_all_equal(again[:2], whole[:2])


# Strikes twice, a second apart, and goes on as if nothing had happened.
PROGRAM = """
import os, signal, sys, time
sys.path.insert(0, {root!r})
sys.argv = ["train.py", *{arguments!r}]
import pytest
from tests.training.test_stops import strike_at
import train
from harness import commandline

def strike():
    for _ in range(2):
        os.kill(os.getpid(), signal.{signal})
        time.sleep(1.0)
    time.sleep(600)

if __name__ == "__main__":
    strike_at(pytest.MonkeyPatch(), {moment!r}, strike)
    commandline.run(train.define_flags, train.main)
"""


@pytest.mark.parametrize(
    ("moment", "number"), [*((moment, "SIGINT") for moment in MOMENTS), ("save", "SIGTERM")]
)
def test_a_second_one_ends_at_once(tmp_path, one_device, moment, number):
    """Whatever runs: here it would sleep for ten minutes."""
    text = PROGRAM.format(
        root=str(ROOT),
        arguments=[*TINY, f"--workdir={tmp_path / 'run'}"],
        moment=moment,
        signal=number,
    )
    command = [sys.executable, "-c", text]
    process = subprocess.run(
        command, cwd=ROOT, env=one_device, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 128 + signal.Signals[number], process.stderr
    assert "Traceback" not in process.stderr and "Exception" not in process.stderr
    said = process.stderr.strip().splitlines()
    assert said[0].startswith(f"{number}: finishing the step") and said[-1].startswith("train.py: ")


def wait_for_metrics(workdir, deadline=120):
    until = time.monotonic() + deadline
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            if (workdir / "metrics.jsonl").read_text():
                return
        time.sleep(0.1)
    raise AssertionError("nothing is logged")


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, one_device):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    command = [sys.executable, "train.py", *TINY, f"--workdir={workdir}"]
    subprocess.run(command, cwd=ROOT, env=one_device, check=True, capture_output=True)
    return records(workdir)


def test_a_closed_terminal_saves(tmp_path, one_device, whole_run):
    """The kernel signals the whole group, workers included, and the terminal takes nothing more."""
    command = [sys.executable, "train.py", *TINY, f"--workdir={tmp_path}"]
    command += ["--config.data.num_workers=2"]
    pid, terminal = pty.fork()  # the child leads a session on a terminal of its own
    if pid == 0:
        os.chdir(ROOT)
        os.execve(sys.executable, command, one_device)
    os.set_blocking(terminal, False)
    until = time.monotonic() + 120
    while not (tmp_path / "metrics.jsonl").exists() or not (
        (tmp_path / "metrics.jsonl").read_text()
    ):
        with contextlib.suppress(OSError):
            os.read(terminal, 2**16)
        assert time.monotonic() < until
        time.sleep(0.05)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 75
    subprocess.run(command, cwd=ROOT, env=one_device, check=True, capture_output=True)
    assert records(tmp_path) == whole_run


def test_ctrl_c_reaches_the_workers_too(tmp_path, one_device, whole_run):
    command = [sys.executable, "train.py", *TINY, f"--workdir={tmp_path}"]
    command += ["--config.data.num_workers=2"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=one_device, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for_metrics(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 75, stderr
    assert "saved step" in stderr and "Traceback" not in stderr
    subprocess.run(command, cwd=ROOT, env=one_device, check=True, capture_output=True)
    assert records(tmp_path) == whole_run


@pytest.mark.parametrize(
    "streams", ["| head -1", ">&- 2>&-", "2>&1 > /dev/full | head -1", "> /dev/full 2> /dev/full"]
)
def test_streams_of_a_run(tmp_path, one_device, whole_run, streams):
    line = " ".join([sys.executable, "train.py", *TINY, f"--workdir={tmp_path}"])
    line = line.replace("(", "\\(").replace(")", "\\)").replace("[", "\\[").replace("]", "\\]")
    result = subprocess.run(
        ["bash", "-c", f"{line} {streams}; exit ${{PIPESTATUS[0]}}"], cwd=ROOT, env=one_device
    )
    assert result.returncode == 0 and (tmp_path / "DONE").exists()
    assert records(tmp_path) == whole_run
