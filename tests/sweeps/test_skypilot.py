import shlex
import subprocess
import sys

import pytest
import yaml

from harness.errors import ConfigError
from sweeps import start as starting
from sweeps.launchers.skypilot import SkyPilot
from sweeps.runs import ROOT, Run, name_runs


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    monkeypatch.setattr(starting, "check_runs", lambda runs: None)


def written(folder):
    return {path.stem: yaml.safe_load(path.read_text()) for path in folder.glob("skypilot/*.yaml")}


def test_a_job_per_run_that_goes_on_elsewhere(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "my sweep"
    monkeypatch.chdir(ROOT)
    hostile = {"data.name": "folder:/a b/'ä'$HOME", "data.train_split": "train[:10%]"}
    runs = name_runs("configs/digits_nest.py:debug", hostile, [{"seed": str(i)} for i in range(2)])
    options = {"bucket": "s3://mine/sweep/", "spot": "false", "accelerators": "A100:8"}
    starting.start(folder, runs, starting.create_launcher("skypilot", options))
    jobs = written(folder)
    assert jobs.keys() == {"seed=0", "seed=1"}
    job = jobs["seed=1"]
    assert job["name"] == "my-sweep-seed-1" and job["workdir"] == str(ROOT)
    assert job["resources"] == {
        "accelerators": "A100:8",
        "use_spot": False,
        "job_recovery": {"recover_on_exit_codes": [75]},
    }
    assert job["file_mounts"] == {"/sweep": {"source": "s3://mine/sweep", "mode": "MOUNT_CACHED"}}
    assert shlex.split(job["run"]) == [
        *("python", "train.py", "--config=configs/digits_nest.py:debug", "--workdir=/sweep/seed=1"),
        *("--config.data.name=folder:/a b/'ä'$HOME", "--config.data.train_split=train[:10%]"),
        "--config.seed=1",
    ]
    assert f"for job in '{folder}/skypilot'/*.yaml; do sky jobs launch" in capsys.readouterr().out
    (folder / "seed=0").mkdir()
    (folder / "seed=0/DONE").write_text("{}")  # copied from the bucket
    starting.start(folder, runs, SkyPilot(bucket="s3://mine/sweep"))
    assert written(folder).keys() == {"seed=1"}


def test_the_command_trains_as_written(tmp_path):
    """The script's flags take it, from the checkout, as the job has it."""
    run = Run("a", str(ROOT / "configs/digits_nest.py"), {"model.depths": "(1, 1)"}, {})
    tmp_path = tmp_path / "s"
    tmp_path.mkdir()
    SkyPilot(bucket="gs://mine").launch(tmp_path, [run])
    (job,) = written(tmp_path).values()
    command = shlex.split(job["run"])
    assert command[2] == "--config=configs/digits_nest.py"
    done = subprocess.run(
        [sys.executable, *command[1:], "--config.model.depth=3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "did you mean 'depths'" in done.stderr  # and nothing else


@pytest.mark.parametrize(
    ("options", "config", "problem"),
    [
        ({}, "configs/digits_nest.py", "--launch.bucket='': not a bucket"),
        ({"bucket": "/data"}, "configs/digits_nest.py", "--launch.bucket='/data': not a bucket"),
        ({"bucket": "s3://a"}, "/tmp/recipe.py", "/tmp/recipe.py is not in"),
    ],
)
def test_jobs_that_could_not_run_are_not_written(tmp_path, options, config, problem):
    with pytest.raises(ConfigError, match=problem):
        SkyPilot(**options).launch(tmp_path, [Run("a", config, {}, {})])
    assert not list(tmp_path.iterdir())
