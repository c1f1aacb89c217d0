"""A terminal shows at once that a script has started; a file or a pipe says so after a second."""

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


PROGRAM = """
import sys, time
sys.path.insert(0, {root!r})
from process.streams import guard_streams, say_starting
from process.terminal import escape_streams
guard_streams()
say_starting("x: starting ...")
time.sleep({seconds})
escape_streams()
print("first", file=sys.stderr)
time.sleep(1.5)
"""


def test_a_pipe_is_told_after_a_second_of_silence():
    for seconds, start in ((1.5, "x: starting ...\n"), (0.0, "")):
        program = PROGRAM.format(root=str(ROOT), seconds=seconds)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert (done.returncode, done.stderr, done.stdout) == (0, f"{start}first\n", "")


@pytest.mark.parametrize("where", ["2>&-", "2> /dev/full"])
def test_nobody_can_be_told(where):
    program = PROGRAM.format(root=str(ROOT), seconds=1.5)
    line = ["bash", "-c", f"{sys.executable} - {where}"]
    done = subprocess.run(line, input=program, capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")
