"""Arrays in an .npz file as a data set."""

import numpy as np
import pytest

from data import datasets, splits
from data.pipeline import Data

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 5, 4, 3), np.uint8)
LABELS = np.arange(12) % 3
GOOD = {
    "train_images": IMAGES,
    "train_labels": LABELS,
    "test_images": IMAGES[:4] ^ 255,
    "test_labels": LABELS[:4][::-1].astype(np.uint8),
}


def save(path, **arrays):
    """Writes the file; returns its name as a data set."""
    np.savez_compressed(path, **{key: a for key, a in arrays.items() if a is not None})
    return f"npz:{path}"


def test_images_and_labels(tmp_path):
    dataset = datasets.open_dataset(save(tmp_path / "a.npz", **GOOD, other=np.zeros(3)))
    assert (dataset.num_classes, dataset.num_channels, dataset.class_names) == (3, 3, None)
    assert dataset.splits == ("train", "test")
    for split, images, labels in (
        ("train", IMAGES, LABELS),
        ("test", GOOD["test_images"], GOOD["test_labels"]),
        ("validation", GOOD["test_images"], GOOD["test_labels"]),
    ):
        source = splits.load_source(dataset, split, (5, 4))
        assert len(source) == len(images)
        for i in range(len(source)):
            np.testing.assert_array_equal(source[i]["image"], images[i])
            assert source[i]["label"] == labels[i] and type(source[i]["label"]) is int
    assert splits.load_source(dataset, "test", (5, 4)).describe(3) == "record 3 of a.npz test"


def test_grey_images_class_names_and_validation(tmp_path):
    name = save(
        tmp_path / "a.npz",
        train_images=IMAGES[..., 0],
        train_labels=LABELS,
        validation_images=IMAGES[:5, ..., :1],
        validation_labels=LABELS[:5],
        class_names=np.array(["ant", "bee", "cat", "dog"]),
    )
    dataset = datasets.open_dataset(name)
    assert dataset.class_names == ("ant", "bee", "cat", "dog")
    assert (dataset.num_classes, dataset.num_channels) == (4, 1)
    assert len(dataset.mean) == len(dataset.std) == 1
    source = splits.load_source(dataset, "train+test", (5, 4))
    assert len(source) == 17
    np.testing.assert_array_equal(source[2]["image"], IMAGES[2, ..., :1])
    np.testing.assert_array_equal(source[13]["image"], IMAGES[1, ..., :1])


def check_splits(dataset, **expected):
    for split, (images, labels) in expected.items():
        source = splits.load_source(dataset, split, images.shape[1:3])
        assert [source[i]["label"] for i in range(len(source))] == labels.tolist()
        found = np.stack([source[i]["image"] for i in range(len(source))])
        np.testing.assert_array_equal(found, images)


def test_a_file_of_medmnist(tmp_path):
    """Names, [n, 1] labels and types as in pathmnist.npz and bloodmnist.npz."""
    labels = LABELS.astype(np.uint8)[:, None]
    name = save(
        tmp_path / "bloodmnist.npz",
        train_images=IMAGES,
        train_labels=labels,
        val_images=IMAGES[:3],
        val_labels=labels[:3],
        test_images=IMAGES[3:7],
        test_labels=labels[3:7],
    )
    dataset = datasets.open_dataset(name)
    assert dataset.num_classes == 3 and dataset.splits == ("train", "test", "validation")
    check_splits(
        dataset,
        train=(IMAGES, LABELS),
        validation=(IMAGES[:3], LABELS[:3]),
        test=(IMAGES[3:7], LABELS[3:7]),
    )


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_a_file_of_keras(tmp_path, shape):
    """Names as in mnist.npz; its labels are [n], those of cifar10.load_data() are [n, 1]."""
    labels = LABELS.astype(np.uint8)
    np.savez(
        tmp_path / "mnist.npz",
        x_test=IMAGES[:4, ..., 0],
        x_train=IMAGES[..., 0],
        y_train=labels.reshape(shape),
        y_test=labels[:4].reshape(shape),
    )
    dataset = datasets.open_dataset(f"npz:{tmp_path / 'mnist.npz'}")
    assert (dataset.num_classes, dataset.num_channels) == (3, 1)
    grey = IMAGES[..., :1]
    check_splits(dataset, train=(grey, LABELS), test=(grey[:4], LABELS[:4]))


@pytest.mark.parametrize("names", [[b"ant", "\u00e4ffchen".encode(), b"b'c0'"]])
def test_class_names_as_bytes(tmp_path, names):
    dataset = datasets.open_dataset(save(tmp_path / "a.npz", **GOOD, class_names=np.array(names)))
    assert dataset.class_names == ("ant", "\u00e4ffchen", "b'c0'")


def test_class_names_fill_gaps(tmp_path):
    gap = {**GOOD, "train_labels": LABELS * 2, "test_labels": LABELS[:4] * 2}
    dataset = datasets.open_dataset(
        save(tmp_path / "a.npz", **gap, class_names=np.array([*"abcdef"]))
    )
    assert dataset.num_classes == 6
    # An evaluation split may have the only image of a class.
    dataset = datasets.open_dataset(
        save(tmp_path / "b.npz", **{**gap, "test_labels": [1, 3, 1, 3]})
    )
    assert dataset.num_classes == 5


def test_without_evaluation(tmp_path):
    name = save(tmp_path / "a.npz", train_images=IMAGES, train_labels=LABELS)
    dataset = datasets.open_dataset(name)
    assert len(splits.load_source(dataset, "train[80%:]", (5, 4))) == 2
    with pytest.raises(ValueError, match="allowed: train of 'npz:.*', each"):
        splits.load_source(dataset, "test", (5, 4))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train_images": None}, ["no array 'train_images'", "test_images", "train_labels"]),
        ({"train_labels": None}, ["no array 'train_labels'"]),
        ({"train_images": IMAGES / 255}, ["train_images", "float64", "uint8"]),
        ({"train_images": IMAGES.reshape(12, -1)}, ["train_images", "(12, 60)"]),
        ({"train_images": IMAGES[..., :2]}, ["train_images", "(12, 5, 4, 2)"]),
        ({"train_images": IMAGES[:0], "train_labels": LABELS[:0]}, ["empty"]),
        ({"train_images": IMAGES[:7]}, ["7 train_images", "12 train_labels"]),
        ({"test_images": IMAGES[:4, ..., 0]}, ["test_images have 1 channels", "train_images 3"]),
        ({"test_images": IMAGES[:3]}, ["3 test_images", "4 test_labels"]),
        ({"train_labels": LABELS.astype(float)}, ["train_labels", "float64", "integers"]),
        ({"train_labels": np.eye(12, dtype=int)}, ["train_labels", "(12, 12)"]),
        ({"train_labels": np.eye(12, dtype=int)}, ["several numbers for an image", "[n, 1]"]),
        ({"test_labels": np.ones((4, 14), int)}, ["test_labels", "(4, 14)", "several numbers"]),
        ({"train_labels": LABELS[:, None, None]}, ["train_labels", "(12, 1, 1)"]),
        (
            {"train_labels": np.where(np.arange(12) == 5, 10**6, LABELS)},
            ["train_labels go up to 1000000, but no image has label 3 to 999999; "],
        ),
        ({"train_labels": LABELS * 2}, ["go up to 4, but no image has label 3; "]),
        ({"train_labels": LABELS * 3 + 1}, ["up to 7, but no image has label 3, 5 to 6; "]),
        ({"x_train": IMAGES}, ["has train_images and x_train, which mean the same"]),
        (
            {"val_images": IMAGES},
            ["has val_images but no validation_labels or y_validation or val"],
        ),
        ({"test_images": None}, ["has test_labels but no test_images"]),
        ({"train_labels": LABELS - 1}, ["train_labels", "-1 to 1", "0 to"]),
        ({"test_labels": LABELS[:4] + 1}, ["test_labels", "1 to 3", "0 to 2"]),
        ({"class_names": np.array(["a", "b"])}, ["train_labels", "0 to 2", "0 to 1"]),
        ({"train_images": np.array([b"x", {}], object)}, ["allow_pickle"]),
    ],
)
def test_wrong_arrays(tmp_path, change, words):
    name = save(tmp_path / "a.npz", **{**GOOD, **change})
    with pytest.raises(ValueError) as error:
        datasets.open_dataset(name)
    for word in [str(tmp_path / "a.npz"), *words]:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_not_an_npz_file(tmp_path):
    np.save(tmp_path / "array.npy", IMAGES)
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").write_bytes(b"")
    save(tmp_path / "whole.npz", **GOOD)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:-40])
    for name in ("array.npy", "text.npz", "empty.npz", "cut.npz"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as an .npz file"):
            datasets.open_dataset(f"npz:{tmp_path / name}")
    damaged = bytearray((tmp_path / "whole.npz").read_bytes())
    damaged[200] ^= 255
    (tmp_path / "damaged.npz").write_bytes(damaged)
    with pytest.raises(ValueError, match="damaged.npz cannot be read"):
        datasets.open_dataset(f"npz:{tmp_path / 'damaged.npz'}")


# --- several labels an image ----------------------------------------------------------------------

ROWS = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]] * 3)


@pytest.mark.parametrize("kind", [np.uint8, bool, np.int64])
def test_rows_of_classes(tmp_path, kind):
    rows = {"train_labels": ROWS.astype(kind), "test_labels": ROWS[:4].astype(kind)}
    dataset = datasets.open_dataset(save(tmp_path / "a.npz", **GOOD | rows))
    assert dataset.multi_label and dataset.num_classes == 3
    source = splits.load_source(dataset, "train[50%:]", (5, 4))
    expected = [(0, 1, 2) if i % 4 == 3 else ((0, 2), (), (1,))[i % 4] for i in range(6, 12)]
    assert [source[i]["label"] for i in range(6)] == expected == source.labels.tolist()
    data = Data(name=dataset.name, image_size=(5, 4), batch_size=4, eval_batch_size=3)
    batches = list(data.open().eval_batches())
    found = np.concatenate([batch["label"] for batch in batches])
    np.testing.assert_array_equal(found, np.concatenate([ROWS[:4], np.zeros((2, 3))]))
    assert np.concatenate([batch["mask"] for batch in batches]).tolist() == [1] * 4 + [0] * 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train_labels": ROWS * 2}, ["train_labels are int64 (12, 3)", "1 for each of its cl"]),
        ({"test_labels": ROWS[:4, :2]}, ["test_labels are int64 (4, 2)", "a part of them"]),
        ({"train_labels": ROWS.astype(float)}, ["float64", "1 for each of its classes"]),
        ({"class_names": np.array([*"ab"])}, ["train_labels have 3 columns but class_names 2"]),
        (
            {"train_labels": np.eye(3, dtype=int)[LABELS], "test_labels": np.eye(3, dtype=int)[:4]},
            ["argmax of one-hot rows, [n] or [n, 1]"],
        ),
    ],
)
def test_wrong_rows_of_classes(tmp_path, change, words):
    rows = {"train_labels": ROWS, "test_labels": ROWS[:4]}
    test_wrong_arrays(tmp_path, rows | change, words)
