"""A sweep of real runs, stopped twice, ends with the numbers of an undisturbed one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def launch(folder):
    return subprocess.Popen(
        [
            sys.executable,
            "tools/sweep.py",
            "--config=configs/digits_nest.py:debug",
            f"--workdir={folder}",
            "--config.loop.num_epochs=12",
            "--sweep.model.aggregation=conv_norm_maxpool,maxpool",
            "--launch.parallel=1",
        ],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
    )


def done(folder):
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/DONE")}


def wait_for(condition):
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def trains(folder):
    """Whether a run is amid its steps."""
    logs = [p for p in folder.glob("*/metrics.jsonl") if not (p.parent / "DONE").exists()]
    return any(path.stat().st_size for path in logs)


@pytest.mark.slow
def test_stopped_twice_a_real_sweep_ends_as_an_undisturbed_one(tmp_path):
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    assert launch(undisturbed).wait() == 0
    launcher = launch(stopped)
    wait_for(lambda: trains(stopped))
    launcher.kill()
    launcher.wait()
    for path in (stopped / "states").glob("*.json"):
        os.kill(json.loads(path.read_text())["pid"], signal.SIGKILL)
    launcher = launch(stopped)
    wait_for(lambda: done(stopped) and trains(stopped))
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait() == 75
    before = {name: os.stat(stopped / name / "DONE").st_mtime_ns for name in done(stopped)}
    assert launch(stopped).wait() == 0
    assert len(done(stopped)) == 2 and done(stopped) == done(undisturbed)
    for name, written in before.items():
        assert os.stat(stopped / name / "DONE").st_mtime_ns == written
