"""Data sets by name, sources, and split strings."""

import pickle
import tracemalloc

import numpy as np
import pytest
from sklearn.datasets import load_digits

from data import datasets, splits
from data.sources import arrays


def load(name, split, image_size):
    """The source of a split."""
    return splits.load_source(datasets.open_dataset(name), split, image_size)


def read_all(source):
    """Stacks all images and labels of a source."""
    records = [source[index] for index in range(len(source))]
    return np.stack([r["image"] for r in records]), np.array([r["label"] for r in records])


def numbered(num_records, name="numbers"):
    """A source whose labels are its record numbers."""
    return arrays.ArraySource(np.zeros((num_records, 1, 1, 1), np.uint8), range(num_records), name)


def labels_of(source):
    """All labels in order."""
    return [source[index]["label"] for index in range(len(source))]


# --- digits ---------------------------------------------------------------------------------------


def test_digits_splits_are_a_partition_of_the_data_set():
    train, test = (load("digits", split, (8, 8)) for split in ("train", "test"))
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
        _, labels = read_all(load("digits", split, (8, 8)))
        assert np.all(np.abs(np.bincount(labels) - totals * size / 1797) <= 1)


def test_digits_slices_are_about_balanced():
    for split in ("train[:80%]", "train[80%:]"):
        _, labels = read_all(load("digits", split, (8, 8)))
        share = np.bincount(labels, minlength=10) / len(labels)
        assert share.min() > 0.06 and share.max() < 0.14


def test_digits_mean_and_std_are_those_of_the_training_split():
    images, _ = read_all(load("digits", "train", (8, 8)))
    dataset = datasets.open_dataset("digits")
    assert (images / 255).mean() == pytest.approx(dataset.mean[0], abs=2e-4)
    assert (images / 255).std() == pytest.approx(dataset.std[0], abs=2e-4)


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (24, 16)])
def test_digits_resized_show_the_original(size):
    small, _ = read_all(load("digits", "test", (8, 8)))
    large, _ = read_all(load("digits", "test", size))
    assert large.shape == (360, *size, 1) and large.dtype == np.uint8
    means = large.reshape(360, 8, size[0] // 8, 8, size[1] // 8).mean((2, 4))
    assert np.abs(means - small[..., 0]).mean() < 15


# --- sources --------------------------------------------------------------------------------------


def test_synthetic_is_deterministic_and_learnable():
    train = load("synthetic", "train", (24, 20))
    images, labels = read_all(train)
    assert images.shape == (512, 24, 20, 3) and images.dtype == np.uint8
    assert set(labels) == set(range(10))
    again = load("synthetic", "train", (24, 20))
    np.testing.assert_array_equal(again[100]["image"], images[100])
    assert not np.array_equal(images[0], images[10])  # the same class, another image
    test_images, test_labels = read_all(load("synthetic", "test", (24, 20)))
    assert len(test_images) == 128
    assert not np.array_equal(test_images[0], images[0])
    # The nearest class mean of the training images already names the class of most test images.
    means = np.stack([images[labels == c].mean(0) for c in range(10)])
    distance = ((test_images[:, None].astype(float) - means) ** 2).sum((2, 3, 4))
    assert (distance.argmin(1) == test_labels).mean() > 0.9


def test_array_source_refuses_what_is_not_uint8_images():
    with pytest.raises(ValueError, match="float64"):
        arrays.ArraySource(np.zeros((3, 8, 8, 1)), [0, 1, 2])
    with pytest.raises(ValueError, match="3 images but 2 labels"):
        arrays.ArraySource(np.zeros((3, 8, 8, 1), np.uint8), [0, 1])


def test_subset_does_not_reach_beyond_its_slice():
    subset = arrays.Subset(numbered(9), range(3, 6))
    assert labels_of(subset) == [3, 4, 5]
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
    source = load("synthetic", split, (2, 2))
    whole = load("synthetic", split.split("[")[0], (2, 2))
    assert len(source) == last - first
    np.testing.assert_array_equal(source[0]["image"], whole[first]["image"])
    np.testing.assert_array_equal(source[len(source) - 1]["image"], whole[last - 1]["image"])


@pytest.mark.parametrize("split", ["train[:120%]", "train[50:50]", "train[600:]", "train[-900:]"])
def test_split_slices_outside_the_data_set(split):
    with pytest.raises(ValueError, match="records .* of 'train' of 'synthetic'.* 0 to 512"):
        load("synthetic", split, (2, 2))


@pytest.mark.parametrize(
    ("indices", "expected"),
    [
        ([4, 0, 4], [4, 0, 4]),
        (np.array([8]), [8]),
        (range(8, 2, -3), [8, 5]),
        (range(0), []),
        ([], []),
    ],
)
def test_subset_of_any_indices(indices, expected):
    subset = arrays.Subset(numbered(9, "nine"), indices)
    assert labels_of(subset) == expected
    for place, record in enumerate(expected):
        assert subset.describe(place) == f"record {record} of nine"


@pytest.mark.parametrize("indices", [[9], [-1, 3], range(5, 10), range(3, -2, -1)])
def test_subset_outside_the_source(indices):
    with pytest.raises(ValueError, match="0 to 8"):
        arrays.Subset(numbered(9), indices)


def test_subset_of_a_range_takes_no_memory():
    source = arrays.SyntheticSource(10**9, (4, 4, 3), num_classes=10, seed=0)
    tracemalloc.start()
    subset = arrays.Subset(source, range(10, 10**9))
    assert tracemalloc.get_traced_memory()[1] < 10_000
    tracemalloc.stop()
    assert len(subset) == 10**9 - 10 and subset[10**9 - 11]["label"] == 9


def test_concatenated():
    parts = [numbered(3, "a"), arrays.Subset(numbered(9, "b"), range(4, 4)), numbered(2, "c")]
    joined = arrays.Concatenated(parts)
    assert labels_of(joined) == [0, 1, 2, 0, 1]
    assert [joined.describe(i)[-1] for i in range(5)] == list("aaacc")
    for index in (5, -1):
        with pytest.raises(IndexError):
            joined[index]


def test_sources_survive_pickling():
    synthetic = arrays.SyntheticSource(20, (4, 4, 3), num_classes=10, seed=3)
    source = arrays.Concatenated([arrays.Subset(synthetic, [7, 3]), synthetic])
    again = pickle.loads(pickle.dumps(source))
    for index in (0, 1, 2, 21):
        np.testing.assert_array_equal(again[index]["image"], source[index]["image"])
        assert again.describe(index) == source.describe(index)


# --- split strings --------------------------------------------------------------------------------


def test_unions_of_slices():
    dataset = datasets.open_dataset("synthetic")
    joined = splits.load_source(dataset, "train[:10]+test[50%:] + train[-5:]", (2, 2))
    assert len(joined) == 10 + 64 + 5
    train = splits.load_source(dataset, "train", (2, 2))
    test = splits.load_source(dataset, "test", (2, 2))
    for place, (source, index) in {0: (train, 0), 10: (test, 64), 78: (train, 511)}.items():
        np.testing.assert_array_equal(joined[place]["image"], source[index]["image"])
    whole = splits.load_source(dataset, "train+test", (2, 2))
    assert len(whole) == 512 + 128


@pytest.mark.parametrize(
    "split",
    [
        *(
            "",
            "+",
            "train+",
            "train++test",
            "trian",
            "train[5]",
            "train[::2]",
            "train[:10",
        ),
        *("train[:5.5%]", "Train", "train test", "train-test", "train[a:]"),
    ],
)
def test_malformed_splits(split):
    dataset = datasets.open_dataset("synthetic")
    for function in (
        lambda: splits.parse_split(dataset, split),
        lambda: splits.load_source(dataset, split, (2, 2)),
    ):
        with pytest.raises(ValueError) as error:
            function()
        for word in ("' is unknown; ", "'synthetic'", "train, test"):
            assert word in str(error.value)
        assert "\n" not in str(error.value)


def test_aliases_mean_the_split():
    dataset = datasets.Dataset(
        name="mine",
        num_classes=9,
        num_channels=1,
        load=lambda split, image_size: numbered({"train": 9, "validation": 4}[split], split),
        splits=("train", "validation"),
        aliases={"test": "validation"},
    )
    source = splits.load_source(dataset, "train[:3]+test[2:]", (2, 2))
    assert labels_of(source) == [0, 1, 2, 2, 3]
    assert source.describe(4) == "record 3 of validation"
    with pytest.raises(ValueError, match="train, validation, test"):
        splits.parse_split(dataset, "dev")


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mnits", ["'mnits'", "python tools/prepare_data.py mnits", "digits"]),
        ("cifar10", ["'cifar10'", "python tools/prepare_data.py cifar10 --data_dir="]),
        ("downsampled_imagenet/64x64", ["prepare_data.py downsampled_imagenet/64x64"]),
        ("imagenet2012:5.1.0", ["prepare_data.py imagenet2012:5.1.0"]),
        ("", ["''", "digits, digits_mosaic, synthetic, folder:/path, npz:/path.npz"]),
        ("two words", ["'two words'", "digits, digits_mosaic, synthetic"]),
        ("../cifar10", ["'../cifar10'", "digits, digits_mosaic, synthetic"]),
        ("cifar10/..", ["'cifar10/..'", "digits, digits_mosaic, synthetic"]),
        ("folder:", ["there is no folder ''; give its path, --config.data.name=folder:/path"]),
        ("folder:/no/such", ["no folder '/no/such'"]),
        ("npz:/no/such.npz", ["no file '/no/such.npz'"]),
        ("digits:1.0.0", ["prepare_data.py digits:1.0.0"]),
    ],
)
def test_names_that_are_not_there(tmp_path, name, words):
    for function in (datasets.check_name, datasets.open_dataset):
        with pytest.raises(ValueError) as error:
            function(name, str(tmp_path))
        for word in words:
            assert word in str(error.value)
        assert "\n" not in str(error.value)


def test_data_dir_comes_from_the_environment_too(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "there"))
    with pytest.raises(ValueError, match=f"not prepared under {tmp_path}/there.*cifar10$"):
        datasets.check_name("cifar10")
    with pytest.raises(ValueError, match=f"not prepared under {tmp_path}/here"):
        datasets.check_name("cifar10", str(tmp_path / "here"))
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ValueError, match=f"not prepared under {tmp_path}/tensorflow_datasets"):
        datasets.check_name("cifar10")


def test_built_in_sets_are_there():
    for name in datasets.BUILT_IN:
        datasets.check_name(name)
        dataset = datasets.open_dataset(name)
        assert dataset.name == name
        assert len(dataset.mean) == len(dataset.std) == dataset.num_channels
    assert datasets.open_dataset("digits").class_names == tuple("0123456789")
