"""When the launchers start a run again: commands that stand in for train.py, gcloud and Slurm."""

import os
import signal
import subprocess
import time

import pytest

from tests.launch.conftest import ROOT, TRAIN

POD = {"TPU_NAME": "nest", "PROJECT": "p", "ZONE": "us-west4-a", "POLL_SECONDS": "0"}


def run_local(fakes, answers, n="2", **environment):
    """answers: of each process, its exit codes."""
    codes = {f"process_id={i}" if n != "1" else "train.py": each for i, each in enumerate(answers)}
    python = fakes.put("python", {"import socket": ["1234"], **codes})
    fixed = {"JAX_PLATFORMS": "cpu", "PYTHON": str(python), "STORAGE_PAUSE": "0"}
    environment = fixed | environment
    return fakes.run("local.sh", "-n", n, "--", *TRAIN, **environment)


@pytest.mark.parametrize(
    ("answers", "code", "starts"),
    [
        ([[0], [0]], 0, 1),
        ([[75, 70, 0], [75, 75, 0]], 0, 3),
        ([[2], [2]], 2, 1),
        ([[3], [3]], 3, 1),
        ([[75, 0], [137, 0]], 0, 2),  # one was killed, the other missed it
        ([[75], [1]], 1, 1),  # an error of one is the run's
        ([[75, 3], [75, 3]], 3, 2),
        ([[137], [137]], 137, 1),
        ([[74, 74, 0], [74, 75, 0]], 0, 3),  # after a pause
        ([[74], [74]], 74, 4),  # 3 times in a row
        ([[74, 74, 74, 75, 74, 0], [75, 75, 75, 75, 75, 0]], 0, 6),
    ],
)
def test_local_restarts_what_was_interrupted(fakes, answers, code, starts):
    done = run_local(fakes, answers)
    assert done.returncode == code, done.stderr
    assert len(fakes.calls("process_id=1")) == starts
    assert done.stderr.count("; restart ") == starts - 1


def test_local_takes_one_process_too_and_restarts_have_an_end(fakes):
    done = run_local(fakes, [[75]], n="1", MAX_RESTARTS="2")
    assert len(fakes.calls("train.py")) == 3 and done.returncode == 2
    assert "ended with 75 after 2 restarts" in done.stderr
    assert not fakes.calls("coordinator")


def test_local_kills_those_that_do_not_end(fakes):
    started = time.monotonic()
    done = run_local(fakes, [[1], [[60, 0]]], GRACE="1")
    assert done.returncode == 1 and time.monotonic() - started < 30


def test_local_tells_all_processes_of_a_signal_once_and_does_not_restart(fakes, tmp_path):
    script = f"""#!/bin/bash
[ "$1" != -c ] || exec echo 1234
trap 'echo told >> {tmp_path}/told; sleep 0.5; exit 75' TERM
echo started >> {tmp_path}/told
for i in {{1..300}}; do sleep 0.1; done
"""
    python = fakes.put("python")
    python.write_text(script)
    process = subprocess.Popen(
        ["bash", str(ROOT / "launch/local.sh"), "-n", "2", "--", *TRAIN],
        env={**os.environ, "PYTHON": str(python), "JAX_PLATFORMS": "cpu"},
    )
    told = tmp_path / "told"
    while not told.exists() or told.read_text().count("started") < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 75
    assert sorted(told.read_text().split()) == ["started", "started", "told", "told"]


def test_a_tpu_slice_is_asked_for_again_when_it_is_taken_away(fakes):
    states = ["WAITING_FOR_RESOURCES", "ACTIVE", "SUSPENDED", "ACTIVE", "ACTIVE"]
    fakes.put(
        "gcloud",
        {
            "describe": [1, *states],
            "train.py": [255, 75, 0],  # the connection, with the slice; a signal; done
        },
    )
    done = fakes.run("tpu_pod.sh", "--", *TRAIN, **POD)
    assert done.returncode == 0, done.stderr
    names = [
        next(name for name in ("create", "delete", "scp", "tar -xzf", "train.py") if name in call)
        for call in map(" ".join, fakes.calls())
        if "describe" not in call
    ]
    ready = ["scp", "tar -xzf", "train.py"]
    assert names == ["create", *ready, "delete", *ready, "train.py"]
    assert "this gives the slice back: gcloud alpha compute tpus queued-resources delete" in (
        done.stderr
    )


@pytest.mark.parametrize("code", [1, 2, 3])
def test_a_tpu_slice_is_left_alone_after_errors(fakes, code):
    fakes.put("gcloud", {"describe": ["ACTIVE"], "train.py": [code]})
    done = fakes.run("tpu_pod.sh", "--", *TRAIN, **POD)
    assert done.returncode == code and len(fakes.calls("train.py")) == 1
    fakes.put("gcloud", {"describe": ["ACTIVE"], "tar -xzf": [code]})
    done = fakes.run("tpu_pod.sh", "--", *TRAIN, **POD)
    assert done.returncode == code and len(fakes.calls("train.py")) == 1


def test_a_tpu_slice_that_is_refused_is_not_asked_for_all_night(fakes):
    fakes.put("gcloud", {"describe": [1], "create": [1]})
    done = fakes.run("tpu_pod.sh", "--", *TRAIN, **POD)
    assert done.returncode == 2 and "cannot be asked for" in done.stderr


@pytest.mark.parametrize(
    ("code", "state", "restarts", "requeued"),
    [
        (0, "RUNNING", "0", False),
        (75, "RUNNING", "", True),
        (70, "RUNNING", "3", True),
        (75, "COMPLETING", "0", False),  # scancel
        (75, "RUNNING", "100", False),
        (137, "RUNNING", "0", True),  # one task was killed; of srun's codes, the largest
        (75, "CANCELLED", "0", False),
        (75, "PREEMPTED", "0", True),
        *((code, "RUNNING", "0", False) for code in (1, 2, 3)),
    ],
)
def test_slurm_requeues_what_was_interrupted(fakes, code, state, restarts, requeued):
    fakes.put("srun", {"train.py": [code]})
    fakes.put("squeue", {"--jobs=7": [state]})
    fakes.put("scontrol")
    job = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": restarts, "SLURM_NTASKS": "2"}
    done = fakes.run("slurm.sh", *TRAIN, **job)
    assert done.returncode == code
    asked = [["scontrol", "requeue", "7"]] if requeued else []
    assert fakes.calls("scontrol") == asked


JOB = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "0", "RETRY_SECONDS": "0"}


@pytest.mark.parametrize(("squeue", "requeued"), [([1], True), ([1, 1, "COMPLETING"], False)])
def test_slurm_requeues_although_its_controller_does_not_answer(fakes, squeue, requeued):
    fakes.put("srun", {"train.py": [75]})
    fakes.put("squeue", {"--jobs=7": squeue})
    fakes.put("scontrol", {"requeue": [1, 1, 0]})
    done = fakes.run("slurm.sh", *TRAIN, **JOB, SLURM_NTASKS="2")
    assert done.returncode == 75
    assert len(fakes.calls("scontrol")) == (3 if requeued else 0)
    assert "cannot be requeued" not in done.stderr


@pytest.mark.parametrize(
    ("code", "requeued"),
    [(138, True), (140, True), (143, True), (137, False), (139, False), (130, False)],
)
def test_slurm_requeues_one_task_that_a_signal_to_save_has_ended(fakes, code, requeued):
    fakes.put("srun", {"train.py": [code]})
    fakes.put("squeue", {"--jobs=7": ["RUNNING"]})
    fakes.put("scontrol")
    done = fakes.run("slurm.sh", *TRAIN, **JOB, SLURM_NTASKS="1")
    assert (done.returncode, bool(fakes.calls("scontrol"))) == (code, requeued)


def test_slurm_gives_each_task_its_cores(fakes, tmp_path):
    srun = fakes.put("srun")
    srun.write_text(f'#!/bin/bash\nprintf %s "$SRUN_CPUS_PER_TASK" > {tmp_path}/cores\n')
    fakes.run("slurm.sh", *TRAIN, **JOB, SLURM_CPUS_PER_TASK="12")
    assert (tmp_path / "cores").read_text() == "12"


@pytest.mark.parametrize(
    ("codes", "code", "starts"),
    [([74, 74, 0], 0, 3), ([74], 74, 4), ([74, 2], 2, 2), ([75], 75, 1)],
)
def test_after_74_comes_a_pause_and_3_times_in_a_row_is_the_most(fakes, codes, code, starts):
    for name in ("gcloud", "srun", "python"):
        fakes.put(name, {"describe": ["ACTIVE"], "train.py": codes})
    fakes.put("squeue", {"--jobs=7": ["RUNNING"]})
    fakes.put("scontrol")
    again = fakes.run("again_after_74.sh", "python", "train.py", STORAGE_PAUSE="0")
    slurm = fakes.run("slurm.sh", *TRAIN, **JOB, STORAGE_PAUSE="0")
    assert (again.returncode, slurm.returncode) == (code, code)
    assert len(fakes.calls("srun")) == len(fakes.calls("python", "train.py")) // 2 == starts
    assert bool(fakes.calls("scontrol")) == (code == 75)
    if code != 75:
        pod = fakes.run("tpu_pod.sh", "--", *TRAIN, **POD, STORAGE_PAUSE="0")
        assert pod.returncode == code
        assert len(fakes.calls("gcloud", "train.py")) == starts


@pytest.mark.parametrize(("seconds", "starts"), [(0, 4), (700, 8)])
def test_74_after_a_long_attempt_begins_a_new_count(seconds, starts):
    """Each attempt takes some seconds by bash's own clock, the fifth and later ones none."""
    script = f"""
set -euo pipefail
. launch/lib.sh
say() {{ :; }}
sleep() {{ :; }}
starts=1
while runs_again 74; do
    starts=$((starts + 1))
    [ $starts -gt 5 ] || SECONDS=$((SECONDS + {seconds}))
done
echo $starts
"""
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"{starts}\n", done.stderr


@pytest.mark.parametrize("script", [["local.sh", "-n", "1", "--"], ["again_after_74.sh", "python"]])
@pytest.mark.parametrize("when", ["port", "run", "pause"])
@pytest.mark.parametrize("number", ["TERM", "USR1", "USR2", "QUIT"])
def test_a_signal_to_a_launcher_ends_the_run_whenever_it_comes(
    fakes, tmp_path, script, when, number
):
    if when == "port" and script[0] != "local.sh":
        return
    pid, starts = tmp_path / "pid", tmp_path / "starts"
    strike = f"until [ -s {pid} ]; do sleep 0.05; done; kill -s {number} $(cat {pid})"
    run = {
        "port": "sleep 30",
        "run": f"{strike}; sleep 30 & wait",
        "pause": f"(sleep 0.5; {strike}) & exit 74",
    }
    python = fakes.put("python")
    python.write_text(f"""#!/bin/bash
if [ "$1" = -c ]; then {strike if when == "port" else ":"}; echo 1234; exit; fi
trap 'exit 75' TERM
echo started >> {starts}
{run[when]}
""")
    more = {"PYTHON": str(python), "STORAGE_PAUSE": "30", "JAX_PLATFORMS": "cpu"}
    more["PATH"] = f"{fakes.folder}:{os.environ['PATH']}"
    command = ["bash", str(ROOT / "launch" / script[0]), *script[1:], *TRAIN]
    process = subprocess.Popen(command, env=os.environ | more)
    pid.write_text(str(process.pid))
    try:
        assert process.wait(15) == 75
    finally:
        process.kill()
    assert (starts.read_text().count("started") if starts.exists() else 0) == (when != "port")
