"""Parts of a data set, and its classes in another order."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from data.datasets import Dataset
from data.sources.arrays import Record, Source, Subset
from harness.arguments import problem
from harness.class_lists import places


def labels_of(source: Source) -> np.ndarray:
    """Returns all labels, int64 [n]; a source that lacks `labels` is read through once."""
    if hasattr(source, "labels"):
        return np.asarray(source.labels, np.int64)
    return np.asarray([source[index]["label"] for index in range(len(source))], np.int64)


class Relabelled:
    """The records of another source under other labels: `new_label` maps the old ones."""

    def __init__(self, source: Source, new_label: Mapping[int, int]):
        self._source = source
        self._new_label = dict(new_label)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """All labels, int64 [n]."""
        old = labels_of(self._source)
        return np.fromiter((self._new_label[label] for label in old.tolist()), np.int64, len(old))

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        record = self._source[index]
        return record | {"label": self._new_label[record["label"]]}

    def describe(self, index: int) -> str:
        return self._source.describe(index)


def of_classes(source: Source, classes: Sequence[int]) -> Relabelled:
    """Returns the records of some classes; their labels become the classes' places in `classes`."""
    indices = np.flatnonzero(np.isin(labels_of(source), classes))
    return Relabelled(Subset(source, indices), {old: new for new, old in enumerate(classes)})


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
        return of_classes(dataset.load(split, image_size), classes)

    names = dataset.class_names
    return dataclasses.replace(
        dataset,
        num_classes=len(classes),
        class_names=names and tuple(names[label] for label in classes),
        load=load,
    )


def by_name(dataset: Dataset, class_names: Sequence[str]) -> Dataset:
    """Gives the classes of a data set the labels that a model knows them by.

    Args:
        dataset: any; one that does not name its classes stays as it is.
        class_names: of the model, in the order of its labels.

    Returns:
        The data set with the model's classes; its note says what was mapped, and `present` which of
        them it has, if it lacks some.

    Raises:
        ValueError: the data set has a class that the model does not know.
    """
    names, class_names = dataset.class_names, tuple(class_names)
    if names is None or names == class_names:
        return dataset
    try:
        new_label = dict(enumerate(places(names, class_names)))
    except ValueError as error:
        what = f"it has {len(names)} classes, the trained model {len(class_names)}; {error}"
        raise ValueError(problem("config.data.name", dataset.name, what)) from None

    @functools.cache
    def load(split: str, image_size: tuple[int, int]) -> Source:
        return Relabelled(dataset.load(split, image_size), new_label)

    present = tuple(sorted(new_label.values()))
    notes = [dataset.note] if dataset.note else []
    if len(present) < len(class_names):
        notes.append(
            f"{dataset.name} has {len(present)} of the {len(class_names)} classes that the model "
            "knows, matched by name: answers are compared among these; metrics among_all_* are "
            "among all"
        )
    elif list(new_label.values()) != list(new_label):
        notes.append(f"the classes of {dataset.name} are in another order: matched by name")
    return dataclasses.replace(
        dataset,
        num_classes=len(class_names),
        class_names=class_names,
        load=load,
        present=present if len(present) < len(class_names) else None,
        note="; ".join(notes),
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
