"""tools/benchmark.py data and tools/visualize.py, as a person calls them and piece by piece."""

import json
import re
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import input_pipeline, machine
from configs import cifar_nest, digits_nest, imagenet_deit, imagenet_nest
from data.augment import randaugment
from training import batch_pictures, experiment

ROOT = Path(__file__).parents[2]


def run(environment, tool, *arguments):
    return subprocess.run(
        [sys.executable, f"tools/{tool}.py", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def version_of_opencv():
    return version("opencv-python-headless")


def test_cores_that_are_busy():
    """One that computes keeps one busy at most, one that sleeps none."""

    def compute(seconds):
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            sum(range(1000))
        return 7.0

    speed, cores = machine.with_cores(compute)(0.3)
    assert speed == 7.0 and 0.05 < cores < 1.1
    assert machine.with_cores(lambda seconds: time.sleep(seconds))(0.2)[1] < 0.2


def checked(config):
    config.data.update(name="synthetic", image_size=32, batch_size=8)
    return experiment.check_config(config)


def test_benchmark_prints_every_stage(one_device, tmp_path):
    output = tmp_path / "speed.jsonl"
    result = run(
        one_device,
        "benchmark",
        "data",
        "--config=configs/imagenet_nest.py:tiny",
        "--config.data.batch_size=8",
        "--seconds=0.05",
        "--rounds=1",
        f"--output={output}",
    )
    assert result.returncode == 0, result.stderr
    records = [json.loads(line) for line in output.read_text().splitlines()]
    ours = [record["stage"] for record in records if not record["stage"].startswith("tf.data")]
    loader = "loader: read, decode"
    names = ["random_resized_crop", "flip", "randaugment", "color_jitter"]
    expected = [", ".join([loader, *names[:count]]) for count in range(1, 5)]
    assert ours == ["decode, one thread", "decode", f"{loader}, centre crop", *expected]
    for record in records:
        ratio = record["images_per_second"] / records[0]["images_per_second"]
        assert record["times_one_core_decoding"] == pytest.approx(ratio)
        each = record["images_per_second"] / record["cores_busy"]
        assert record["per_busy_core"] == pytest.approx(each)
        assert record["machine"] == records[0]["machine"]
    first = result.stdout.splitlines()[0]
    assert machine.processor() in first and f"opencv-python-headless {version_of_opencv()}" in first
    assert all(record["images_per_second"] > 1 for record in records)
    for record in records:
        assert record["stage"] in result.stdout
    assert "512 JPEGs of 500 x 375 pixels" in result.stdout


def test_benchmark_of_small_images_and_of_the_recipes_own(capsys):
    plain = experiment.check_config(digits_nest.get_config())
    results = input_pipeline.run(plain, made=False, seconds=0.05, rounds=2, say=print)
    assert [r["stage"] for r in results][-1] == "loader: read, decode, random_affine"
    assert all(len(r["rounds"]) == 2 for r in results)
    plain = checked(cifar_nest.get_config())
    results = input_pipeline.run(plain, made=True, seconds=0.05, rounds=1, say=print)
    assert results[-1]["stage"] == "loader: read, random_crop, flip, randaugment"
    assert "32 x 32 pixels in memory" in capsys.readouterr().out


def test_a_loader_that_sleeps_is_measured_as_slow():
    """The clock counts images, not batches, and leaves the start out."""

    def batches():
        import time

        while True:
            time.sleep(0.01)
            yield {"image": np.zeros((5, 1, 1, 1))}

    assert 250 < input_pipeline.count_images(batches(), 0.3) < 500


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), r"batch\|operations is missing"),
        (("weights",), "'weights'; allowed: batch: .*operations: "),
        (("batch",), "--config=FILE.py or --workdir=FOLDER is needed"),
        (("batch", "--config=configs/digits_nest.py", "--batch=1", "--step=2"), "give one of them"),
        *(
            (("batch", "--config=configs/digits_nest.py:debug", *given), words)
            for given, words in [
                (
                    ("--step=999999",),
                    r"--step=999999: out of range; allowed: to \d+, the run",
                ),
                (("--batch=999999",), "--batch=999999: out of range"),
            ]
        ),
        *(
            (("batch", *given), f"{words}.*; or see it on other images: --config.data.name=")
            for given, words in [
                (
                    ("--config=configs/imagenet_nest.py", "--config.data.data_dir=/nowhere"),
                    "run: python tools/prepare_data.py ",
                ),
                (
                    ("--config=configs/cifar_nest.py", "--config.data.name=folder:/nowhere"),
                    "there is no folder '/nowhere'",
                ),
                (
                    ("--config=configs/cifar_nest.py", "--config.data.name=cifar11"),
                    "did you mean 'cifar10'",
                ),
            ]
        ),
        (
            ("operations", "--config=configs/digits_nest.py"),
            "config.augment.randaugment=None: nothing to draw",
        ),
        (
            (
                "operations",
                "--config=configs/cifar_nest.py",
                "--config.data.name=synthetic",
                "--image=/nowhere.jpg",
            ),
            "/nowhere.jpg",
        ),
    ],
)
def test_visualize_errors(run_script, arguments, words):
    code, _, stderr = run_script("tools/visualize.py", *arguments)
    assert code == 2
    assert re.search(words, stderr) and len(stderr.strip().splitlines()) == 1


def test_visualize_writes_a_picture(one_device, tmp_path):
    path = tmp_path / "batch.png"
    result = run(
        one_device,
        "visualize",
        "batch",
        "--config=configs/digits_nest.py",
        f"--output={path}",
        "--num_images=9",
    )
    assert result.returncode == 0, result.stderr
    step, wrote = result.stdout.splitlines()
    assert re.fullmatch(r"step 1, 96 records, the first 9:( \d+){9}", step)
    assert wrote == f"wrote {path}"
    assert cv2.imread(str(path)).std() > 10


@pytest.mark.parametrize("recipe", [imagenet_nest, imagenet_deit, cifar_nest])
def test_the_batch_in_the_picture_is_what_the_training_step_sees(recipe, monkeypatch):
    config = recipe.get_config("debug")
    full = recipe.get_config()
    config.augment, config.device_augment, config.task = (
        full.augment,
        full.device_augment,
        full.task,
    )
    config.device_augment.mixup_cutmix.groups = 2  # of a small batch
    config.mesh.data = 1
    run = experiment.build(config)
    images, targets = batch_pictures.augmented_batch(run, start=3)
    assert images.shape == (16, *run.data.image_shape) and 0 <= images.min() <= images.max() <= 1
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-5)
    # What train_step takes the loss of, at the same step of the same run.
    seen = []
    monkeypatch.setattr(
        type(run.task),
        "_accumulated_gradients",
        lambda _, state, batch, key: seen.append(batch) or 1 / 0,
    )
    state = run.init()
    state = state.replace(step=state.step + 3)
    with pytest.raises(ZeroDivisionError):
        run.task.train_step(state, next(run.data.train_batches(3)), run.key, run.hyperparameters)
    mean, std = run.data.statistics
    np.testing.assert_allclose(
        images,
        np.clip(np.asarray(seen[0]["image"]) * np.asarray(std) + np.asarray(mean), 0, 1),
        atol=1e-5,
    )
    np.testing.assert_allclose(targets * 0.9 + 0.1 / 10, seen[0]["target"], atol=1e-5)


def test_label_text():
    names = ("tench, Tinca tinca", "goldfish", "shark")
    assert batch_pictures.label_text(np.array([0.0, 1.0, 0.0]), names) == "goldfish"
    assert (
        batch_pictures.label_text(np.array([0.7, 0.3, 0.0]), names) == "tench 0.70 + goldfish 0.30"
    )
    assert batch_pictures.label_text(np.array([0.2, 0.8]), None) == "1 0.80 + 0 0.20"
    assert batch_pictures.label_text(np.array([0.0, 1.0, 1.0]), names[:1] * 3) == "tench + tench"
    assert batch_pictures.label_text(np.zeros(3), names) == ""


def test_a_row_of_pictures_for_each_operation():
    options = checked(imagenet_nest.get_config())["augment"]["randaugment"]
    figure = batch_pictures.draw_operations(options, 64, None)
    labels = [axes.get_ylabel() for axes in figure.axes[:: batch_pictures.MAGNITUDES]]
    assert len(labels) == 16 and {"rotate", "solarize_add", "identity"} <= set(labels)
    shown = {axes.get_ylabel(): axes for axes in figure.axes if axes.get_ylabel()}
    assert shown["invert"].images and shown["posterize"].get_title() == "0"


def test_operations_are_drawn_with_the_recipes_interpolation(monkeypatch):
    used = set()

    def spy(self, image, level, interpolation="nearest"):
        used.add(interpolation)
        return image

    monkeypatch.setattr(randaugment.Operation, "__call__", spy)
    options = checked(imagenet_deit.get_config())["augment"]["randaugment"]
    batch_pictures.draw_operations(options, 64, None)
    assert used == {"bicubic"}
