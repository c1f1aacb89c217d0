"""SkyPilot's YAML: its command, run by a shell, and the whole by SkyPilot's own parser."""

import json
import os
import shlex
import subprocess
import sys

import pytest
import yaml

from tests.launch.conftest import ROOT, TRAIN

AGAIN = ["bash", "launch/again_after_74.sh", "python", "train.py"]
FILE = ROOT / "launch" / "skypilot.yaml"
# Prints what SkyPilot makes of the file and of --env.
PARSE = """
import json, sys, sky, yaml
given = [tuple(pair.split("=", 1)) for pair in sys.argv[2:]]
task = sky.Task.from_yaml_config(yaml.safe_load(open(sys.argv[1])), env_overrides=given)
(resources,) = task.resources
(mount,) = task.storage_mounts.items()
print(json.dumps({
    "name": task.name, "accelerators": resources.accelerators, "spot": resources.use_spot,
    "recovery": resources.job_recovery, "mount": [mount[0], mount[1].source, mount[1].mode.value],
    "run": task.run,
}))
"""


def command(**environment):
    """Returns the words of the command that a job runs."""
    script = yaml.safe_load(FILE.read_text())["run"]
    environment = {"ARGUMENTS": shlex.join(TRAIN), "SHOW": "1"} | environment
    done = subprocess.run(
        ["bash", "-euc", script], env={**os.environ, **environment}, capture_output=True, text=True
    )
    return shlex.split(done.stdout) if done.returncode == 0 else done.stderr


def test_the_command_has_the_arguments_as_given():
    assert command() == [*AGAIN, *TRAIN]
    nodes = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NODE_RANK": "1"}
    assert command(SKYPILOT_NUM_NODES="2", **nodes) == [
        *(*AGAIN, *TRAIN, "--coordinator=10.0.0.1:8476"),
        *("--num_processes=2", "--process_id=1"),
    ]


def test_sweeps_and_single_runs_are_launched_alike():
    from harness.errors import Interrupted

    job = yaml.safe_load(FILE.read_text())
    codes = job["resources"]["job_recovery"]["recover_on_exit_codes"]
    assert codes == [70, Interrupted.exit_code]
    assert job["file_mounts"]["/runs"]["mode"] == "MOUNT_CACHED" and job["workdir"] == "."


@pytest.mark.parametrize("workdir", ["/runs/a", "gs://b/a"])
def test_a_bucket_s_clients_are_installed_for_a_workdir_there(workdir, fakes):
    fakes.put("pip")
    setup = yaml.safe_load(FILE.read_text())["setup"]
    path = f"{fakes.folder}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "ARGUMENTS": f"--config=a --workdir={workdir}"}
    subprocess.run(["bash", "-euc", setup], env=environment, check=True)
    expected = [["pip", "install", "-r", "requirements.txt", "jax[cuda13]"]]
    if workdir.startswith("gs:"):
        expected.append(["pip", "install", "-r", "requirements-buckets.txt"])
    assert fakes.calls() == expected


@pytest.mark.skypilot
def test_skypilot_takes_it():
    python = os.environ.get("SKYPILOT_PYTHON", sys.executable)

    def parse(*given):
        start = [python, "-c", PARSE, str(FILE), *given]
        return subprocess.run(start, capture_output=True, text=True, timeout=300)

    done = parse("BUCKET=s3://mine/runs", f"ARGUMENTS={shlex.join(TRAIN)}")
    assert done.returncode == 0, done.stderr
    parsed = json.loads(done.stdout.splitlines()[-1])
    assert parsed.pop("run") == yaml.safe_load(FILE.read_text())["run"]
    recovery = parsed.pop("recovery")
    assert recovery["recover_on_exit_codes"] == [70, 75]
    assert parsed == {
        "name": "nest-tnt",
        "accelerators": {"H100": 8},
        "spot": True,
        "mount": ["/runs", "s3://mine/runs", "MOUNT_CACHED"],
    }
    unset = parse("BUCKET=s3://mine/runs")
    assert unset.returncode and "ARGUMENTS" in unset.stderr
