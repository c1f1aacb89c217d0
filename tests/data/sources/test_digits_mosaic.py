"""Mosaics against the digits that they are made of."""

import pickle

import numpy as np
import pytest

from data import datasets, splits
from data.sources import arrays
from data.sources.digits_mosaic import MosaicSource


def load(split, image_size=(16, 16)):
    return splits.load_source(datasets.open_dataset("digits_mosaic"), split, image_size)


def digits(split, image_size=(8, 8)):
    """The bytes of each digit of a split -> its label."""
    source = arrays.digits_source(split, image_size)
    return {source[i]["image"].tobytes(): source[i]["label"] for i in range(len(source))}


def quadrants(image):
    height, width = image.shape[0] // 2, image.shape[1] // 2
    return [image[y : y + height, x : x + width] for y in (0, height) for x in (0, width)]


@pytest.mark.parametrize(("split", "count"), [("train", 5000), ("test", 500)])
def test_four_digits_of_four_classes_of_the_same_split(split, count):
    source, known = load(split), digits(split)
    assert len(source) == count
    used = set()
    for index in range(count):
        record = source[index]
        parts = [part.tobytes() for part in quadrants(record["image"])]
        assert tuple(known[part] for part in parts) == record["label"] == source.labels[index]
        assert len(set(record["label"])) == 4
        used.update(parts)
    assert len(used) > 0.95 * len(known)
    assert used.isdisjoint(digits("test" if split == "train" else "train"))


def test_the_part_for_tuning_has_digits_of_its_own():
    parts = [
        {q.tobytes() for i in range(len(source)) for q in quadrants(source[i]["image"])}
        for source in (load("train[:80%]"), load("train[80%:]"))
    ]
    assert parts[0].isdisjoint(parts[1])
    labels = [label for labels in load("train[80%:]").labels for label in labels]
    assert np.bincount(labels, minlength=10).min() > 300


def test_mean_and_std_are_those_of_the_training_split():
    source, dataset = load("train"), datasets.open_dataset("digits_mosaic")
    images = np.stack([source[i]["image"] for i in range(len(source))]) / 255
    assert images.mean() == pytest.approx(dataset.mean[0], abs=2e-4)
    assert images.std() == pytest.approx(dataset.std[0], abs=2e-4)
    assert dataset.class_names == tuple("0123456789") and dataset.multi_label


@pytest.mark.parametrize("size", [(16, 16), (32, 24)])
def test_boxes_say_where_each_digit_lies(size):
    source, known = load("test", size), digits("test", (size[0] // 2, size[1] // 2))
    for index in (0, 1, 499):
        boxes = source.boxes(index)
        assert boxes.shape == (4, 5) and boxes.dtype == np.float32
        for label, *box in boxes:
            top, left, bottom, right = (np.array(box) * np.tile(size, 2)).astype(int)
            assert known[source[index]["image"][top:bottom, left:right].tobytes()] == label
    with pytest.raises(IndexError):
        source.boxes(500)


def test_boxes_go_with_their_records():
    whole = load("train+test")
    part = load("train[80%:]+test[:3]")
    for index in (0, 999, 1000, 1002):
        (place,) = (i for i in (index + 4000,) if whole.describe(i) == part.describe(index))
        np.testing.assert_array_equal(part.boxes(index), whole.boxes(place))
    assert not hasattr(arrays.Concatenated([whole, arrays.digits_source("test", (8, 8))]), "boxes")
    assert not hasattr(arrays.Subset(arrays.digits_source("test", (8, 8)), [1]), "boxes")


def test_deterministic_and_readable_in_another_process():
    source = load("train")
    for again in (MosaicSource("train", (16, 16)), pickle.loads(pickle.dumps(source))):
        np.testing.assert_array_equal(again[7]["image"], source[7]["image"])
        assert again[7]["label"] == source[7]["label"]
        np.testing.assert_array_equal(again.boxes(7), source.boxes(7))


def test_odd_sides():
    with pytest.raises(ValueError, match="16 x 15 pixels: sides must be even"):
        load("test", (16, 15))
