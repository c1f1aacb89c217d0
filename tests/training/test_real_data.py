"""Every recipe, whole, on a folder of photographs; digits as files; runs that meet bad images."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_sample_image

import train
from configs import digits_nest
from data import loading
from data.bad_images import BadImages
from data.sources import arrays
from evaluate import evaluate_workdir
from harness.errors import BadImage, ConfigError
from tests.configs.test_recipes import get_config
from training import experiment
from training.evaluation import evaluate
from workdirs.config_file import read_config
from workdirs.results import BadImagesFile, read_metrics

ROOT = Path(__file__).parents[2]
RECIPES = (
    "cifar_nest",
    "cifar_deit",
    "cifar_wrn",
    "imagenet_nest",
    "imagenet_tnt",
    "imagenet_deit",
    "imagenet_resnet50",
)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Parts of two photographs as JPEGs, in two classes, 20 for training and 5 for validation."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 5)):
        for index in range(count):
            name = ("china", "flower")[index % 2]
            image = load_sample_image(f"{name}.jpg")
            top, left = rng.integers(0, 200, 2)
            path = folder / split / name / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), image[top : top + 150, left : left + 220, ::-1])
    return folder


def small(name, folder):
    """A recipe with its data section and augmentation as they are, but for sizes."""
    config, debug = get_config(name, ""), get_config(name, "debug")
    config.model = debug.model
    if name.endswith("nest"):
        config.model.dims = (24,) * len(config.model.depths)  # compiled as fast, run faster
    config.data.update(
        name=f"folder:{folder}", image_size=debug.data.image_size, batch_size=10, eval_batch_size=4
    )
    if "mixup_cutmix" in config.device_augment:
        config.device_augment.mixup_cutmix.groups = 2  # of a small batch
    config.mesh.data = 1
    config.optimizer.warmup_epochs = 0.1
    config.optimizer.cooldown_epochs = 0.0
    config.loop.update(
        num_epochs=1.0, log_every_steps=1, evaluate_every_epochs=1.0, save_every_epochs=1.0
    )
    return config


# The others differ in the model alone.
DEFAULT = ("cifar_nest",)


@pytest.mark.parametrize(
    "name",
    [name if name in DEFAULT else pytest.param(name, marks=pytest.mark.slow) for name in RECIPES],
)
def test_a_folder_works_with_every_recipe(name, photographs, tmp_path):
    config = small(name, photographs)
    metrics = train.train_and_evaluate(config, tmp_path)
    assert metrics["num_examples"] == 5 and np.isfinite(metrics["loss"])
    assert (tmp_path / "classes.txt").read_text() == "china\nflower\n"
    records = read_metrics(tmp_path).sound
    trained = [record for record in records if record["kind"] == "train"]
    assert len(trained) == 2 and 0 <= trained[1]["input_wait"] <= 1  # the first step compiles
    evaluated = evaluate_workdir(read_config(tmp_path), tmp_path)
    assert evaluated["loss"] == metrics["loss"]


def test_a_run_meets_bad_images(run_script, photographs, tmp_path):
    folder = tmp_path / "images"
    for path in photographs.rglob("*.jpg"):
        copy = folder / path.relative_to(photographs)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (folder / "train/china/0.jpg").write_bytes(b"")
    (folder / "val/flower/3.jpg").write_bytes(b"not an image")
    config = small("cifar_nest", folder)
    metrics = train.train_and_evaluate(config, tmp_path / "run")
    assert metrics["num_examples"] == 4
    listed = [json.loads(line) for line in (tmp_path / "run/bad_images.jsonl").open()]
    assert sorted(entry["name"][-5:] for entry in listed) == ["0.jpg", "3.jpg"]
    # A class that the workdir does not know.
    (folder / "train/tree").mkdir()
    (folder / "train/flower/1.jpg").rename(folder / "train/tree/1.jpg")
    (tmp_path / "run/DONE").unlink()
    with pytest.raises(ConfigError, match=r"3 classes, the trained model 2; .* 'tree'"):
        train.train_and_evaluate(config, tmp_path / "run")
    # Too many: one line, and what was trained so far is kept.
    strict = tmp_path / "strict"
    arguments = train_arguments(folder, strict)
    arguments += ["--config.data.max_bad=0", "--config.data.batch_size=2"]
    code, _, stderr = run_script("train.py", *arguments)
    *warnings, error = stderr.strip().splitlines()
    assert code == 2 and "max_bad" in error
    assert all("cannot be read" in line for line in warnings)
    assert any((strict / "checkpoints/latest").iterdir())


@pytest.mark.parametrize(("split", "key"), [("val", "eval_split"), ("train", "train_split")])
def test_a_split_without_a_readable_image(run_script, photographs, tmp_path, split, key):
    """Found before anything is written, with the names and reasons; ends in no division by zero."""
    folder, workdir = tmp_path / "images", tmp_path / "run"
    shutil.copytree(photographs, folder)
    for number, path in enumerate(sorted((folder / split).rglob("*.jpg"))):
        path.write_bytes(b"" if number % 2 else b"not an image")
    arguments = train_arguments(folder, workdir)
    lines = [("train.py", arguments)]
    if split == "val":
        weights = tmp_path / "w.safetensors"  # not read before the images
        weights.touch()
        lines.append(("evaluate.py", [arguments[0], *arguments[2:5], f"--weights={weights}"]))
    for script, given in lines:
        code, _, stderr = run_script(script, *given)
        (line,) = stderr.strip().splitlines()
        assert code == 2 and f"config.data.{key}=" in line and "no image can be read: " in line
        assert line.count(f"{folder / split}/") == 3 and line.endswith("; ..."), line
        assert not workdir.exists()
    code, _, stderr = run_script("train.py", *arguments, "--config.data.max_bad=1")
    assert code == 2 and "more than config.data.max_bad=1 images cannot be read: " in stderr


def test_a_split_that_can_be_read_costs_one_image(photographs, monkeypatch):
    config, read = small("cifar_nest", photographs), []
    decode = loading.decode_image

    def decode_and_count(image, **options):
        read.append(0)
        return decode(image, **options)

    monkeypatch.setattr(loading, "decode_image", decode_and_count)
    experiment.build(config)
    assert len(read) == 2  # of each split one


def test_images_that_become_unreadable_later(photographs, tmp_path):
    """None is left when the evaluation comes."""
    folder = tmp_path / "images"
    shutil.copytree(photographs, folder)
    run = experiment.build(small("cifar_nest", folder))
    for path in (folder / "val").rglob("*.jpg"):
        path.unlink()
    state = run.init()
    with pytest.raises(BadImage, match="no example was evaluated: none of the split's images"):
        evaluate(run.eval_step, run.task, state, run.data.eval_batches(), key=run.key)


def test_unreadable_images_count_by_name(tmp_path):
    """A folder that grows between two runs gives its files other numbers."""
    for numbers in ((3, 7), (4, 9)):
        bad = BadImages("replace", 2)
        bad.keep_in(BadImagesFile(tmp_path / "bad_images.jsonl"))
        bad.add("train", [(n, name, "why") for n, name in zip(numbers, "ab", strict=True)])
        assert len(bad) == 2


def train_arguments(folder, workdir):
    """Of a run of train.py on a folder with a small model."""
    return [
        "--config=configs/cifar_nest.py:debug",
        "--config.model.dims=(24,24,24,24)",
        f"--config.data.name=folder:{folder}",
        "--config.data.train_split=train",
        "--config.data.eval_split=validation",
        "--config.mesh.data=1",
        f"--workdir={workdir}",
    ]


def write_digits(folder):
    """scikit-learn's digits at 16 x 16, as digits_nest has them, in PNG files."""
    for split, name in (("train", "train"), ("test", "test")):
        source = arrays.digits_source(split, (16, 16))
        for index in range(len(source)):
            record = source[index]
            path = folder / name / str(record["label"]) / f"{index:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), record["image"])


@pytest.mark.slow
def test_a_folder_of_digits_reaches_the_accuracy_of_digits(tmp_path):
    """A minute on two idle cores: the recipe as it is, with --config.data.name=folder:..."""
    write_digits(tmp_path / "digits")
    config = digits_nest.get_config()
    config.data.name = f"folder:{tmp_path / 'digits'}"
    metrics = train.train_and_evaluate(config, tmp_path / "run")
    assert metrics["num_examples"] == 360
    assert metrics["top1_accuracy"] > 0.99


def test_a_folder_of_digits_is_the_same_as_digits(tmp_path):
    """In grey the files hold what the built-in set holds; the order alone differs."""
    write_digits(tmp_path / "digits")
    config = digits_nest.get_config()
    from data.pipeline import Data

    options = {**config.data.to_dict(), "name": f"folder:{tmp_path / 'digits'}"}
    files = Data(**options).open()
    built_in = Data(**config.data.to_dict()).open()
    for kind in ("train_source", "eval_source"):
        ours, theirs = getattr(files, kind), getattr(built_in, kind)
        assert len(ours) == len(theirs)
    (batch,) = files.eval_batches()
    (expected,) = built_in.eval_batches()
    assert (batch["image"] == batch["image"][..., :1]).all()

    def sorted_rows(b):
        rows = np.c_[b["image"][..., 0].reshape(360, -1), b["label"]]
        return rows[np.lexsort(rows.T)]

    np.testing.assert_array_equal(sorted_rows(batch), sorted_rows(expected))


def processes_of_session(session):
    listed = subprocess.run(
        ["ps", "-o", "args=", "-g", str(session)], capture_output=True, text=True
    )
    return listed.stdout.split("\n")[:-1]


@pytest.mark.slow
def test_workers_and_sigterm_through_the_command_line(one_device, photographs, tmp_path):
    """A run with worker processes stops, resumes without them, and leaves no process behind."""
    command = [sys.executable, "train.py", *train_arguments(photographs, tmp_path)]
    command += ["--config.data.batch_size=4", "--config.loop.num_epochs=16"]
    running = subprocess.Popen(
        [*command, "--config.data.num_workers=2"],
        cwd=ROOT,
        env=one_device,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and running.poll() is None:
            if (tmp_path / "metrics.jsonl").exists() and (
                tmp_path / "metrics.jsonl"
            ).stat().st_size:
                break
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGTERM)  # as Slurm does it, and Ctrl-C
        _, errors = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 75, errors
    assert "Traceback" not in errors
    deadline = time.monotonic() + 10  # Python's own resource tracker ends a moment later
    while left := processes_of_session(running.pid):
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.1)
    result = subprocess.run(
        [*command],
        cwd=ROOT,
        env=one_device,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr
    assert "resuming at step" in result.stdout
