"""Saves that a full disk refuses: one line with the reason, and nothing else is said."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# A limit on the size of files stands for a full disk, which takes root to make.
SAVE = """
import pathlib, resource, sys

import jax
import numpy as np

from harness.errors import StorageError
from saving.checkpoints import Checkpoints

jax.config.update("jax_compilation_cache_dir", None)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
state = {f"array{i}": jax.device_put(np.arange(5000.0) + i) for i in range(100)}
try:
    with Checkpoints(workdir=pathlib.Path(sys.argv[1])) as saved:
        saved.save(1, state, {}, wait=True)
except StorageError as error:
    print(error)
"""


def test_a_disk_that_is_full_is_one_line(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", SAVE, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 0
    assert ended.stderr == ""
    (line,) = ended.stdout.splitlines()
    assert line.startswith("the checkpoint of step 1 cannot be written: ")
    assert "File too large" in line  # the reason, behind all that wraps it
    assert not list(tmp_path.glob("checkpoints/latest/[0-9]"))
