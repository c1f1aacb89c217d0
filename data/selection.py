"""Parts of a data set, and its classes in another order."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from data.datasets import Dataset
from data.sources.arrays import Label, Record, Source, Subset, as_array
from harness.arguments import problem
from harness.class_lists import places


def labels_of(source: Source) -> np.ndarray:
    """Returns all labels; a source that lacks `labels` is read through once.

    Returns:
        [n] int64; with several labels an image, [n] objects, which are tuples.
    """
    if hasattr(source, "labels"):
        labels = np.asarray(source.labels)
        return labels if labels.dtype == object else labels.astype(np.int64)
    return as_array([source[index]["label"] for index in range(len(source))])


def pairs_of(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Returns index and label of each label of each record, int64 [m] both, in order of indices."""
    labels = labels_of(source)
    if labels.dtype != object:
        return np.arange(len(labels)), labels
    indices = np.repeat(np.arange(len(labels)), [len(label) for label in labels])
    return indices, np.fromiter(itertools.chain.from_iterable(labels), np.int64, len(indices))


def occurring(source: Source, num_classes: int) -> tuple[int, ...] | None:
    """Returns the labels that records of a source have, in rising order; None if all occur."""
    labels = np.unique(pairs_of(source)[1]).tolist()
    return tuple(labels) if len(labels) < num_classes else None


class Relabelled:
    """The records of another source under other labels: `new_label` maps the old ones.

    Of several labels an image, those that it does not map are left out.
    """

    def __init__(self, source: Source, new_label: Mapping[int, int]):
        self.source = source
        self._new_label = dict(new_label)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """All labels [n]: int64, or tuples."""
        return as_array([self._renamed(label) for label in labels_of(self.source).tolist()])

    @property
    def boxes(self) -> Callable[[int], np.ndarray]:
        """Index -> boxes `[m, 5]`; only there if the other source has them."""
        boxes = self.source.boxes

        def renamed(index: int) -> np.ndarray:
            rows = [row for row in boxes(index) if int(row[0]) in self._new_label]
            return np.array([[self._new_label[int(label)], *box] for label, *box in rows], "f4")

        return renamed

    def _renamed(self, label: Label) -> Label:
        if isinstance(label, tuple):
            return tuple(self._new_label[one] for one in label if one in self._new_label)
        return self._new_label[label]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        record = self.source[index]
        return record | {"label": self._renamed(record["label"])}

    def describe(self, index: int) -> str:
        return self.source.describe(index)


def of_classes(source: Source, classes: Sequence[int]) -> Relabelled:
    """Returns the records of some classes; their labels become the classes' places in `classes`.

    Of images with several labels those that have one of the classes, without their other labels.
    """
    indices, labels = pairs_of(source)
    indices = np.unique(indices[np.isin(labels, classes)])
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
    """Chooses `count` records of each class; with several labels an image, some classes get more.

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
    indices, labels = pairs_of(source)
    order = np.random.default_rng(seed).permutation(len(source))
    chosen = []
    for label in range(num_classes):
        has_it = np.zeros(len(source), bool)
        has_it[indices[labels == label]] = True
        places = order[has_it[order]][:count]
        if len(places) < count:
            what = f"class {label} has only {len(places)}"
            raise ValueError(problem("config.data.examples_per_class", count, what))
        chosen.append(places)
    return Subset(source, np.unique(np.concatenate(chosen)))


def evenly_spaced(source: Source, at_most: int) -> Source:
    """Returns the source, or `at_most` records of a larger one, evenly spaced, in its order."""
    if at_most >= len(source):
        return source
    return Subset(source, np.arange(at_most) * len(source) // at_most)
