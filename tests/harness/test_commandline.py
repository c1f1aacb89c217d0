"""Wrong input: one clear line, exit code 2, nothing written. A NaN: exit code 3."""

import json
import re
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import CheckpointManager
from tensorboardX.proto import event_pb2

import train
from harness.errors import ConfigError, NonFiniteError
from saving.checkpoints import Checkpoints
from tasks import classification
from training import experiment
from workdirs.results import read_metrics

ROOT = Path(__file__).parents[2]


def start(script, *arguments):
    process = subprocess.run(
        [sys.executable, script, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    return process.returncode, process.stdout, process.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/digits_nest.py"], "--workdir=FOLDER"),
        (["--config=configs/digit_nest.py"], r"no such file.*did you mean configs/digits_nest\.py"),
        (["--config=configs/digits_nest.py:tiny"], "'tiny' is unknown; allowed: .*debug"),
        (
            ["--config=configs/digits_nest.py", "--config.optimiser.base_lr=1", "--workdir=W"],
            "optimizer",
        ),
        (
            ["--config=configs/digits_nest.py", "--config.optimizer.base_lr=fast", "--workdir=W"],
            "fast",
        ),
        (
            ["--config=configs/digits_nest.py", "--config.augmant.flip=None", "--workdir=W"],
            "augment",
        ),
        (["--config=configs/digits_nest.py", "--config.seed.x=1"], "config.seed=0: has no keys"),
        (["--workdir=W", "--config.seed=1"], "--config.seed needs --config=FILE.py"),
        (["--config=configs/digits_nest.py", "--wrkdir=x"], "wrkdir"),
        (["configs/digits_nest.py"], "unexpected argument"),
        (
            ["--config=configs/digits_nest.py", "--config.optimizer.base_lrr=1", "--workdir=W"],
            "config.optimizer.base_lrr: unknown; did you mean 'base_lr'",
        ),
    ],
)
def test_wrong_command_lines(tmp_path, run_script, arguments, message):
    workdir = tmp_path / "run"
    arguments = [a.replace("--workdir=W", f"--workdir={workdir}") for a in arguments]
    code, stdout, stderr = run_script("train.py", *arguments)
    assert code == 2
    assert stdout == ""
    (line,) = stderr.strip().splitlines()
    assert line.startswith("train.py: ")
    assert re.search(message, line), line
    assert not workdir.exists()


CHANGES = [
    (
        "model.name",
        "nest_tini_s16_32",
        "^config.model.name='nest_tini_s16_32': .*mean 'nest_tiny_s16_32'",
    ),
    ("model.dimms", (8, 8), "^config.model.dimms: unknown; did you mean 'dims'"),
    ("model.num_classes", 7, "config.model.num_classes=7: leave it out"),
    ("model.name", {}, "^config.model.name={}: unknown; allowed: .*nest_tiny_s16_32"),
    ("model.name", [3], r"^config.model.name=[(\[]3,?[)\]]: unknown; allowed: "),
    (
        "model.gelu",
        "exct",
        "^config.model.gelu='exct': unknown; did you mean 'exact'. allowed: tanh, exact$",
    ),
    ("model.patch_size", 0, "^config.model.patch_size=0: wrong; allowed: a positive integer"),
    ("model.num_heads", (3, 3), "^config.model.num_heads=3: does not divide dims=16"),
    ("model.aggregation", "pool", "conv_norm_maxpool"),
    ("model.dtype", "float8", "^config.model.dtype='float8': unknown; .*bfloat16"),
    ("data.name", "mnist", "digits"),
    (
        "data.image_size",
        9,
        r"^config.data.image_size=\(9, 9\): does not fit; .*nearest height: 8 or 10",
    ),
    ("data.train_split", "training", "training.*train, test"),
    ("data.batchsize", 3, "did you mean 'batch_size'"),
    ("data.batch_size", 3.5, "config.data.batch_size=3.5: of type float; allowed: int"),
    ("data.batch_size", True, "type bool; allowed: int"),
    ("optimizer.decay_exclude", 3, "type int; allowed: tuple"),
    ("optimizer.decay_exclude", ("(",), "decay_exclude=.*: no regular expression: "),
    ("optimizer.decay_exclude", ("_positon/",), "matches no parameter"),
    ("optimizer.weight_decay", float("nan"), "weight_decay=nan"),
    ("optimizer.reference_batch", -256, "reference_batch=-256"),
    ("model.qkv_bias", "no", "^config.model.qkv_bias='no': of type str; allowed: bool"),
    ("task.accumulation_steps", 5, "batch_size=32: .*accumulation_steps=5 .*allowed: multiples"),
    ("loop.num_epochs", float("inf"), "num_epochs=inf"),
    ("data.process_index", 0, "config.data.process_index: unknown"),
    ("optimizer.schedule", "step", "schedule='step'.*cosine.*linear.*constant"),
    ("optimizer.warmup_epochs", -1.0, "warmup_epochs"),
    ("augment.random_afine", {}, "random_affine"),
    ("augment.random_affine.max_shift", 1.0, "max_shift_pixels"),
    ("task.name", "captioning", "config.task.name='captioning': unknown; .*classification"),
    ("task.name", [3], r"config.task.name=.3.: unknown; allowed: classification, .*gan"),
    ("task.label_smoothing", 1.0, "label_smoothing=1.0: out of range; allowed: .* below 1"),
    ("task.ema_decay", 1.5, "ema_decay=1.5: out of range; allowed: at least 0 and below 1"),
    ("task.model", "x", "config.task.model: unknown"),
    ("loop.num_epochs", 0.0, "config.loop.num_epochs=0.0: out of range; allowed: above 0"),
    ("checkpoint.best_metric", "f1", "'f1': unknown; allowed: loss, top1_accuracy"),
    (
        "checkpoint.best_mode",
        "median",
        "best_mode='median': unknown; .*allowed: max, min",
    ),
    ("mesh.data", 7, "config.data.batch_size=32: .*multiples of 7"),
    ("mesh.fdsp", 2, "did you mean 'fsdp'"),
    ("seed", -1, "seed=-1"),
    ("sead", 1, "did you mean 'seed'"),
]


@pytest.mark.parametrize(("key", "value", "message"), CHANGES)
def test_wrong_configs(small_config, tmp_path, key, value, message):
    *sections, last = key.split(".")
    section = small_config
    for name in sections:
        section = section[name]
    with section.ignore_type():
        section[last] = value
    with pytest.raises(ConfigError, match=message) as error:
        train.train_and_evaluate(small_config, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_workdir_that_cannot_be(small_config, tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="file"):
            train.train_and_evaluate(small_config, path)


def test_missing_keys(small_config, tmp_path):
    del small_config.optimizer.base_lr
    with pytest.raises(ConfigError, match="config.optimizer: missing base_lr"):
        train.train_and_evaluate(small_config, tmp_path / "run")
    del small_config.mesh
    with pytest.raises(ConfigError, match="config: missing mesh"):
        train.train_and_evaluate(small_config, tmp_path / "run")


def test_workdir_of_another_config(small_config, tmp_path):
    small_config.loop.num_epochs = 1.0
    small_config.optimizer.warmup_epochs = 0.0
    train.train_and_evaluate(small_config, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    small_config.optimizer.base_lr = 0.5
    small_config.model.dims = (8, 32)
    with pytest.raises(ConfigError) as error:
        train.train_and_evaluate(small_config, tmp_path)
    assert "model.dims: [16, 32] there, [8, 32] now" in str(error.value)
    assert "optimizer.base_lr: 0.01 there, 0.5 now" in str(error.value)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    (tmp_path / "config.json").unlink()
    with pytest.raises(ConfigError, match="without its config.json"):
        train.train_and_evaluate(small_config, tmp_path)


def test_finished_run_does_nothing(small_config, tmp_path, capsys):
    small_config.loop.num_epochs = 1.0
    small_config.optimizer.warmup_epochs = 0.0
    metrics = train.train_and_evaluate(small_config, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    capsys.readouterr()
    assert train.train_and_evaluate(small_config, tmp_path) == metrics
    assert "is finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def finite_checkpoints(config, workdir):
    """Returns the steps of all checkpoints, after making sure that each is finite."""
    run = experiment.build(config)
    steps = []
    for which in ("latest", "best"):
        with CheckpointManager(workdir / "checkpoints" / which) as manager:
            available = manager.all_steps()
        if not available:
            continue
        with Checkpoints(workdir=workdir, read_only=True) as saved:
            step, state, _ = saved.restore(run.shapes, which)
        chex.assert_tree_all_finite(state)
        steps.append(step)
    return steps


@pytest.mark.parametrize(
    ("poison", "log_every"),  # with 100 the evaluation of step 15 comes first, or a save
    [
        ("parameters", 100),
        pytest.param("loss", 3, marks=pytest.mark.slow),
        pytest.param("loss", 100, marks=pytest.mark.slow),
        pytest.param("parameters", 3, marks=pytest.mark.slow),
    ],
)
def test_not_a_number(small_config, tmp_path, monkeypatch, poison, log_every):
    """From step 15 on; checkpoints are due at 7, 14 and 20, evaluations at 15 and 20."""
    small_config.loop.log_every_steps = log_every
    original = classification.Classification.train_step

    def train_step(self, state, *inputs):
        after, metrics = original(self, state, *inputs)
        bad = jnp.where(state.step >= 14, jnp.nan, 0.0)
        if poison == "loss":
            return after, metrics | {"loss": metrics["loss"] + bad}
        return after.replace(params=jax.tree.map(lambda x: x + bad, after.params)), metrics

    monkeypatch.setattr(classification.Classification, "train_step", train_step)
    with pytest.raises(NonFiniteError, match="loss=nan|non-finite") as error:
        train.train_and_evaluate(small_config, tmp_path)
    assert error.value.exit_code == 3
    assert not (tmp_path / "DONE").exists()
    assert finite_checkpoints(small_config, tmp_path)[0] == 14
    for line in (tmp_path / "metrics.jsonl").open():
        assert "NaN" not in line
    # The same command resumes at step 14 and stops again: nothing was spoilt.
    with pytest.raises(NonFiniteError):
        train.train_and_evaluate(small_config, tmp_path)
    monkeypatch.setattr(classification.Classification, "train_step", original)
    train.train_and_evaluate(small_config, tmp_path)
    records = read_metrics(tmp_path).sound
    assert [r["step"] for r in records if r["kind"] == "eval"] == [5, 10, 15, 20]


def test_a_loss_that_explodes_by_itself(run_script, tmp_path):
    """No poison: a learning rate far too high for float32."""
    code, _, stderr = run_script(
        "train.py",
        "--config=configs/digits_nest.py:debug",
        f"--workdir={tmp_path / 'run'}",
        "--config.mesh.data=1",
        "--config.model.dims=(16,16,16)",
        "--config.optimizer.base_lr=1e38",
        "--config.loop.num_epochs=20.0",
    )
    assert code == 3
    assert "train.py: " in stderr.strip().splitlines()[-1]
    assert not (tmp_path / "run" / "DONE").exists()


def test_a_run_from_the_command_line(tmp_path):
    """Train, evaluate as a script; what a person sees and what is written."""
    workdir = tmp_path / "a run"
    code, stdout, _ = start(
        "train.py",
        "--config=configs/digits_nest.py:debug",
        f"--workdir={workdir}",
        "--config.model.depths=(1,1,1)",
        "--config.model.dims=(16,16,16)",
        "--config.augment.random_affine=None",
        "--config.mesh.data=1",
    )
    assert code == 0
    for words in ("see parameters.txt", "mesh data 1 x fsdp 1", "images/s", "left)"):
        assert words in stdout
    table = (workdir / "parameters.txt").read_text()
    for words in ("patch_embedding/kernel", "Total: "):
        assert words in table and words not in stdout
    last = [line for line in stdout.splitlines() if line.startswith("done after")][-1]
    assert re.search(r"test loss [\d.]+  top1_accuracy [\d.]+%", last)
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((workdir / "config.json").read_text())
    assert record["config"]["model"]["depths"] == [1, 1, 1]
    assert record["config"]["augment"]["random_affine"] is None
    assert {"git_commit", "versions", "devices"} <= record.keys()
    logged = read_metrics(workdir).sound
    (events,) = (workdir / "tensorboard").iterdir()
    assert set(tensorboard_scalars(events)) >= {
        (f"{r['kind']}/loss", r["step"], np.float32(r["loss"])) for r in logged
    }

    code, stdout, _ = start("evaluate.py", f"--workdir={workdir}", "--split=test[:50%]")
    assert code == 0
    (line,) = stdout.splitlines()
    assert json.loads(line)["num_examples"] == 180
    assert (workdir / "evaluation_latest_test_-50p.json").read_text() == line + "\n"


def tensorboard_scalars(path):
    """Reads an event file: length, checksum, event, checksum, as the TFRecord format says."""
    content = path.read_bytes()
    while content:
        size = int.from_bytes(content[:8], "little")
        event = event_pb2.Event.FromString(content[12 : 12 + size])
        content = content[16 + size :]
        for value in event.summary.value:
            yield value.tag, event.step, np.float32(value.simple_value)


def test_evaluate_script(run_script, tmp_path):
    code, _, stderr = run_script("evaluate.py", "--split=test")
    assert (code, len(stderr.strip().splitlines())) == (2, 1)
    code, _, stderr = run_script("evaluate.py", f"--workdir={tmp_path}")
    assert code == 2 and "not the folder of a run" in stderr
    code, _, stderr = run_script(
        "evaluate.py", "--config=configs/digits_nest.py", f"--weights={tmp_path}"
    )
    assert code == 2 and str(tmp_path) in stderr
