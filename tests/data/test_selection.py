"""Classes and a few examples of a data set, against the labels of scikit-learn's digits."""

import pickle

import numpy as np
import pytest

from data import datasets, selection, splits
from data.pipeline import Data
from data.sources import arrays


def records(source):
    labels = np.array([source[index]["label"] for index in range(len(source))])
    return np.stack([source[index]["image"] for index in range(len(source))]), labels


def make(**changes):
    arguments = dict(name="digits", image_size=8, batch_size=10, eval_batch_size=64)
    return Data(**(arguments | changes))


@pytest.mark.parametrize("split", ["train", "test"])
def test_classes_are_all_there_and_renumbered(split):
    images, labels = records(splits.load_source(datasets.open_dataset("digits"), split, (8, 8)))
    data = make(classes=(7, 5, 9), train_split=split)
    found_images, found = records(data.train_source)
    kept = np.isin(labels, (7, 5, 9))
    np.testing.assert_array_equal(found_images, images[kept])
    np.testing.assert_array_equal(np.array([7, 5, 9])[found], labels[kept])
    assert (data.num_classes, data.dataset.class_names) == (3, ("7", "5", "9"))


def test_slices_are_of_what_is_left():
    whole = records(make(classes=(5, 6)).train_source)
    halves = [
        records(make(classes=(5, 6), train_split=split).train_source)
        for split in ("train[:50%]", "train[50%:]")
    ]
    for part in (0, 1):
        np.testing.assert_array_equal(np.concatenate([h[part] for h in halves]), whole[part])
    assert abs(len(halves[0][1]) - len(halves[1][1])) <= 1


def test_few_examples_are_balanced_fixed_and_of_the_split():
    options = dict(classes=(5, 6, 7, 8, 9), train_split="train[:50%]")
    few = make(**options, examples_per_class=10)
    images, labels = records(few.train_source)
    assert np.bincount(labels).tolist() == [10] * 5
    assert few.num_train_examples == 50
    again = records(make(**options, examples_per_class=10, seed=7).train_source)
    np.testing.assert_array_equal(again[0], images)
    another = records(make(**options, examples_per_class=10, examples_seed=1).train_source)
    assert not np.array_equal(another[0], images)
    fewer, _ = records(make(**options, examples_per_class=3).train_source)
    chosen = {image.tobytes() for image in images}
    assert {image.tobytes() for image in fewer} <= chosen
    held_out, _ = records(make(**options | {"train_split": "train[50%:]"}).train_source)
    assert chosen.isdisjoint(image.tobytes() for image in held_out)
    # Evaluation is of the whole split, of these classes.
    assert few.eval_batches().num_examples == (np.array(digits_test_labels()) >= 5).sum()


def digits_test_labels():
    return arrays.digits_source("test", (8, 8)).labels


def test_labels_of_every_kind_of_source():
    array = arrays.digits_source("test", (8, 8))
    subset = arrays.Subset(array, range(10, 3, -2))
    made_up = arrays.SyntheticSource(7, (8, 8, 3), num_classes=3, seed=0)
    for source in (array, subset, arrays.Concatenated([subset, array]), made_up):
        expected = [source[index]["label"] for index in range(len(source))]
        assert selection.labels_of(source).tolist() == expected


def test_reads_again_after_pickling():
    source = make(classes=(5, 6), examples_per_class=2).train_source
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(records(copy)[0], records(source)[0])
    assert copy.describe(1) == source.describe(1)
    assert "of digits train" in source.describe(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(classes=(5, 10)), r"config.data.classes=\(5, 10\): .* labels of 'digits', 0 to 9"),
        (dict(classes=(5, 5)), "different labels"),
        (dict(classes=(5,)), "two or more"),
        (dict(examples_per_class=0), "examples_per_class=0: out of range; allowed: 1 to"),
        (dict(examples_per_class=500), "examples_per_class=500: class 0 has only"),
    ],
)
def test_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes).open()
