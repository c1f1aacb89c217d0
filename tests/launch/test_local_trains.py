"""launch/local.sh with real processes: one gets a signal, both save, both go on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launch.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.linux]


def process_of(folder, number):
    """Returns the pid of a process of the run, None before it is there."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:  # it has ended
            continue
        if f"--workdir={folder}" in words and f"--process_id={number}" in words:
            if Path(words[0]).name.startswith("python"):
                return int(path.parent.name)
    return None


def test_two_processes_train_and_go_on_after_a_signal_to_one(tmp_path):
    folder, log = tmp_path / "a run", tmp_path / "log"
    command = [
        *("bash", str(ROOT / "launch/local.sh"), "-n", "2", "--"),
        *("--config=configs/digits_nest.py:debug", f"--workdir={folder}"),
        *("--config.loop.num_epochs=20", "--config.loop.save_every_epochs=100"),
    ]
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "XLA_FLAGS": flags,
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    }
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + 600
        metrics = folder / "metrics.jsonl"
        while not (metrics.exists() and metrics.read_text()):  # after the first steps
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.2)
        os.kill(process_of(folder, 1), signal.SIGTERM)
        assert process.wait(600) == 0, log.read_text()[-2000:]
    finally:
        process.terminate()
        process.wait()
    text = log.read_text()
    assert text.count("local.sh: ended with 75; restart") == 1
    assert "[1] " in text and "resuming at step" in text and (folder / "DONE").exists()
