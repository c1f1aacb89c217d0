"""Damage to any file of a workdir outside checkpoints/: never silent, never a traceback."""

import errno
import json
import os
import random
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.errors import ConfigError, RecordError, RunError
from inference.answers import evaluation_path
from tests.workdirs import runs
from tools import verify
from workdirs.records import write_record
from workdirs.results import BadImagesFile, bad_images_path
from workdirs.verification import verify_files

KINDS = ("cut", "empty", "zeros", "folder", "gone")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with all files that one may have, and an image to predict."""
    folder = tmp_path_factory.mktemp("finished")
    workdir = folder / "run"
    with runs.quiet():
        runs.train(workdir)
    bad = BadImagesFile(bad_images_path(workdir))
    bad.append({"split": "train", "index": 3, "name": "a.png", "reason": "it is empty"})
    write_record(workdir / "log_to.json", '{"wandb p": {"id": "1", "sent": {"train": 4}}}\n')
    write_record(evaluation_path(workdir / "evaluation_latest", "test"), '{"loss": 1.0}\n')
    image = np.zeros((8, 8), np.uint8)
    Image.fromarray(image).save(workdir / "samples_0000002.png")
    Image.fromarray(image).save(folder / "image.png")
    return workdir


@pytest.fixture
def workdir(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    shutil.copy(finished.parent / "image.png", tmp_path)
    return tmp_path / "run"


def files_of(workdir):
    return sorted(
        path
        for path in workdir.rglob("*")
        if path.is_file()
        and "checkpoints" not in path.relative_to(workdir).parts
        and path.stat().st_size
    )


def states(workdir):
    return {str(f.path.relative_to(workdir)): f.state for f in verify_files(workdir)}


def flip(path, chooser):
    content = bytearray(path.read_bytes())
    bit = chooser.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_a_new_workdir_is_sound(workdir):
    found = states(workdir)
    assert set(found.values()) == {"sound"}, found
    listed = {path.relative_to(workdir).as_posix() for path in files_of(workdir)}
    assert listed - found.keys() == {
        path for path in listed if path.startswith("checksums/")
    }  # they are checked with their files


def test_an_old_workdir_is_unknown(fixtures, tmp_path):
    with tarfile.open(fixtures / "before_rooms" / "workdirs.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    found = states(tmp_path / "nest_finished")
    assert found == dict.fromkeys(
        ("DONE", "classes.txt", "config.json", "metrics.jsonl"), "unknown"
    )


def test_one_flip_in_each_file_is_found(workdir):
    """Of every file, also those that nobody reads again."""
    chooser = random.Random(1)
    for path in files_of(workdir):
        before = path.read_bytes()
        flip(path, chooser)
        damaged = [name for name, state in states(workdir).items() if state == "damaged"]
        assert len(damaged) == 1 and path.name.startswith(damaged[0].rpartition("/")[2])
        path.write_bytes(before)
    (workdir / "DONE").unlink()
    assert states(workdir)["checksums/DONE.sha256"] == "damaged"


def known_state(path, kind):
    """Returns what verify says: damaged, but for what nothing else in the workdir tells of."""
    is_events = path.name.startswith("events")
    if kind == "gone" and path.suffix == ".sha256":
        return "unknown"  # a crash between a file and its checksum looks the same
    if kind == "gone" and (is_events or path.suffix == ".png" or path.name == "bad_images.jsonl"):
        return None
    return "unknown" if kind == "empty" and is_events else "damaged"


@pytest.mark.parametrize("kind", KINDS)
def test_verify_names_every_damage(workdir, kind):
    chooser, names = random.Random(6), set()
    for path in files_of(workdir) * (3 if kind == "cut" else 1):
        before, name = path.read_bytes(), path.name.removesuffix(".sha256")
        damage(path, kind, chooser)
        is_empty = path.is_file() and not path.stat().st_size  # also one that was cut
        expected = known_state(path, "empty" if is_empty else kind)
        wrong = {k: state for k, state in states(workdir).items() if state != "sound"}
        assert list(wrong.values()) == ([expected] if expected else []), (path, wrong)
        assert all(name in key for key in wrong)
        if path.is_dir():
            path.rmdir()
        path.write_bytes(before)
        names.add(name)
    assert {"DONE", "config.json", "metrics.jsonl", "saved.json"} <= names
    assert set(states(workdir).values()) == {"sound"}


def test_verify_explains_every_word_that_it_prints(workdir, tmp_path, capsys):
    (tmp_path / "begun").mkdir()
    shutil.copy(workdir / "config.json", tmp_path / "begun")
    damage(workdir / "DONE", "cut", random.Random(8))
    with pytest.raises(ConfigError, match=r"^1 of \d+ damaged$"):
        verify.main(None, [str(workdir), str(tmp_path / "begun")])
    words = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert words == {"sound", "damaged", "unknown", "empty"}
    assert all(f'"{word}"' in verify.__doc__ for word in words)


@pytest.mark.parametrize("name", ["DONE", "config.json", "of_a_later_version"])
def test_a_folder_with_a_checksum_or_a_known_name_is_damaged(workdir, name):
    if name not in ("DONE", "config.json"):
        write_record(workdir / name, "a")
    for _ in range(2):
        damage(workdir / name, "folder", random.Random(7))
        assert states(workdir)[name] == "damaged"
        (workdir / name).rmdir()
        (workdir / name).write_text("{}")
        if name in ("DONE", "config.json"):
            (workdir / "checksums" / f"{name}.sha256").unlink(missing_ok=True)


@pytest.mark.parametrize("is_done", [True, False])
def test_lines_that_are_gone_are_missed(workdir, is_done):
    """The step in saved.json counts on them; that step's own may be missing, of a full disk."""
    if not is_done:
        (workdir / "DONE").unlink()
        (workdir / "checksums" / "DONE.sha256").unlink()
    log = workdir / "metrics.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    order = [(r["step"], r["kind"]) for r in map(json.loads, lines)]
    assert order[-2:] == [(4, "train"), (4, "eval")]
    for number in range(len(lines)):
        log.write_bytes(b"".join(lines[:number]))
        needed = (4, "eval") if is_done else (3, "train")
        expected = "sound" if needed in order[:number] else "damaged"
        assert states(workdir)["metrics.jsonl"] == expected, number
    log.unlink()
    assert states(workdir)["metrics.jsonl"] == "damaged"


@pytest.mark.linux
def test_a_saved_step_has_its_lines_on_the_disk(tmp_path, monkeypatch, compiled_once):
    on_disk, saved, fsync = [], [], os.fsync

    def note(descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)
        if path.name == "metrics.jsonl":
            on_disk[:] = [json.loads(line) for line in path.read_text().splitlines()]
        elif path.name.startswith("saved.json.") and path.name.split(".")[2] != "sha256":
            step = json.loads(path.read_text())["step"]
            saved.append(step)
            assert step is None or step in [r["step"] for r in on_disk if r["kind"] == "train"]

    monkeypatch.setattr(os, "fsync", note)
    runs.train(tmp_path / "run")
    assert saved == [None, 2, 4]


@pytest.mark.faults
def test_no_flip_is_silent(workdir):
    """200 flips, spread over the files by their number and over each by chance."""
    chooser, files = random.Random(2), files_of(workdir)
    for number in range(200):
        path = files[number % len(files)]
        before = path.read_bytes()
        flip(path, chooser)
        assert "damaged" in states(workdir).values(), f"{path}: {before!r}"
        path.write_bytes(before)
    assert set(states(workdir).values()) == {"sound"}


def damage(path, kind, chooser):
    content = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind != "gone":
        size = chooser.randrange(len(content))
        path.write_bytes({"cut": content[:size], "empty": b"", "zeros": bytes(len(content))}[kind])


def use(workdir, capsys):
    """Trains, evaluates, predicts and reports; returns what was said in errors."""
    said = []
    for work in (
        runs.train,
        runs.evaluate,
        lambda workdir: runs.predict(workdir, [workdir.parent / "image.png"]),
        runs.page,
    ):
        try:
            work(workdir)
        except RunError as error:  # anything else fails the test with its traceback
            assert error.exit_code == 2
            assert "\n" not in str(error) and len(str(error)) < 1000
            said.append(str(error))
    capsys.readouterr()
    return said


@pytest.mark.parametrize("name", ["config.json", "DONE", "classes.txt"])
def test_what_cannot_be_repaired_is_named(workdir, name, capsys, compiled_once):
    damage(workdir / name, "cut", random.Random(3))
    said = use(workdir, capsys)
    assert said and all(str(workdir / name) in text for text in said)
    assert runs.report(workdir).problems


def test_what_can_be_repaired_is_and_the_run_goes_on(workdir, capsys, caplog, compiled_once):
    (workdir / "DONE").unlink()
    (workdir / "checksums" / "DONE.sha256").unlink()
    for name in ("metrics.jsonl", "bad_images.jsonl"):
        damage(workdir / name, "zeros", random.Random(4))
    assert use(workdir, capsys) == []
    for name in ("metrics.jsonl", "bad_images.jsonl"):
        said = f"{workdir / name}: line 1 cannot be read and is left out"
        assert caplog.messages.count(said) == 1


def test_damaged_lines_on_a_full_disk_are_one_line(tmp_path, monkeypatch):
    log = BadImagesFile(tmp_path / "bad_images.jsonl")
    for name in ("a", "b"):
        log.append({"split": "train", "index": 3, "name": name, "reason": "it is empty"})
    log.path.write_bytes(b"?" + log.path.read_bytes())

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(RecordError, match="bad_images.jsonl cannot be written: No space left"):
            log.entries()
    assert [entry["name"] for entry in log.entries()] == ["b"]
    log.path.write_bytes(b"?")
    assert log.entries() == [] and not log.path.exists()


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_done", [True, False])
def test_no_damage_ends_in_a_traceback(finished, tmp_path, kind, is_done, capsys, compiled_once):
    """Each file, twice where a cut is by chance: more than 100 in all."""
    chooser = random.Random(5)
    for number, path in enumerate(files_of(finished) * (2 if kind == "cut" else 1)):
        workdir = tmp_path / str(number) / "run"
        shutil.copytree(finished, workdir)
        shutil.copy(finished.parent / "image.png", workdir.parent)
        if not is_done:
            (workdir / "DONE").unlink()
            (workdir / "checksums" / "DONE.sha256").unlink()
        target = workdir / path.relative_to(finished)
        if target.exists():
            damage(target, kind, chooser)
            use(workdir, capsys)
            verify_files(workdir)  # what it says: test_verify_names_every_damage
        shutil.rmtree(workdir)


@pytest.mark.parametrize("how", ["link", "pipe"])
@pytest.mark.parametrize("name", ["config.json", "classes.txt", "DONE"])
def test_links_and_pipes_in_the_place_of_files_are_damage(
    workdir, name, how, capsys, compiled_once
):
    """Nothing waits for a pipe, and a link to something else is not passed over."""
    path = workdir / name
    if how == "link":
        (workdir.parent / "other").write_bytes(b"x" + path.read_bytes())
        path.unlink()
        path.symlink_to(workdir.parent / "other")
    else:
        path.unlink()
        os.mkfifo(path)
    said = use(workdir, capsys)
    assert said and all(str(path) in text for text in said)
    assert {finding.path: finding.state for finding in verify_files(workdir)}[path] == "damaged"


@pytest.mark.parametrize("name", ["saved.json", "metrics.jsonl", "curves.png", ".lock"])
def test_pipes_elsewhere_hold_nothing_up(workdir, name, capsys, compiled_once):
    (workdir / "DONE").unlink()
    (workdir / "checksums" / "DONE.sha256").unlink()
    (workdir / name).unlink(missing_ok=True)
    os.mkfifo(workdir / name)
    use(workdir, capsys)
    found = {finding.path: finding.state for finding in verify_files(workdir)}
    is_pipe = (workdir / name).is_fifo()  # some are written again
    assert found.get(workdir / name, "damaged") == ("damaged" if is_pipe else "sound")


def test_foreign_files_are_not_read(workdir):
    """They may be of any size."""
    with (workdir / "data.bin").open("wb") as file:
        file.truncate(1 << 40)  # no byte of it is on the disk
    assert {f.path.name: f.state for f in verify_files(workdir)}["data.bin"] == "unknown"
