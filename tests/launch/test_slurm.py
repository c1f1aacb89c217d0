"""launch/slurm.sh on a real Slurm of this machine: two tasks train, are interrupted, go on."""

import json
import os
import sys
import time

import pytest

from harness.errors import Interrupted
from tests.launch.conftest import ROOT
from tests.slurm_here import ask, queue, slurm_here
from training.curves import TIMINGS
from workdirs.results import read_metrics

pytestmark = pytest.mark.slurm

EPOCHS = 15  # of two steps
FLAGS = [
    "--config=configs/digits_nest.py:debug",
    f"--config.loop.num_epochs={EPOCHS}",
    "--config.loop.save_every_epochs=100",  # what is left of an interrupted run is what it saved
    "--config.data.num_workers=0",
]
# No GPUs here: two tasks of a core each.
OPTIONS = ["--ntasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1"]


def submit(folder, *options, flags=FLAGS):
    """Returns the number of the job that trains in a folder."""
    environment = {"PYTHON": sys.executable, "JAX_PLATFORMS": "cpu"}
    # One device per process, so that the mesh is two processes.
    environment["XLA_FLAGS"] = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    exported = ",".join(["ALL", *environment])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for name, value in environment.items():
            patch.setenv(name, value)
        log = f"--output={folder}.log"
        script = [f"--export={exported}", log, *options, "launch/slurm.sh"]
        job = ask("sbatch", "--parsable", *OPTIONS, *script, *flags, f"--workdir={folder}")
    assert job.strip().isdigit(), job
    return job.strip()


def log_of(folder):
    path = folder.with_name(f"{folder.name}.log")
    return path.read_text() if path.exists() else ""


def wait_for(condition, folder, seconds=600.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log_of(folder)[-3000:]
        time.sleep(0.2)


def records(folder):
    return read_metrics(folder).sound if (folder / "metrics.jsonl").exists() else []


def results(folder):
    """Returns what was computed at each step, without speeds."""
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in records(folder)]


def finish(job, folder):
    """Waits for DONE; Slurm would wait two minutes before a requeued job starts."""

    def is_done():
        state = queue().get(job)
        if state == "PENDING":
            time.sleep(3.0)  # a node starts no job in the second in which it has ended it
            ask("scontrol", "update", f"JobId={job}", "StartTime=now")
        assert state or (folder / "DONE").exists(), log_of(folder)[-3000:]
        return not state

    wait_for(is_done, folder)


@pytest.fixture(scope="module")
def real_slurm(tmp_path_factory):
    with slurm_here(tmp_path_factory.mktemp("slurm")):
        yield


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, real_slurm):
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    finish(submit(folder), folder)
    assert "2 process(es)" in log_of(folder)
    assert json.loads((folder / "DONE").read_text())
    return folder


def check_same(folder, uninterrupted):
    assert json.loads((folder / "DONE").read_text()) == json.loads(
        (uninterrupted / "DONE").read_text()
    )
    assert results(folder) == results(uninterrupted)
    assert "resuming at step" in log_of(folder)


@pytest.mark.parametrize("signal", ["TERM", "USR1"])
def test_a_signal_requeues_the_job_and_it_ends_as_if_there_had_been_none(
    signal, tmp_path, uninterrupted
):
    folder = tmp_path / "my run"
    job = submit(folder)
    wait_for(lambda: len(records(folder)) > 1, folder)
    ask("scancel", f"--signal={signal}", job)
    wait_for(lambda: queue().get(job) in ("COMPLETING", "PENDING"), folder, 120.0)
    assert f"ended with {Interrupted.exit_code}; restart 1" in log_of(folder)
    assert not (folder / "DONE").exists()
    finish(job, folder)
    check_same(folder, uninterrupted)


def test_the_end_of_the_time_requeues_the_job(tmp_path, real_slurm):
    """Slurm counts in minutes, and sends the signal of --signal up to one early."""
    folder = tmp_path / "run"
    # Far more than two minutes have time for. That it then goes on, the signals' test shows.
    long = [*FLAGS, "--config.loop.num_epochs=100000"]
    job = submit(folder, "--time=2", "--signal=USR1@60", flags=long)
    wait_for(lambda: "; restart 1" in log_of(folder), folder, 240.0)
    assert f"ended with {Interrupted.exit_code}; restart 1" in log_of(folder)
    ask("scancel", job)
    wait_for(lambda: job not in queue(), folder, 120.0)


def test_scancel_ends_the_job_for_good(tmp_path, real_slurm):
    folder = tmp_path / "run"
    job = submit(folder)
    wait_for(lambda: len(records(folder)) > 1, folder)
    ask("scancel", job)
    wait_for(lambda: job not in queue(), folder, 120.0)
    assert "; restart " not in log_of(folder) and not (folder / "DONE").exists()


def test_a_wrong_config_is_not_requeued(tmp_path, real_slurm):
    folder = tmp_path / "run"
    job = submit(folder, flags=[*FLAGS, "--config.loop.num_epoch=3"])
    wait_for(lambda: job not in queue(), folder)
    assert "did you mean 'num_epochs'" in log_of(folder)
    assert "; restart " not in log_of(folder) and not folder.exists()
