"""A /dev/shm too small for the loader's worker processes, as in containers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import ConfigError
from process import shared_memory
from process.shared_memory import WorkerDied, check_room, worker_errors

ROOT = Path(__file__).parents[2]


def test_it_is_said_before_the_workers_start(monkeypatch):
    monkeypatch.setattr(shared_memory, "_free", lambda: 64 * 2**20)
    check_room(2, 64 * 2**20)
    with pytest.raises(ConfigError) as error:
        check_room(2, 80 * 2**20)
    assert str(error.value) == (
        "config.data.num_workers=2: /dev/shm is too small for the worker processes (80 MiB are "
        "needed, 64 MiB are free); allowed: 0, which needs none; or give the container more, as "
        "docker run --shm-size=8g does"
    )
    monkeypatch.setattr(shared_memory, "_free", lambda: None)  # there is none, as on a Mac
    check_room(2, 2**60)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-7, "it got full"),
        (-9, "a worker process has died .signal 9, memory ran out"),
        (-11, "a worker process has died .signal 11.$"),
        (1, "a worker process has died .exit code 1.$"),
    ],
)
def test_a_worker_that_dies(code, words):
    text = f"Worker process was terminated unexpectedly with exit code {code}. Search the logs"
    with pytest.raises(WorkerDied, match=rf"^config.data.num_workers=3: .*{words}"):
        with worker_errors(3):
            raise RuntimeError(text)


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="^a bug$"), worker_errors(3):
        raise RuntimeError("a bug")


PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from data import batches, pipeline
from harness.errors import RunError
if __name__ == "__main__":
    if {late}:
        batches.check_room = lambda *_: None
    data = pipeline.Data(
        name="synthetic", image_size=256, batch_size=64, eval_batch_size=64, num_workers=2,
        augment={{}}, train_split="train",
    )
    loaded = data.train_batches()
    try:
        for _ in range(100):
            next(loaded)
    except RunError as error:
        print(error)
"""


@pytest.mark.faults
@pytest.mark.linux
@pytest.mark.parametrize("late", [False, True])
def test_a_small_one(tmp_path, late):
    """In a namespace of its own, which takes the rights to mount."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(root=str(ROOT), late=late))
    line = f"mount -t tmpfs -o size=2m tmpfs /dev/shm && exec {sys.executable} {program}"
    result = subprocess.run(
        ["unshare", "-m", "bash", "-c", line],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert result.returncode == 0, result.stderr
    expected = "it got full, 0 MiB are free" if late else "32 MiB are needed, 2 MiB are free"
    assert result.stdout.count(expected) == 1, result.stdout + result.stderr
