"""Data that lie elsewhere now, and workdirs that are no longer there."""

import contextlib
import dataclasses
import errno
import json
import shutil
import time

import numpy as np
import pytest

from data.digest import data_digest, digest_differences
from data.pipeline import Data
from harness.errors import ConfigError
from tests.workdirs import runs
from tests.workdirs.test_paths import write_images
from training import experiment
from workdirs.claims import WorkdirGone


def folder_config(place):
    config = runs.tiny_config(name=f"folder:{place}")
    config.data.update(train_split="train", eval_split="validation")
    return config


def rename(place):
    (place / "b" / "a0.png").rename(place / "b" / "other.png")


def grow(place):
    with (place / "a" / "a3.png").open("ab") as file:
        file.write(b"\0")


def remove(place):
    (place / "b" / "a5.png").unlink()


def swap(place):
    one, other = place / "a" / "a1.png", place / "b" / "a1.png"
    for target in (place / "b" / "new.png", place / "a" / "new.png"):
        (one if target.parent.name == "b" else other).rename(target)


def retitle(place):
    (place / "b").rename(place / "c")


CHANGES = {
    rename: "names",
    grow: "sizes",
    remove: "training images there",
    swap: "names",
    retitle: "class",
}


@pytest.fixture
def run(tmp_path, compiled_once):
    write_images(tmp_path / "data", "a")
    runs.train(tmp_path / "run", folder_config(tmp_path / "data"))
    (tmp_path / "run" / "DONE").unlink()
    shutil.move(tmp_path / "data", tmp_path / "new")
    return tmp_path / "run"


def test_a_run_moves_with_its_data(run, tmp_path, capsys):
    metrics = runs.train(run, folder_config(tmp_path / "new"))
    assert "resuming at step 4" in capsys.readouterr().out
    # evaluate.py finds them, without a flag.
    assert runs.evaluate(run)["loss"] == pytest.approx(metrics["loss"], rel=1e-5)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_other_data_are_refused_in_one_line(run, tmp_path, change):
    change(tmp_path / "new")
    before = (run / "config.json").read_bytes()
    with pytest.raises(ConfigError, match=CHANGES[change]) as error:
        runs.train(run, folder_config(tmp_path / "new"))
    assert "\n" not in str(error.value)
    assert (run / "config.json").read_bytes() == before


def empty(place):
    (place / "a" / "a0.png").write_bytes(b"")  # the first record, whose contents are looked at


@pytest.mark.parametrize("change", [empty, *CHANGES], ids=lambda change: change.__name__)
def test_data_that_lie_where_they_did(tmp_path, change, capsys, compiled_once):
    """One image that has become unreadable ends no run with bad_images=replace."""
    write_images(tmp_path / "data", "a")
    config = folder_config(tmp_path / "data")
    config.data.bad_images = "replace"
    runs.train(tmp_path / "run", config)
    (tmp_path / "run" / "DONE").unlink()
    change(tmp_path / "data")
    if change in (empty, grow):
        capsys.readouterr()
        assert "loss" in runs.train(tmp_path / "run", config)
        assert "note: " in (said := capsys.readouterr().err) and "sizes" in said
    else:
        with pytest.raises(ConfigError, match=CHANGES[change]):
            runs.train(tmp_path / "run", config)


def test_unreadable_records_do_not_count_in_a_digest(tmp_path, monkeypatch):
    write_images(tmp_path / "data", "a")
    options = {"image_size": 8, "batch_size": 8, "eval_batch_size": 8}
    options |= {"train_split": "train", "eval_split": "validation"}
    data = Data(name=f"folder:{tmp_path / 'data'}", **options).open()
    one, inner = data_digest(data), type(data.train_source)
    get, left = inner.__getitem__, [2]

    def failing(source, index):
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.EIO, "Input/output error")
        return get(source, index)

    monkeypatch.setattr(inner, "__getitem__", failing)
    other = data_digest(data)
    assert other["train"]["contents"].split()[1] == "-" and other["train"]["records"] == len(
        data.train_source
    )
    assert digest_differences(one, other) == digest_differences(other, one) == []
    several = other["train"]["contents"].split()
    other["train"]["contents"] = " ".join([*several[:2], "0" * 16, *several[3:]])
    assert digest_differences(one, other) == ["train: other contents"]
    assert digest_differences(one, other, of_files=False) == []


def test_another_kind_of_data_and_old_runs_are_refused(run, tmp_path):
    np.savez(tmp_path / "a.npz", train_images=0)
    config = folder_config(tmp_path / "new")
    config.data.name = f"npz:{tmp_path / 'a.npz'}"
    with pytest.raises(ConfigError, match="was made with another config: data.name"):
        runs.train(run, config)
    record = json.loads((run / "config.json").read_text())
    del record["data_digest"]
    (run / "config.json").write_text(json.dumps(record))
    shutil.rmtree(run / "checksums")
    with pytest.raises(ConfigError, match="was made with another config: data.name"):
        runs.train(run, folder_config(tmp_path / "new"))


def npz_data(path, seed):
    rng = np.random.default_rng(seed)
    np.savez(
        path,
        train_images=rng.integers(0, 256, (40, 8, 8, 1), np.uint8),
        train_labels=np.arange(40) % 4,
        test_images=np.zeros((4, 8, 8, 1), np.uint8),
        test_labels=np.arange(4),
    )
    options = {"image_size": 8, "batch_size": 8, "eval_batch_size": 8}
    return data_digest(Data(name=f"npz:{path}", **options).open())


def test_digests_of_npz_files(tmp_path):
    one = npz_data(tmp_path / "a.npz", 0)
    assert json.loads(json.dumps(one)) == one == npz_data(tmp_path / "b.npz", 0)
    assert digest_differences(one, one) == []
    other = npz_data(tmp_path / "a.npz", 1)
    assert digest_differences(one, other) == ["train: other contents"]
    assert digest_differences({}, other) == []  # of earlier versions


def put_back_from(elsewhere, workdir):
    """Renames a folder, out of whose place goes what a save in the background makes there."""
    for number in range(100):
        with contextlib.suppress(OSError):
            if workdir.exists():
                workdir.rename(workdir.with_name(f"aside_{number}"))
            elsewhere.rename(workdir)
            return
        time.sleep(0.05)
    raise AssertionError(f"{workdir} is made again and again")


@pytest.mark.parametrize("put_back", [False, True], ids=["gone", "another there"])
def test_a_workdir_that_vanishes_ends_the_run(tmp_path, monkeypatch, put_back, compiled_once):
    build = experiment.build
    workdir, count = tmp_path / "run", []

    def build_and_remove(config, **options):
        run = build(config, **options)

        def step(*args):
            count.append(1)
            if len(count) == 3:  # after the first evaluation
                workdir.rename(tmp_path / "elsewhere")
                if put_back:
                    workdir.mkdir()
            return run.train_step(*args)

        return dataclasses.replace(run, train_step=step)

    monkeypatch.setattr(experiment, "build", build_and_remove)
    with pytest.raises(WorkdirGone) as error:
        runs.train(workdir)
    assert str(workdir) in str(error.value) and "\n" not in str(error.value)
    assert error.value.exit_code == 2
    assert not (workdir / "DONE").exists() and not (workdir / "config.json").exists()
    # Put back, the run goes on.
    monkeypatch.setattr(experiment, "build", build)
    put_back_from(tmp_path / "elsewhere", workdir)
    assert "loss" in runs.train(workdir)


def test_a_workdir_without_its_config_is_refused(tmp_path):
    for name in ("metrics.jsonl", "DONE", "checkpoints"):
        (tmp_path / name).mkdir() if name == "checkpoints" else (tmp_path / name).write_text("")
        with pytest.raises(ConfigError, match="holds a run without its config.json"):
            runs.train(tmp_path)
        if name != "checkpoints":
            (tmp_path / name).unlink()
