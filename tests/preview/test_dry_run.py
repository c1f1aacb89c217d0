"""--dry_run: what it says is what a run is, and it leaves nothing behind."""

import re

import jax
import pytest

import train
from harness.errors import ConfigError
from preview.dry_run import dry_run
from training import experiment
from zoo.released.table import RELEASED

SMALL = ("--config=configs/digits_nest.py:debug", "--config.mesh.data=1")


def shown(text):
    """Returns the lines by their first word; of several notes the last."""
    return dict(re.split(" {2,}", line, maxsplit=1) for line in text.splitlines())


def test_what_it_says(run_script, tmp_path):
    """The numbers by hand: AdamW and a moving average keep three more floats a parameter."""
    workdir = tmp_path / "run"
    code, stdout, stderr = run_script("train.py", *SMALL, "--dry_run", f"--workdir={workdir}")
    assert (code, stderr) == (0, "") and not workdir.exists()
    lines = shown(stdout)
    assert lines["recipe"] == "configs/digits_nest.py:debug"
    assert lines["steps"].startswith("8 of 96 images, 2.0 an epoch; logs every 2, ")
    assert lines["data"] == "192 images of digits train[:192], 10 classes, 16 x 16 x 1"
    assert lines["model"] == "nest_tiny_s16_32: 255,562 parameters"
    assert f"state {4 * 4 * 255_562 / 2**20:.1f} MiB" in lines["memory"]
    assert f"gradients {4 * 255_562 / 2**10:.1f} KiB" in lines["memory"]
    assert f"images {96 * 16 * 16 / 2**10:.1f} KiB" in lines["memory"]
    assert "image uint8 [96, 16, 16, 1], label int32 [96]" in lines["first batch"]
    assert lines["compiled"].startswith("no; --dry_run=compile")


def test_the_first_batch_is_the_run_s(small_config, capsys):
    dry_run("small", small_config, compiled=False)
    said = shown(capsys.readouterr().out)["labels"]
    batch = next(experiment.build(small_config).data.train_batches())
    assert said == ", ".join(str(label) for label in batch["label"][:5].tolist()) + ", ..."


def test_weights_by_name_are_not_downloaded(run_script, monkeypatch, tmp_path):
    monkeypatch.setenv("NEST_TNT_WEIGHTS_DIR", str(tmp_path / "cache"))
    name = "nest_tiny_s196_224.timm"
    code, stdout, stderr = run_script("train.py", *SMALL, "--dry_run", f"--config.init_from={name}")
    assert (code, stderr) == (0, "") and not (tmp_path / "cache").exists()
    size = RELEASED[name].files[0].size
    assert f"weights {name} are not here yet: a run downloads them first ({size})" in stdout
    assert "first batch" in shown(stdout)


def kept(config, capsys):
    dry_run("small", config, compiled=False)
    size, unit = re.search(
        r"kept for the backward pass ([\d.]+) (\w+)", capsys.readouterr().out
    ).groups()
    return float(size) * {"KiB": 1, "MiB": 1024}[unit]


def test_each_device_keeps_what_it_computes_at_once(small_config, capsys):
    whole = kept(small_config, capsys)
    small_config.task.accumulation_steps = 2
    assert kept(small_config, capsys) == pytest.approx(whole / 2, rel=0.02)
    small_config.mesh.data = 4
    assert kept(small_config, capsys) == pytest.approx(whole / 8, rel=0.05)


def test_compiled(run_script):
    code, stdout, _ = run_script("train.py", *SMALL, "--dry_run=compile")
    said = shown(stdout)["compiled"]
    assert code == 0 and re.match(r"in [\d.]+ s; [\d.]+ MiB a device", said)
    # Arguments: the state, and a batch of images, labels and a mask.
    size = (16 * 255_562 + 96 * (16 * 16 + 4 + 4)) / 2**20
    assert f"state and batch {size:.1f} MiB" in said


def test_a_gan(run_script):
    code, stdout, _ = run_script(
        "train.py", "--config=configs/digits_nest_gan.py:debug", "--dry_run"
    )
    lines = shown(stdout)
    assert code == 0 and "what the backward pass needs is not estimated" in lines["memory"]
    assert re.fullmatch(r"[\d.]+ M an image, of a whole step", lines["multiply-adds"])


def test_it_says_what_training_would(run_script, small_config, tmp_path):
    for flag, message in {
        "--config.data.batch_size=7": "config.data.batch_size",
        "--config.data.name=folder:/nowhere": "/nowhere",
        f"--config.init_from={tmp_path}": str(tmp_path),
    }.items():
        code, _, stderr = run_script(
            "train.py", "--config=configs/digits_nest.py:debug", "--dry_run", flag
        )
        assert code == 2 and message in stderr and len(stderr.splitlines()) == 1
    small_config.checkpoint.best_metric = "f1"
    with pytest.raises(ConfigError, match="best_metric"):
        dry_run("small", small_config, compiled=False)


def test_the_table_of_parameters(small_config, tmp_path, capsys):
    """In a file; on the console one line, and the table if it is asked for, also when resuming."""
    small_config.loop.num_epochs, small_config.optimizer.warmup_epochs = 1.0, 0.0
    train.train_and_evaluate(small_config, tmp_path / "run")
    said = capsys.readouterr().out
    table = (tmp_path / "run" / "parameters.txt").read_text()
    shapes = experiment.build(small_config).task.parameters(experiment.build(small_config).shapes)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert f"Total: {count:,}" in table and "head/kernel" in table
    assert f"{count:,} of {count:,} parameters are trained; see parameters.txt" in said
    assert "head/kernel" not in said
    (tmp_path / "run" / "DONE").unlink()
    train.train_and_evaluate(small_config, tmp_path / "run", print_parameters=True)
    assert table.strip() in capsys.readouterr().out
