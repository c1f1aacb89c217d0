"""The list of a checkpoint's files, whatever is killed while it is written."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from workdirs import step_files

_ROOT = Path(__file__).resolve().parents[2]
# Seals a checkpoint and kills itself where the list would get its name.
_KILLED_SEAL = """
import os, pathlib, signal, sys
from workdirs import step_files
def look(event, args):
    if event == "os.rename":
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(look)
step_files.seal(pathlib.Path(sys.argv[1]))
"""


CHECKSUMS = '{"step": 3, "arrays": {}, "loop": ""}'


@pytest.fixture
def step(tmp_path):
    step = tmp_path / "latest" / "3"
    for name in ("loop/metadata", "state/_METADATA", "checksums/metadata"):
        (step / name).parent.mkdir(parents=True)
        (step / name).write_text("{}" if "sums" not in name else CHECKSUMS)
    (step / "state" / "d").write_bytes(b"arrays")
    return step


def names(step):
    return sorted(str(p.relative_to(step)) for p in step.rglob("*") if p.is_file())


def test_two_kills_while_the_files_are_listed(step):
    before = names(step)
    for _ in range(2):
        command = [sys.executable, "-c", _KILLED_SEAL, str(step)]
        done = subprocess.run(command, cwd=_ROOT, env={"JAX_PLATFORMS": "cpu"}, check=False)
        assert done.returncode == -signal.SIGKILL
        assert len(names(step)) > len(before) and not step_files.is_sealed(step)
        assert step_files.find_damage(step) is None
    step_files.seal(step)
    assert step_files.find_damage(step) is None
    assert names(step) == sorted([*before, "files.json"])  # nothing stale is left
    assert sorted(json.loads((step / "files.json").read_text())) == before


@pytest.mark.parametrize("name", ["files.json.tmp", "files.json.123.abcd.tmp", "state/x.tmp"])
def test_a_list_of_an_earlier_version_may_hold_temporary_names(step, name):
    (step / name).write_text("half")
    sums = step_files.file_checksums(step, names(step))
    (step / name).unlink()
    (step / "files.json").write_text(json.dumps(sums))
    assert step_files.find_damage(step) is None
    (step / "state" / "d").unlink()
    assert step_files.find_damage(step) == "state/d is missing"


def test_a_reader_beside_a_seal_sees_no_damage(step, monkeypatch):
    """It has listed a temporary file that is gone when it is read."""
    there = step_files.files_in(step)
    monkeypatch.setattr(step_files, "files_in", lambda folder: [*there, "files.json.7.ab.tmp"])
    assert step_files.find_damage(step) is None
    step_files.seal(step)
    assert step_files.find_damage(step) is None


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_on_which_one_cannot_wait_for_the_disk(step, monkeypatch, number):
    def fsync(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    step_files.seal(step)
    assert step_files.is_sealed(step) and step_files.find_damage(step) is None
