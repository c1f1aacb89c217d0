"""What all scripts have in common: they run by path from anywhere, and as modules."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path for path in (ROOT / "tools").glob("*.py") if path.stem != "__init__")


def test_every_script_finds_the_rooms_with_the_same_line():
    lines = [[line for line in path.open() if "sys.path" in line] for path in SCRIPTS]
    assert len(SCRIPTS) >= 8 and all(found == lines[0] for found in lines) and len(lines[0]) == 1


@pytest.mark.parametrize(
    ("command", "folder"), [(["-m", "tools.predict"], ROOT), ([ROOT / "tools/predict.py"], "/")]
)
def test_help_shows_the_flags_that_other_rooms_define(command, folder):
    done = subprocess.run(
        [sys.executable, *command, "--help"],
        cwd=folder,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    shown = {line.split(":")[0].strip() for line in done.stdout.splitlines()}
    assert {"--workdir", "--weights", "--config", "--checkpoint", "--[no]ema"} <= shown, done.stderr
