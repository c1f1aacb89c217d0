"""Runs as the tasks of a Slurm job array, through submitit."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness.arguments import problem
from harness.errors import ConfigError, Interrupted, one_line
from harness.files import write_text
from sweeps.processes import run_to_end
from sweeps.runs import ROOT, Run
from sweeps.states import is_running
from workdirs.records import read_json

_JOBS = "slurm/jobs.json"  # in a sweep's folder: name of a run -> its job


class Slurm:
    """Submits the runs as one job array and returns.

    A run that is preempted, or whose time is over, saves, exits with 75 and is requeued until it is
    done; one that is ended by scancel saves, too. Runs whose jobs are still in the queue are not
    submitted again.

    Args:
        partition, account, qos, constraint: as sbatch has them; None: the cluster's own.
        minutes: of a job, before it is requeued.
        gpus: of a run; None: as the partition has it.
        cpus: of a run.
        memory_gb: of a run; None: as the partition has it.
        parallel: how many runs at a time; None: as many as the cluster has room for.
        cluster: "slurm"; "local" is submitit's stand-in, processes on this machine.
    """

    def __init__(
        self,
        *,
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        constraint: str | None = None,
        minutes: int = 24 * 60,
        gpus: int | None = None,
        cpus: int = 8,
        memory_gb: float | None = None,
        parallel: int | None = None,
        cluster: str = "slurm",
    ):
        for key, value in (("minutes", minutes), ("cpus", cpus), ("parallel", parallel)):
            if value is not None and value < 1:
                raise ConfigError(problem(f"--launch.{key}", value, "out of range", "1 or more"))
        if cluster not in ("slurm", "local"):
            raise ConfigError(problem("--launch.cluster", cluster, "unknown", "slurm, local"))
        if cluster == "slurm" and shutil.which("sbatch") is None:
            raise ConfigError("--launch=slurm: there is no Slurm here: sbatch is not found")
        self._submitit = _import_submitit()
        self._cluster = cluster
        self._parameters = {
            "timeout_min": minutes,
            "gpus_per_node": gpus,
            "cpus_per_task": cpus,
            "mem_gb": memory_gb,
            "slurm_partition": partition,
            "slurm_account": account,
            "slurm_qos": qos,
            "slurm_constraint": constraint,
            "slurm_array_parallelism": parallel,
            "slurm_additional_parameters": {"requeue": True},
        }

    def launch(self, folder: Path, runs: list[Run]) -> None:
        """Submits what is not in the queue yet."""
        if away := [run for run in runs if is_running(folder, run)]:
            print(f"{len(away)} are under way elsewhere, such as {away[0].name}")
        runs, jobs = [run for run in runs if run not in away], _read_jobs(folder)
        if self._cluster == "slurm" and jobs:
            queued = _queued()
            waiting = [run for run in runs if jobs.get(run.name) in queued]
            runs = [run for run in runs if run not in waiting]
            if waiting:
                print(f"{len(waiting)} are in the queue already, such as {jobs[waiting[0].name]}")
        if not runs:
            return
        # -P: not the modules of the folder in which the command is given, which stays that of jobs.
        python = {f"{self._cluster}_python": f"{shlex.quote(sys.executable)} -P"}
        setup = [f"export PYTHONPATH={shlex.quote(str(ROOT))}:$PYTHONPATH"]
        executor = self._submitit.AutoExecutor(folder / "slurm" / "%j", self._cluster, **python)
        executor.update_parameters(
            name=folder.name, **{f"{self._cluster}_setup": setup}, **self._parameters
        )
        try:
            submitted = executor.map_array(RunJob(folder), runs)
        except self._submitit.core.utils.FailedJobError as error:
            raise ConfigError(f"--launch=slurm: {one_line(error)}") from None
        jobs |= {run.name: job.job_id for run, job in zip(runs, submitted, strict=True)}
        write_text(folder / _JOBS, json.dumps(jobs, indent=2) + "\n")
        first = submitted[0].job_id.partition("_")[0]
        print(f"{len(runs)} runs are submitted as job {first}; `scancel {first}` ends them")
        print(f"python tools/sweep.py status --workdir={folder}")


class RunJob:
    """What a task of the array does: one run, which is requeued if it was interrupted.

    Args:
        folder: of the sweep.
    """

    def __init__(self, folder: Path):
        self._folder = folder

    def __call__(self, run: Run) -> None:
        """Runs to the end, with the exit code of the run."""
        code, job = run_to_end(self._folder, run), _import_submitit().JobEnvironment()
        if code == Interrupted.exit_code and not _is_cancelled(job):
            job._requeue(0)
        if code:
            sys.exit(code if code > 0 else 128 - code)


def _import_submitit():
    # Its own way of logging would take the place of everybody else's.
    before = os.environ.setdefault("SUBMITIT_LOG_LEVEL", "NOCONFIG")
    try:
        import submitit
    except ImportError:
        install = "pip install -r requirements-sweeps.txt"
        raise ConfigError(f"--launch=slurm needs submitit: {install}") from None
    finally:
        if before == "NOCONFIG":
            del os.environ["SUBMITIT_LOG_LEVEL"]
    return submitit


def _read_jobs(folder: Path) -> dict[str, str]:
    def is_sound(jobs: Any) -> bool:
        return isinstance(jobs, dict) and all(isinstance(job, str) for job in jobs.values())

    todo = "delete it once squeue shows no job of the sweep"
    return read_json(folder / _JOBS, todo, is_sound) or {}


def _is_cancelled(job) -> bool:
    """Returns whether somebody has ended the job: Slurm would requeue it all the same."""
    if job.cluster != "slurm":
        return False
    command = ["squeue", "--noheader", f"--jobs={job.raw_job_id}", "--format=%T"]
    state = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return state.strip() != "RUNNING"


def _queued() -> set[str]:
    """Returns the jobs of ours that wait or run: "12_0"."""
    command = ["squeue", "--me", "--array", "--noheader", "--format=%i"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:  # then a run might be submitted twice
        raise ConfigError(f"--launch=slurm: squeue: {' '.join(done.stderr.split())}")
    return set(done.stdout.split())
