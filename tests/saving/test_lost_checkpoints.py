"""A run whose checkpoints are gone does not start over by itself."""

import json
import shutil

import pytest

import train
from harness.errors import ConfigError, Interrupted
from saving.checkpoints import Checkpoints
from saving.verification import verify_checkpoints
from tests.training.test_resume import kill_when
from workdirs.progress import read_saved

pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    cache = {}

    def get(config):
        if not cache:
            cache["workdir"] = tmp_path_factory.mktemp("interrupted")
            with pytest.MonkeyPatch.context() as patch:
                kill_when(patch, "step", 8)
                with pytest.raises(Interrupted):
                    train.train_and_evaluate(config, cache["workdir"])
        return cache["workdir"]

    return get


def damage_all(workdir):
    for file in workdir.glob("checkpoints/latest/*/state/_METADATA"):
        file.write_bytes(b"")


def move_latest(workdir):
    shutil.move(workdir / "checkpoints" / "latest", workdir.parent / "elsewhere")


def empty_checkpoints(workdir):
    shutil.rmtree(workdir / "checkpoints")
    (workdir / "checkpoints").mkdir()


def empty_latest(workdir):
    shutil.rmtree(workdir / "checkpoints" / "latest")
    (workdir / "checkpoints" / "latest").mkdir()


def as_an_earlier_version(workdir):
    (workdir / "saved.json").unlink()
    empty_latest(workdir)


def damaged_record(workdir):
    (workdir / "saved.json").write_bytes(b"\xff")
    empty_latest(workdir)


@pytest.mark.parametrize(
    "lose",
    [
        *[damage_all, move_latest, empty_checkpoints, empty_latest],
        *[as_an_earlier_version, damaged_record],
    ],
)
def test_absence_is_no_beginning(small_config, interrupted, tmp_path, lose):
    workdir = tmp_path / "run"
    shutil.copytree(interrupted(small_config), workdir)
    lose(workdir)
    log = (workdir / "metrics.jsonl").read_text()
    for attempt in range(3):
        with pytest.raises(ConfigError) as error:
            train.train_and_evaluate(small_config, workdir)
        assert error.value.exit_code == 2
        if attempt or lose is not damage_all:
            assert "--restart" in str(error.value)
        assert (workdir / "metrics.jsonl").read_text() == log
    assert "damaged" in {finding.state for finding in verify_checkpoints(workdir)}


def test_restart_begins_anew_and_keeps_the_old(small_config, interrupted, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(interrupted(small_config), workdir)
    old = (workdir / "metrics.jsonl").read_text()
    empty_checkpoints(workdir)
    metrics = train.train_and_evaluate(small_config, workdir, restart=True)
    assert "starts over; what was there is now in" in capsys.readouterr().out
    (aside,) = workdir.glob("before_restart_*")
    assert (aside / "metrics.jsonl").read_text() == old and (aside / "config.json").exists()
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    assert records[0]["step"] == 1 and records[-1]["step"] == 20
    shutil.rmtree(workdir / "checkpoints" / "latest")  # to make room: it is finished all the same
    assert train.train_and_evaluate(small_config, workdir) == metrics
    assert "has no checkpoint any more" in capsys.readouterr().err


def test_restart_of_a_sound_run(small_config, interrupted, tmp_path, monkeypatch):
    """Nothing is deleted; another config may begin there."""
    workdir = tmp_path / "run"
    shutil.copytree(interrupted(small_config), workdir)
    small_config.seed = 3
    with pytest.raises(ConfigError, match="another config"):
        train.train_and_evaluate(small_config, workdir)
    kill_when(monkeypatch, "step", 2)
    with pytest.raises(Interrupted, match="saved step 2"):
        train.train_and_evaluate(small_config, workdir, restart=True)
    (aside,) = (workdir / "checkpoints").glob("before_restart_*")
    assert {path.name for path in (aside / "latest").iterdir()} == {"7", "8"}
    assert read_saved(workdir) == 2


def test_a_wrong_config_moves_nothing(small_config, interrupted, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(interrupted(small_config), workdir)
    small_config.data.train_split = "train[:0]"
    with pytest.raises(ConfigError):
        train.train_and_evaluate(small_config, workdir, restart=True)
    assert not list(workdir.glob("**/before_restart_*"))


def test_stopped_before_the_first_save(small_config, tmp_path, monkeypatch):
    """It has logged metrics, but has nothing to lose."""

    def fail(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", fail)
        patch.setattr(Checkpoints, "save_best", fail)
        with pytest.raises(KeyboardInterrupt):
            train.train_and_evaluate(small_config, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text()
    assert read_saved(tmp_path) is None
    assert verify_checkpoints(tmp_path) == []
    kill_when(monkeypatch, "step", 4)
    with pytest.raises(Interrupted, match="saved step 4"):
        train.train_and_evaluate(small_config, tmp_path)
    assert read_saved(tmp_path) == 4
