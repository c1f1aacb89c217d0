"""What stands in the place of a run's files, cannot be read now, or goes away beside a reader."""

import errno
import shutil
from pathlib import Path

import chex
import pytest

import train
from evaluate import evaluate_workdir
from harness.errors import ConfigError, StorageError
from saving.checkpoints import Checkpoints, can_resume
from saving.verification import verify_checkpoints
from tests.saving.test_damaged_checkpoints import state_of, write_run
from workdirs import step_files
from workdirs.progress import check_not_lost, check_places
from workdirs.restart import check_not_half_moved
from workdirs.step_files import patiently, steps_in
from zoo import run_checkpoints
from zoo.find import find_checkpoint, find_weights_file
from zoo.run_checkpoints import Gone, read_newest, read_parts


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(step_files, "WAITS", (0.0, 0.0))


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    write_run(workdir)
    return workdir


@pytest.fixture
def run(template, tmp_path):
    return Path(shutil.copytree(template, tmp_path / "run"))


def refuse(monkeypatch, owner, name, error, times=10**9):
    """Lets a function fail for a while."""
    original, left = getattr(owner, name), [times]

    def wrapped(*args, **options):
        if left[0]:
            left[0] -= 1
            raise error
        return original(*args, **options)

    monkeypatch.setattr(owner, name, wrapped)


READERS = {
    "can_resume": can_resume,
    "check_not_lost": check_not_lost,
    "find_checkpoint": find_checkpoint,
    "find_weights_file": find_weights_file,
    "steps_in": lambda workdir: steps_in(workdir / "checkpoints" / "latest"),
    "verify": verify_checkpoints,
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
def test_a_folder_that_cannot_be_listed_now(run, monkeypatch, reader):
    refused = PermissionError(errno.EACCES, "no", "latest")
    refuse(monkeypatch, step_files, "_complete_in", refused, times=2)
    reader(run)
    refuse(monkeypatch, step_files, "_complete_in", refused)
    with pytest.raises(StorageError) as end:
        reader(run)
    assert end.value.exit_code == 74


def test_evaluating_what_cannot_be_listed_now(small_config, run, monkeypatch):
    refuse(monkeypatch, step_files, "_complete_in", PermissionError(errno.EACCES, "no"))
    with pytest.raises(StorageError):
        evaluate_workdir(small_config, run)


@pytest.mark.parametrize("number", [errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOENT])
def test_what_does_not_pass_is_not_waited_for(monkeypatch, number):
    monkeypatch.setattr(step_files, "WAITS", (1000.0,))
    with pytest.raises(ConfigError, match="^the/path: no; move away") as end:
        patiently(lambda: (_ for _ in ()).throw(OSError(number, "no", "the/path")))
    assert end.value.exit_code == 2


def test_a_path_that_is_too_long_does_not_pass(small_config, tmp_path, monkeypatch):
    monkeypatch.setattr(step_files, "WAITS", (1000.0,))
    for use in (train.train_and_evaluate, evaluate_workdir):
        with pytest.raises(ConfigError, match="File name too long; choose a shorter path$") as end:
            use(small_config, tmp_path / ("x" * 300))
        assert end.value.exit_code == 2 and "\n" not in str(end.value)


FILES = ("checkpoints", "checkpoints/best", "checkpoints/unreadable", "checksums")
PLACES = [(name, "a file") for name in (*FILES, "checkpoints/latest")]
PLACES += [(name, "a folder") for name in ("saved.json", "metrics.jsonl", "DONE", "config.json")]
PLACES += [(name, "leads nowhere") for name in ("checkpoints", "checkpoints/latest", "checksums")]


@pytest.mark.parametrize(("name", "kind"), PLACES)
def test_what_stands_in_another_place(small_config, tmp_path, name, kind):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if kind == "leads nowhere":
        path.symlink_to(tmp_path / "unmounted")
    elif kind == "a file":
        path.write_text("x")
    else:
        path.mkdir()
    with pytest.raises(ConfigError, match=kind) as end:
        train.train_and_evaluate(small_config, tmp_path)
    assert end.value.exit_code == 2 and str(path) in str(end.value) and "\n" not in str(end.value)
    assert any(kind in finding.text for finding in verify_checkpoints(tmp_path))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
@pytest.mark.parametrize("name", ["exists", "mkdir"])
def test_a_workdir_that_is_refused_now(tmp_path, monkeypatch, number, name):
    refuse(monkeypatch, Path, name, OSError(number, "no"))
    with pytest.raises(StorageError):
        check_not_half_moved(tmp_path)
        Checkpoints(workdir=tmp_path)


def test_a_file_in_the_place_of_the_best_checkpoints(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best").write_text("x")
    with pytest.raises(ConfigError, match="checkpoints/best: File exists; move away"):
        Checkpoints(workdir=tmp_path)


def test_places_of_a_sound_run(run):
    check_places(run)
    check_places(run / "absent")


def test_weights_that_cannot_be_read_now(run, monkeypatch):
    step = run / "checkpoints" / "latest" / "3"
    refuse(monkeypatch, run_checkpoints, "_restore", OSError(errno.EIO, "no"), times=2)
    state, _, _ = read_parts(step, "params", "weights")
    chex.assert_trees_all_equal(state["params"], state_of(3)["params"])
    refuse(monkeypatch, run_checkpoints, "_restore", OSError(errno.EIO, "no"))
    with pytest.raises(StorageError) as end:
        read_parts(step, "params", "weights")
    assert end.value.exit_code == 74


def test_weights_that_a_run_deletes_meanwhile(run, monkeypatch):
    """The newest is chosen again; one that a person named is not replaced by another."""
    look, latest = run_checkpoints.find_damage, run / "checkpoints" / "latest"

    def find_damage(step):
        if step == latest / "3" and step.exists():
            write_run(run, [4, 5])
        return look(step)

    monkeypatch.setattr(run_checkpoints, "find_damage", find_damage)
    folder, (state, _, _) = read_newest(
        lambda: find_weights_file(run), lambda folder: read_parts(folder, "params", "weights")
    )
    assert folder == latest / "5"
    chex.assert_trees_all_equal(state["params"], state_of(5)["params"])
    with pytest.raises(Gone, match="latest/3: deleted while"):
        read_newest(lambda: latest / "3", lambda folder: read_parts(folder, "params", "weights"))


def test_verifying_beside_a_run_that_goes_on(run, monkeypatch):
    """What it has listed is deleted before, and what it has read is older than what it lists."""
    look = step_files.find_damage

    def find_damage(step):
        if step.exists() and step.name == "2":
            write_run(run, [4, 5])
        return look(step)

    monkeypatch.setattr(step_files, "find_damage", find_damage)
    assert "damaged" not in {finding.state for finding in verify_checkpoints(run)}
    listed = step_files.steps_in

    def steps_in(folder):  # the run saves once it is listed
        found = listed(folder)
        if folder.name == "latest" and found[-1] == 5:
            write_run(run, [6])
        return found

    monkeypatch.setattr(step_files, "steps_in", steps_in)
    assert "damaged" not in {finding.state for finding in verify_checkpoints(run)}
