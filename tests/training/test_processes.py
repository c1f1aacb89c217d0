"""Two processes equal one, and agree on when to stop."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workdirs.results import read_metrics

ROOT = Path(__file__).parents[2]
RECIPE = [
    "--config=configs/digits_nest.py:debug",
    "--config.model.depths=(1,1,1)",
    "--config.data.batch_size=32",
    "--config.data.train_split=train[:64]",
    "--config.data.eval_split=test[:101]",
    "--config.optimizer.base_lr=5e-4",
    "--config.mesh.fsdp=2",
]


def start(workdir, num_processes, *changes):
    """Starts processes that together hold 4 devices."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    count = f"device_count={4 // num_processes}"
    environment = os.environ | {
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", count)
    }
    command = [sys.executable, "train.py", f"--workdir={workdir}", *RECIPE, *changes]
    processes = []
    for index in range(num_processes):
        extra = []
        if num_processes > 1:
            extra = [
                f"--coordinator=127.0.0.1:{port}",
                f"--num_processes={num_processes}",
                f"--process_id={index}",
            ]
        processes.append(
            subprocess.Popen(
                command + extra,
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return processes


def finish(processes):
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    return [process.returncode for process in processes], "\n".join(outputs)


def records(workdir):
    return read_metrics(workdir).sound


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one")
    codes, output = finish(start(workdir, 1))
    assert codes == [0], output
    return records(workdir)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path, one_process):
    codes, output = finish(start(tmp_path, 2))
    assert codes == [0, 0], output
    assert "2 process(es), mesh data 2 x fsdp 2" in output
    for ours, theirs in zip(records(tmp_path), one_process, strict=True):
        assert (ours["kind"], ours["step"]) == (theirs["kind"], theirs["step"])
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
    assert ours["num_examples"] == 101


@pytest.mark.slow
def test_a_signal_to_one_stops_both(tmp_path):
    changes = ["--config.loop.num_epochs=300.0"]
    processes = start(tmp_path, 2, *changes)
    deadline = time.monotonic() + 120
    log = tmp_path / "metrics.jsonl"
    while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.2)
    processes[1].send_signal(signal.SIGTERM)
    codes, output = finish(processes)
    assert codes == [75, 75], output
    # One process with the same devices takes the run over.
    (process,) = start(tmp_path, 1, *changes)
    line = ""
    while "resuming at step" not in line and process.poll() is None:
        line = process.stdout.readline()
    assert "resuming at step" in line
    process.send_signal(signal.SIGINT)
    codes, output = finish([process])
    assert codes == [75], output
