"""Job arrays: submitit's stand-in by default, a real Slurm of one machine with -m slurm."""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from harness.errors import ConfigError
from sweeps import start as starting
from sweeps.launchers import slurm
from sweeps.launchers.slurm import Slurm
from sweeps.runs import name_runs
from sweeps.states import read_note, state_of
from tests.slurm_here import ask, queue, slurm_here
from tests.sweeps.fake_job import FakeRunJob, fake
from tests.sweeps.test_launching import finals, is_amid_a_run, seeds, starts, wait_for


@pytest.fixture
def fake_runs(monkeypatch):
    monkeypatch.setattr("sweeps.runs.Run.command", fake)
    monkeypatch.setattr(starting, "check_runs", lambda runs: None)
    monkeypatch.setattr(slurm, "RunJob", FakeRunJob)


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def have_ended(folder, runs):
    return all("exit_code" in read_note(folder, run) for run in runs)


@pytest.mark.linux
def test_a_preempted_task_of_submitit_goes_on(tmp_path, fake_runs, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # jobs find the code from anywhere
    runs = seeds(3, steps="30") + name_runs("r.py", {"fail": "3"}, [{"steps": "10"}])
    starting.start(tmp_path / "sweep", runs, Slurm(cluster="local"))
    assert "4 runs are submitted as job " in capsys.readouterr().out
    wait_for(lambda: (tmp_path / "sweep/seed=1/metrics.jsonl").exists())
    # As Slurm does, which signals all processes of a job, and again.
    child = read_note(tmp_path / "sweep", runs[1])["pid"]
    for pid in (child, parent_of(child), parent_of(child)):
        os.kill(pid, signal.SIGUSR2)
    wait_for(lambda: len(finals(tmp_path / "sweep")) == 3)
    wait_for(lambda: have_ended(tmp_path / "sweep", runs))
    assert starts(tmp_path / "sweep") == {"seed=0": 1, "seed=1": 2, "seed=2": 1, "steps=10": 1}
    assert not list(tmp_path.glob("sweep/*/trained_again"))
    state = state_of(tmp_path / "sweep", runs[3])
    assert (state.status, state.last_line) == ("failed", "it cannot go on")
    starting.start(tmp_path / "sweep", runs, Slurm(cluster="local"), retry_failed=True)
    wait_for(lambda: starts(tmp_path / "sweep")["steps=10"] == 2)
    wait_for(lambda: have_ended(tmp_path / "sweep", runs))


def test_what_cannot_be_submitted(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for options, problem in (
        ({}, "there is no Slurm here: sbatch is not found"),
        ({"cluster": "slrum"}, r"--launch\.cluster='slrum': unknown; allowed: slurm, local"),
        ({"minutes": "0"}, r"--launch\.minutes=0: out of range"),
        ({"cpus": "many"}, r"--launch\.cpus='many': of type str"),
        ({"partiton": "gpu"}, "did you mean 'partition'"),
    ):
        with pytest.raises(ConfigError, match=problem):
            starting.create_launcher("slurm", options)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"pip install -r requirements-sweeps\.txt"):
        Slurm(cluster="local")


# A real Slurm


@pytest.fixture(scope="module")
def real_slurm(tmp_path_factory):
    with slurm_here(tmp_path_factory.mktemp("slurm")):
        yield


def jobs(folder):
    return json.loads((folder / "slurm/jobs.json").read_text())


def let_requeued_ones_start(folder):
    """Slurm waits two minutes before a requeued job starts."""
    for job in jobs(folder).values():
        if queue().get(job) == "PENDING":
            ask("scontrol", "update", f"JobId={job}", "StartTime=now")


@pytest.mark.slurm
def test_an_array_of_four_trainings_one_of_them_requeued(tmp_path, real_slurm, monkeypatch):
    fixed = {"loop.num_epochs": "40", "loop.save_every_epochs": "100"}
    values = [{"seed": str(seed)} for seed in range(4)]
    runs = name_runs("configs/digits_nest.py:debug", fixed, values)
    starting.start(tmp_path, runs, Slurm(cpus=1))
    metrics = tmp_path / "seed=1/metrics.jsonl"
    wait_for(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 3, 300.0)
    # What Slurm does 90 s before the time is over.
    ask("scancel", "--signal=USR2", jobs(tmp_path)["seed=1"])
    wait_for(lambda: queue().get(jobs(tmp_path)["seed=1"]) in ("COMPLETING", "PENDING"))
    state = state_of(tmp_path, runs[1])
    assert state.status == "interrupted" and 0 < state.step < state.total_steps == 80

    def all_done():
        let_requeued_ones_start(tmp_path)
        time.sleep(1.0)
        return len(finals(tmp_path)) == 4

    wait_for(all_done, 600.0)
    wait_for(lambda: not queue())
    assert {state_of(tmp_path, run).status for run in runs} == {"done"}
    attempts = {run.name: read_note(tmp_path, run)["attempts"] for run in runs}
    assert attempts == {"seed=0": 1, "seed=1": 2, "seed=2": 1, "seed=3": 1}
    log = (tmp_path / "seed=1.log").read_text()
    assert "the same command resumes" in log and "resuming at step" in log


@pytest.mark.slurm
def test_what_is_queued_is_not_submitted_again_and_scancel_ends_it(
    tmp_path, real_slurm, fake_runs, capsys
):
    runs = seeds(4, steps="200")
    starting.start(tmp_path, runs, Slurm(cpus=1))
    wait_for(lambda: is_amid_a_run(tmp_path))
    before = jobs(tmp_path)
    assert len(queue()) == 4
    starting.start(tmp_path, runs, Slurm(cpus=1))
    assert jobs(tmp_path) == before and len(queue()) == 4
    out = capsys.readouterr().out
    assert "are under way elsewhere" in out and "are in the queue already" in out
    ask("scancel", before["seed=0"].partition("_")[0])
    wait_for(lambda: not queue())
    statuses = {state_of(tmp_path, run).status for run in runs}
    assert statuses == {"interrupted", "waiting"}
    runs = seeds(4, steps="200")
    starting.start(tmp_path, runs, Slurm(cpus=1, parallel=1))
    assert jobs(tmp_path).keys() == before.keys() and len(queue()) == 4
    wait_for(lambda: "RUNNING" in queue().values())
    assert list(queue().values()).count("RUNNING") == 1
    ask("scancel", "--me")


@pytest.mark.slurm
def test_what_slurm_refuses_is_one_clear_error(tmp_path, real_slurm, fake_runs):
    with pytest.raises(ConfigError, match=r"--launch=slurm: .*[Ii]nvalid partition") as error:
        starting.start(tmp_path, seeds(2), Slurm(partition="gpu"))
    assert "\n" not in str(error.value)
