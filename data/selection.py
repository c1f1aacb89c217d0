"""Parts of a data set: some of its classes, a few examples of each, or of the whole."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from data.datasets import Dataset
from data.sources.arrays import Record, Source, Subset
from harness.arguments import problem


def labels_of(source: Source) -> np.ndarray:
    """Returns all labels, int64 [n]; a source that lacks `labels` is read through once."""
    if hasattr(source, "labels"):
        return np.asarray(source.labels, np.int64)
    return np.asarray([source[index]["label"] for index in range(len(source))], np.int64)


class OfClasses(Subset):
    """The records of some classes, whose labels become the places of the classes in `classes`."""

    def __init__(self, source: Source, classes: Sequence[int]):
        labels = labels_of(source)
        indices = np.flatnonzero(np.isin(labels, classes))
        super().__init__(source, indices)
        self._new_label = {label: place for place, label in enumerate(classes)}
        self._labels = np.asarray([self._new_label[label] for label in labels[indices]], np.int64)

    @property
    def labels(self) -> np.ndarray:
        return self._labels

    def __getitem__(self, index: int) -> Record:
        record = super().__getitem__(index)
        return record | {"label": self._new_label[record["label"]]}


def keep_classes(dataset: Dataset, classes: Sequence[int]) -> Dataset:
    """Makes a data set of some classes of another.

    Slices of its splits, such as "train[:80%]", are of what is left of the split.

    Args:
        dataset: any.
        classes: their labels there; here they are 0, 1, ... in this order.

    Raises:
        ValueError: no such class, or one twice.
    """
    classes = tuple(int(label) for label in classes)
    chosen, last = set(classes), dataset.num_classes - 1
    if len(classes) < 2 or len(chosen) < len(classes) or chosen - set(range(last + 1)):
        allowed = f"two or more different labels of {dataset.name!r}, 0 to {last}"
        raise ValueError(problem("config.data.classes", classes, "no choice of classes", allowed))

    @functools.cache  # one look at the labels of a split, however many slices of it
    def load(split: str, image_size: tuple[int, int]) -> Source:
        return OfClasses(dataset.load(split, image_size), classes)

    names = dataset.class_names
    return dataclasses.replace(
        dataset,
        num_classes=len(classes),
        class_names=names and tuple(names[label] for label in classes),
        load=load,
    )


def few_of_each(source: Source, num_classes: int, count: int, seed: int) -> Subset:
    """Chooses `count` records of each class.

    Args:
        source: any; its labels are 0 to num_classes - 1.
        num_classes: number of classes.
        count: records of each class, at least 1.
        seed: of the choice. Of two counts with one seed, the larger choice contains the smaller.

    Returns:
        The records chosen, in the source's order.

    Raises:
        ValueError: a class has fewer.
    """
    labels = labels_of(source)
    order = np.random.default_rng(seed).permutation(len(labels))
    chosen = []
    for label in range(num_classes):
        places = order[labels[order] == label][:count]
        if len(places) < count:
            what = f"class {label} has only {len(places)}"
            raise ValueError(problem("config.data.examples_per_class", count, what))
        chosen.append(places)
    return Subset(source, np.sort(np.concatenate(chosen)))


def evenly_spaced(source: Source, at_most: int) -> Source:
    """Returns the source, or `at_most` records of a larger one, evenly spaced, in its order."""
    if at_most >= len(source):
        return source
    return Subset(source, np.arange(at_most) * len(source) // at_most)
