"""Every name that a file system allows: train, resume, evaluate, predict, report."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.errors import Interrupted
from process.identity import started
from tests.workdirs import runs
from training import running
from workdirs.plain_path import plain_path
from workdirs.verification import verify_files

NAMES = [
    *("dims=[16,16]", "a b", "trailing ", " leading", "#1", "100%", "%20", "a?b", "a&b", "k=v"),
    *("'", '"', "{a}", "(a)", "*", "[!a]", "**", "-x", "--", "~", "a~b", "a\\b", "$HOME", "`id`"),
    *("a\nb", "\t", "a\x1b[31mb", "a\x7fb", "ä漢🙂", "a;b", "a|b", "<b>", "a:b", "gs:", "x" * 200),
    os.fsdecode(b"\xff\xfe"),
]
SHORT = ["dims=[16,16] *?", os.fsdecode(b"a\\b\xff\n\x1b[31m gs:")]


def write_images(folder, name):
    """Writes a folder of images whose files and one of whose classes have this name."""
    rng = np.random.default_rng(0)
    for kind in (f"{name}", "b"):
        (folder / kind).mkdir(parents=True)
        for number in range(9):
            image = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(image).save(folder / kind / f"{name[:100]}{number}.png")


def interrupted(workdir, config, patch):
    """Trains until the first evaluation."""
    original = running.evaluate

    def evaluate(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*args, **kwargs)

    with patch.context() as context, pytest.raises(Interrupted):
        context.setattr(running, "evaluate", evaluate)
        runs.train(workdir, config)


def round_trip(tmp_path, name, patch, capsys):
    workdir = tmp_path / name
    images = tmp_path / f"data {name}"[:200]
    # Names of classes with a line end, and blank ones, are refused in one line.
    class_name = name.replace("\n", "_") if name.strip() else "a"
    write_images(images, class_name)
    config = runs.tiny_config(name=f"folder:{images}")
    config.data.update(train_split="train", eval_split="validation")
    interrupted(workdir, config, patch)
    capsys.readouterr()
    metrics = runs.train(workdir, config)
    assert "resuming at step 2" in capsys.readouterr().out
    found = runs.evaluate(workdir)
    assert found["loss"] == pytest.approx(metrics["loss"], rel=1e-5)
    files = sorted((images / "b").iterdir())
    answers = runs.predict(workdir, files)
    assert [answer.path for answer in answers] == files
    assert not any(answer.problem for answer in answers)
    record = runs.report(workdir)
    assert record.status == "done" and record.problems == []
    assert set(record.class_names) == {class_name, "b"}
    # What was written lies in the folder itself.
    names = {path.name for path in (workdir / "checkpoints" / "latest").iterdir()}
    assert "4" in names


@pytest.mark.parametrize("name", SHORT, ids=ascii)
def test_odd_paths(name, tmp_path, monkeypatch, capsys, compiled_once):
    round_trip(tmp_path, name, monkeypatch, capsys)


@pytest.mark.faults
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_all_odd_paths(name, tmp_path, monkeypatch, capsys, compiled_once):
    round_trip(tmp_path, name, monkeypatch, capsys)


@pytest.mark.faults
@pytest.mark.parametrize("name", SHORT, ids=ascii)
def test_odd_paths_on_the_command_line(name, tmp_path, run_script):
    """Also as values of flags and of the config, and as what is printed."""
    workdir, images = tmp_path / name, tmp_path / f"-data {name}"
    write_images(images, name.replace("\n", "_"))
    changes = [f"--config.data.name=folder:{images}", "--config.data.batch_size=8"]
    changes += ["--config.data.train_split=train", "--config.data.eval_split=validation"]
    changes += ["--config.data.eval_batch_size=8", "--config.loop.num_epochs=2.0"]
    arguments = ["--config=configs/digits_nest.py:debug", f"--workdir={workdir}", *changes]
    for _ in range(2):
        code, out, err = run_script("train.py", *arguments)
        assert code == 0, err
    assert "is finished" in out
    image = next((images / "b").iterdir())
    for script, more in {
        "evaluate.py": [f"--workdir={workdir}", "--per_class"],
        "tools/predict.py": [f"--workdir={workdir}", "--", str(image)],
        "tools/report.py": [str(workdir)],
    }.items():
        code, out, err = run_script(script, *more)
        assert code == 0, err
        assert all(c.isprintable() or c in "\n\t" for c in out + err)
    assert {finding.state for finding in verify_files(workdir)} == {"sound"}


def test_a_plain_path_is_the_same_folder(tmp_path):
    odd = tmp_path / "a[1]" / "b*" / "c"
    odd.mkdir(parents=True)
    plain = plain_path(odd / "d")
    assert plain.parent.samefile(odd) and not set("*?[]\\") & set(str(plain))
    plain.write_text("x")
    plain.rename(plain.with_name("e"))
    assert (odd / "e").read_text() == "x"
    assert plain_path(odd / "f").parent == plain.parent  # one link, also of what comes later
    assert plain_path(tmp_path / "a b=1,2") == tmp_path / "a b=1,2"
    shutil.rmtree(tmp_path / "a[1]")
    assert not plain.parent.exists()


@pytest.mark.parametrize("kind", ["gone", "a folder", "another link", "empty"])
def test_a_link_that_is_no_longer_one_is_made_again(tmp_path, kind):
    odd = tmp_path / "a[1]"
    odd.mkdir()
    link = plain_path(odd)
    link.unlink()
    if kind == "gone":
        link.parent.rmdir()
    elif kind == "a folder":  # that something has written to meanwhile
        link.mkdir()
    elif kind == "another link":
        link.symlink_to(tmp_path)
    (plain_path(odd) / "x").touch()
    assert (odd / "x").exists() and plain_path(odd).is_symlink()
    shutil.rmtree(link.parent, ignore_errors=True)


_KILLED = """
import os, pathlib, signal, sys
from workdirs.plain_path import plain_path
print(plain_path(pathlib.Path(sys.argv[1], "a[1]")), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.linux
def test_links_of_killed_processes_go_with_the_next(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    command, root = [sys.executable, "-c", _KILLED, tmp_path], Path(__file__).parents[2]
    left = Path(subprocess.run(command, cwd=root, capture_output=True, text=True).stdout.strip())
    assert left.is_symlink()
    # A process that lives, one of another machine, and a killed one's where data were written.
    others = [f"{left.parent.name.split('-')[0]}-{os.getpid()}-{started(os.getpid())}_a"]
    others += [f"workdir_00000000-{left.parent.name.split('-', 1)[1]}", "workdir_of_a_person"]
    for name in others:
        (tmp_path / name).mkdir()
        (tmp_path / name / "link").symlink_to(tmp_path)
    data = left.parent.with_name(f"{left.parent.name}b") / "link"
    data.mkdir(parents=True)
    plain_path(tmp_path / "b[1]")
    assert not left.parent.exists() and data.is_dir()
    assert all((tmp_path / name / "link").is_symlink() for name in others)
