"""Commands that stand in for gcloud, srun, python: each call takes its answer from a list."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRAIN = ["--config=configs/digits_nest.py:debug", "--workdir=gs://b/a 'b' $c"]

_FAKE = """\
#!{python}
import fcntl, json, os, sys, time
name = os.path.basename(sys.argv[0])
answers = {answers}
with open({log!r}, "a+") as log:
    fcntl.flock(log, fcntl.LOCK_EX)
    log.seek(0)
    calls = [json.loads(line) for line in log]
    words = lambda call: " ".join(call)
    matches = lambda key, call: call[0] == name and all(map(words(call).__contains__, key.split()))
    call = [name, *sys.argv[1:]]
    key = next((key for key in answers if matches(key, call)), None)
    number = sum(matches(key, earlier) for earlier in calls) if key else 0
    log.write(json.dumps(call) + "\\n")
answer = answers[key][min(number, len(answers[key]) - 1)] if key else 0
if isinstance(answer, list):
    seconds, answer = answer
    time.sleep(seconds)
if isinstance(answer, str):
    print(answer)
    answer = 0
sys.exit(answer)
"""


class Fakes:
    """A folder of commands that stand in for others, and the calls that they have got."""

    def __init__(self, folder):
        self.folder, self.log = folder, folder / "calls.jsonl"

    def put(self, name, answers=None):
        """answers: words of a call -> what it gives each time: text, exit code, [seconds, code]."""
        path = self.folder / name
        text = _FAKE.format(python=sys.executable, answers=repr(answers or {}), log=str(self.log))
        path.write_text(text)
        path.chmod(0o755)
        return path

    def calls(self, *words):
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        calls = [json.loads(line) for line in lines]
        return [call for call in calls if all(word in " ".join(call) for word in words)]

    def run(self, script, *arguments, **environment):
        return launch(script, *arguments, PATH=f"{self.folder}:{os.environ['PATH']}", **environment)


@pytest.fixture
def fakes(tmp_path):
    folder = tmp_path / "fakes"
    folder.mkdir()
    return Fakes(folder)


def launch(script, *arguments, **environment):
    """Runs a launcher; returns exit code, stdout and stderr."""
    return subprocess.run(
        ["bash", str(ROOT / "launch" / script), *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def printed(script, *arguments, **environment):
    """Returns the commands of a dry run, each as the list of its words."""
    done = launch(script, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]
