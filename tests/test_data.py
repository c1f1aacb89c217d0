"""Data sets, sources, splits, augmentation and the errors of the data section."""

import math

import numpy as np
import pytest
from sklearn.datasets import load_digits

from data import datasets, sources
from data.pipeline import check_data, create_data, missing_parts

GOOD = {"name": "digits", "image_size": 16, "batch_size": 64, "eval_batch_size": 100}


def read_all(source):
    """Stacks all images and labels of a source."""
    records = [source[index] for index in range(len(source))]
    return np.stack([r["image"] for r in records]), np.array([r["label"] for r in records])


# --- digits ---------------------------------------------------------------------------------------


def test_digits_splits_are_a_partition_of_the_data_set():
    train, test = (datasets.load_source("digits", split, (8, 8)) for split in ("train", "test"))
    assert (len(train), len(test)) == (1437, 360)
    train_images, train_labels = read_all(train)
    test_images, test_labels = read_all(test)
    digits = load_digits()
    original = np.rint(digits.images * 255 / 16).reshape(1797, 64).astype(int)
    ours = np.concatenate([train_images, test_images]).reshape(1797, 64)
    labels = np.concatenate([train_labels, test_labels])
    # Every original image with its label, as often as it occurs, and nothing else.
    assert sorted(map(tuple, np.c_[original, digits.target])) == sorted(
        map(tuple, np.c_[ours.astype(int), labels])
    )


def test_digits_splits_are_stratified():
    totals = np.bincount(load_digits().target)
    for split, size in (("train", 1437), ("test", 360)):
        _, labels = read_all(datasets.load_source("digits", split, (8, 8)))
        assert np.all(np.abs(np.bincount(labels) - totals * size / 1797) <= 1)


def test_digits_slices_are_about_balanced():
    for split in ("train[:80%]", "train[80%:]"):
        _, labels = read_all(datasets.load_source("digits", split, (8, 8)))
        share = np.bincount(labels, minlength=10) / len(labels)
        assert share.min() > 0.06 and share.max() < 0.14


def test_digits_mean_and_std_are_those_of_the_training_split():
    images, _ = read_all(datasets.load_source("digits", "train", (8, 8)))
    dataset = datasets.DATASETS["digits"]
    assert (images / 255).mean() == pytest.approx(dataset.mean[0], abs=2e-4)
    assert (images / 255).std() == pytest.approx(dataset.std[0], abs=2e-4)


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (24, 16)])
def test_digits_resized_show_the_original(size):
    small, _ = read_all(datasets.load_source("digits", "test", (8, 8)))
    large, _ = read_all(datasets.load_source("digits", "test", size))
    assert large.shape == (360, *size, 1) and large.dtype == np.uint8
    means = large.reshape(360, 8, size[0] // 8, 8, size[1] // 8).mean((2, 4))
    assert np.abs(means - small[..., 0]).mean() < 15


# --- sources --------------------------------------------------------------------------------------


def test_synthetic_is_deterministic_and_learnable():
    train = datasets.load_source("synthetic", "train", (24, 20))
    images, labels = read_all(train)
    assert images.shape == (512, 24, 20, 3) and images.dtype == np.uint8
    assert set(labels) == set(range(10))
    again = datasets.load_source("synthetic", "train", (24, 20))
    np.testing.assert_array_equal(again[100]["image"], images[100])
    assert not np.array_equal(images[0], images[10])  # the same class, another image
    test_images, test_labels = read_all(datasets.load_source("synthetic", "test", (24, 20)))
    assert len(test_images) == 128
    assert not np.array_equal(test_images[0], images[0])
    # The nearest class mean of the training images already names the class of most test images.
    means = np.stack([images[labels == c].mean(0) for c in range(10)])
    distance = ((test_images[:, None].astype(float) - means) ** 2).sum((2, 3, 4))
    assert (distance.argmin(1) == test_labels).mean() > 0.9


def test_array_source_refuses_what_is_not_uint8_images():
    with pytest.raises(ValueError, match="float64"):
        sources.ArraySource(np.zeros((3, 8, 8, 1)), [0, 1, 2])
    with pytest.raises(ValueError, match="3 images but 2 labels"):
        sources.ArraySource(np.zeros((3, 8, 8, 1), np.uint8), [0, 1])


def test_subset_does_not_reach_beyond_its_slice():
    subset = sources.Subset(sources.ArraySource(np.zeros((9, 1, 1, 1), np.uint8), range(9)), 3, 6)
    assert [subset[index]["label"] for index in range(3)] == [3, 4, 5]
    for index in (3, -1):
        with pytest.raises(IndexError):
            subset[index]


@pytest.mark.parametrize(
    ("split", "first", "last"),
    [
        ("train", 0, 512),
        ("train[:]", 0, 512),
        ("train[:80%]", 0, 410),
        ("train[80%:]", 410, 512),
        ("train[100:200]", 100, 200),
        ("train[25%:300]", 128, 300),
        ("train[-10:]", 502, 512),
        ("train[:-25%]", 0, 384),
        ("test[:1]", 0, 1),
    ],
)
def test_split_slices(split, first, last):
    source = datasets.load_source("synthetic", split, (2, 2))
    whole = datasets.load_source("synthetic", split.split("[")[0], (2, 2))
    assert len(source) == last - first
    np.testing.assert_array_equal(source[0]["image"], whole[first]["image"])
    np.testing.assert_array_equal(source[len(source) - 1]["image"], whole[last - 1]["image"])


@pytest.mark.parametrize("split", ["train[:120%]", "train[50:50]", "train[600:]", "train[-900:]"])
def test_split_slices_outside_the_data_set(split):
    with pytest.raises(ValueError, match="0 to 512") as error:
        datasets.load_source("synthetic", split, (2, 2))
    assert split in str(error.value)


# --- bad input ------------------------------------------------------------------------------------


def test_good_arguments_pass():
    check_data(**GOOD)
    check_data(**GOOD, augment={"random_affine": {"max_shift_pixels": 1}})
    check_data(**GOOD, augment={"random_affine": None}, train_split="train[:80%]")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "mnist"}, ["data.name", "'mnist'", "digits", "synthetic"]),
        ({"image_size": 0}, ["data.image_size", "0"]),
        ({"image_size": (16, 16, 3)}, ["data.image_size", "(16, 16, 3)"]),
        ({"image_size": 16.0}, ["data.image_size", "16.0"]),
        ({"image_size": None}, ["data.image_size", "None"]),
        ({"batch_size": 0}, ["data.batch_size", "0"]),
        ({"batch_size": True}, ["data.batch_size", "True"]),
        ({"eval_batch_size": -1}, ["data.eval_batch_size", "-1"]),
        ({"train_split": "valid"}, ["data.train_split", "'valid'", "train, test"]),
        ({"train_split": "train[::2]"}, ["data.train_split", "train[::2]"]),
        ({"eval_split": "test[:10"}, ["data.eval_split", "test[:10"]),
        ({"eval_split": None}, ["data.eval_split", "None"]),
        ({"seed": -1}, ["data.seed", "-1"]),
        ({"seed": 2**32}, ["data.seed", "2**32"]),
        ({"num_threads": -1}, ["data.num_threads", "-1"]),
        ({"prefetch": "2"}, ["data.prefetch", "'2'"]),
        ({"data_dir": 3}, ["data.data_dir", "3"]),
        ({"augment": {"blur": {}}}, ["augment.blur", "random_affine"]),
        ({"augment": {"random_affine": 3}}, ["augment.random_affine", "3", "max_scale"]),
        (
            {"augment": {"random_affine": {"max_shift": 1}}},
            ["augment.random_affine.max_shift ", "max_shift_pixels"],
        ),
        (
            {"augment": {"random_affine": {"max_scale": 0.5}}},
            ["random_affine.max_scale", "0.5", "1.0"],
        ),
        (
            {"augment": {"random_affine": {"max_shift_pixels": math.nan}}},
            ["random_affine.max_shift_pixels", "nan"],
        ),
        (
            {"augment": {"random_affine": {"max_rotation_degrees": "9"}}},
            ["random_affine.max_rotation_degrees", "'9'"],
        ),
    ],
)
def test_bad_arguments_are_named(change, words):
    for function in (check_data, create_data):
        with pytest.raises(ValueError) as error:
            function(**{**GOOD, **change})
        for word in words:
            assert word in str(error.value)
        assert "\n" not in str(error.value)


def test_missing_parts():
    assert missing_parts("digits", {"random_affine": {}}) == []
    parts = missing_parts("cifar10", {"random_crop": {"padding": 4}, "flip": {}, "mixup": None})
    assert len(parts) == 3
    assert "cifar10" in parts[0] and "random_crop" in parts[1] and "flip" in parts[2]
    assert missing_parts("digits", None) == missing_parts("digits", {"flip": None}) == []
    with pytest.raises(ValueError, match="not in this version yet.*imagenet2012.*randaugment"):
        check_data(**{**GOOD, "name": "imagenet2012"}, augment={"randaugment": {}})


def test_what_is_there_is_not_called_missing():
    assert not set(datasets.DATASETS) & set(datasets.PLANNED_DATASETS)
