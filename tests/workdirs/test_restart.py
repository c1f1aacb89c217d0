"""--restart moves what is a run's, and may be killed at any moment."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import ConfigError
from harness.locks import take_lock
from workdirs.restart import check_not_half_moved, set_aside_run
from workdirs.results import read_done, write_done

_ROOT = Path(__file__).resolve().parents[2]
# Moves a run and kills itself before the rename of a number.
_KILLED = """
import os, pathlib, signal, sys
from workdirs.restart import set_aside_run
left = int(sys.argv[2])
def look(event, args):
    global left
    if event == "os.rename":
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
sys.addaudithook(look)
set_aside_run(pathlib.Path(sys.argv[1]))
"""
OF_THE_RUN = (
    *("checkpoints/latest/3/state/d", "checkpoints/best/2/state/d", "metrics.jsonl"),
    *("config.json", "saved.json", "curves.png", "samples_0000012.png", "tensorboard/events"),
    *("evaluation_best_test.json", "bad_images_1.jsonl", "metrics.jsonl.7.ab.tmp"),
)
STRANGERS = ("thesis.tex", "photos/IMG_1.jpg", "README", ".git/HEAD", "checkpoints/notes.txt")


def write(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def files(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - {".lock"}


@pytest.fixture
def run(tmp_path):
    workdir = tmp_path / "run"
    write(workdir, (*OF_THE_RUN, *STRANGERS))
    write_done(workdir, {"loss": 1.0})
    return workdir


def aside(workdir):
    """What has moved, under the names that it had."""
    found = {}
    for folder in (workdir, workdir / "checkpoints"):
        for old in folder.glob("before_restart_*"):
            found |= {str((folder / name).relative_to(workdir)): old for name in files(old)}
    return found


def test_only_what_a_run_writes_moves(run):
    assert "before_restart_" in set_aside_run(run)
    assert aside(run).keys() == {*OF_THE_RUN, "DONE", "checksums/DONE.sha256"}
    left = {name for name in files(run) if "before_restart" not in name}
    assert left == set(STRANGERS)


def test_a_folder_without_a_run_is_refused(tmp_path):
    write(tmp_path, ("thesis.tex", "photos/IMG_1.jpg", "curves.png"))
    before = files(tmp_path)
    with pytest.raises(ConfigError, match="no run .* nothing was moved"):
        set_aside_run(tmp_path)
    assert files(tmp_path) == before


@pytest.mark.parametrize("names", [(), (".lock",), ("before_restart_1/config.json",)])
def test_nothing_to_move(tmp_path, names):
    write(tmp_path, names)
    assert set_aside_run(tmp_path) is None
    assert set_aside_run(tmp_path / "absent") is None


def test_a_run_that_goes_on_stays(run):
    with take_lock(run / ".lock"):
        with pytest.raises(ConfigError, match="another process is training"):
            set_aside_run(run)
    assert not aside(run)


def test_killed_at_any_moment(run):
    """It is neither finished nor new until all has moved; --restart goes on."""
    everything = files(run)
    for number in range(1, 14, 3):
        workdir = Path(shutil.copytree(run, run.parent / str(number)))
        command = [sys.executable, "-c", _KILLED, str(workdir), str(number)]
        done = subprocess.run(command, cwd=_ROOT, env={"JAX_PLATFORMS": "cpu"}, check=False)
        assert done.returncode == -signal.SIGKILL
        with pytest.raises(ConfigError, match="with --restart to finish that"):
            check_not_half_moved(workdir)
        assert number == 1 or read_done(workdir) is None
        assert (workdir / "config.json").exists()
        set_aside_run(workdir)
        check_not_half_moved(workdir)
        assert aside(workdir).keys() == everything - set(STRANGERS)
        assert len({old.name for old in aside(workdir).values()}) == 1
