"""Within a second a terminal shows that a script has started; a file gets nothing of that."""

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def on_terminal(*command):
    """Runs a script on a terminal; yields (seconds, bytes) of what it shows."""
    terminal, end = pty.openpty()
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdin=end, stdout=end, stderr=end
    )
    os.close(end)
    try:
        while content := os.read(terminal, 4096):
            yield time.monotonic() - started, content
    except OSError:  # it has ended
        pass
    finally:
        process.wait()
        os.close(terminal)


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "tools/predict.py"])
def test_a_terminal_shows_that_it_starts(script):
    (seconds, first), *others = on_terminal(script, "--workdir=/nowhere", "--nonsense")
    assert first == f"{script}: starting ...\r".encode()
    assert seconds < max(1.0, others[-1][0] / 4)  # idle: 0.1 s
    # Erased before the first word, which stands in its place.
    text = b"".join(content for _, content in others)
    assert text.startswith(b"\x1b[K" + script.encode() + b": ") and text.count(b"\x1b[K") == 1


def test_a_file_gets_nothing_of_that():
    done = subprocess.run(
        [sys.executable, "tools/verify.py", "--nonsense"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and "starting" not in done.stderr + done.stdout
