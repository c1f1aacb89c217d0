"""A config beside the one that a run was trained with, written then or by an earlier version."""

import json

import pytest

from harness.errors import ConfigError
from training import experiment
from training.trained_run import check_same_config, note_differences, restore
from workdirs.config_file import write_config


def write_old_config(workdir, config):
    """Writes a config.json that says the same as `config` in other words."""
    plain = experiment.check_config(config)
    del plain["init"], plain["init_from"]
    for section, key in (("optimizer", "b1"), ("task", "ema_warmup"), ("data", "bad_images")):
        del plain[section][key]
    plain["augment"] |= {"flip": None}  # off, as if it were absent
    plain["model"] |= {"gelu": "tanh", "dtype": "float32", "attention": None}  # NesT's own
    workdir.mkdir(exist_ok=True)
    (workdir / "config.json").write_text(json.dumps({"config": plain}))


def notes(workdir, config, capsys):
    note_differences(workdir, config)
    return capsys.readouterr().err.splitlines()


def test_an_old_config_of_the_same_run_has_no_differences(small_config, tmp_path, capsys):
    write_old_config(tmp_path, small_config)
    assert notes(tmp_path, small_config, capsys) == []
    check_same_config(tmp_path, small_config)  # it can go on


def test_each_difference_is_noted_once(small_config, tmp_path, capsys):
    write_old_config(tmp_path, small_config)
    small_config.optimizer.b1 = 0.8
    small_config.model.gelu = "exact"
    small_config.augment.flip = {}
    small_config.data.num_threads = 3  # where it runs, not what it computes
    expected = [
        "note: not as trained: augment.flip.probability: (absent) there, 0.5 now",
        "note: not as trained: model.gelu: (absent) there, 'exact' now",
        "note: not as trained: optimizer.b1: 0.9 there, 0.8 now",
    ]
    assert notes(tmp_path, small_config, capsys) == expected
    with pytest.raises(ConfigError, match="flip.probability.*; model.gelu.*; optimizer.b1"):
        check_same_config(tmp_path, small_config)


def test_a_key_that_no_longer_exists_is_a_difference(small_config, tmp_path, capsys):
    plain = experiment.check_config(small_config)
    plain["task"]["bygone"] = 1
    write_config(tmp_path, plain)
    (line,) = notes(tmp_path, small_config, capsys)
    assert line == "note: not as trained: task.bygone: 1 there, (absent) now"


def test_data_that_has_moved_is_no_other_config(small_config, tmp_path, capsys):
    """The old data_dir need not exist any more for the configs to be compared."""
    small_config.data.update(name="npz:digits.npz", data_dir=str(tmp_path / "gone"))
    plain = experiment.check_config(small_config, needs_data=False)
    write_config(tmp_path, plain)
    small_config.data.data_dir = str(tmp_path)
    assert notes(tmp_path, small_config, capsys) == []


@pytest.mark.parametrize("which", ["latest", "best"])
def test_nothing_to_restore(which, tmp_path):
    for _ in range(2):
        with pytest.raises(ConfigError, match=f"checkpoints/{which}: no finished checkpoint"):
            restore(None, tmp_path, which)
        (tmp_path / "checkpoints" / which).mkdir(parents=True, exist_ok=True)
