"""From a recipe's data section to batches on the device: order, augmentation, padding.

    source -> shuffle (another order each epoch) -> repeat -> augment    record i of an endless list
    rows k * batch_size + [0 .. batch_size) of that list                 global batch k
    read ahead in threads -> device arrays                               what the loop takes

Batch k is a function of (seed, k) and the recipe: which threads and processes make it, or at which
batch a run resumes, changes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np
from jax.sharding import NamedSharding

from data import datasets, sources, transforms
from data.batches import Batches, BatchReader, Layout


def missing_parts(name: str, augment: Mapping[str, Any] | None) -> list[str]:
    """Names the parts of a recipe that the papers have and this code does not have yet."""
    planned = transforms.PLANNED_TRANSFORMS
    wanted = [key for key, kwargs in dict(augment or {}).items() if kwargs is not None]
    return [planned[key] for key in wanted if key in planned]


def check_data(
    *,
    name: str,
    image_size: int | tuple[int, int],
    batch_size: int,
    eval_batch_size: int,
    train_split: str = "train",
    eval_split: str = "test",
    augment: Mapping[str, Any] | None = None,
    seed: int = 0,
    num_threads: int = 1,
    prefetch: int = 2,
    data_dir: str | None = None,
) -> None:
    """Checks the arguments of `create_data` without reading data or touching a device.

    Raises:
        ValueError: names the key, its value and what is allowed.
    """
    missing = missing_parts(name, augment)
    if missing:
        raise ValueError(f"not in this version yet: {'; '.join(missing)}")
    try:
        dataset = datasets.open_dataset(name, data_dir)
    except ValueError as error:
        raise ValueError(f"data.name: {error}") from None
    _height_and_width(image_size)
    for key, value, least in (
        ("batch_size", batch_size, 1),
        ("eval_batch_size", eval_batch_size, 1),
        ("seed", seed, 0),
        ("num_threads", num_threads, 0),
        ("prefetch", prefetch, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"data.{key} is {value!r}; it must be a whole number from {least}")
    if seed >= 2**32:
        raise ValueError(f"data.seed is {seed}; it must be below 2**32")
    if data_dir is not None and not isinstance(data_dir, str):
        raise ValueError(f"data.data_dir is {data_dir!r}; it must be a path or None")
    for key, split in (("train_split", train_split), ("eval_split", eval_split)):
        try:
            datasets.parse_split(dataset, split)
        except ValueError as error:
            raise ValueError(f"data.{key}: {error}") from None
    transforms.create_transforms(augment)


def _height_and_width(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Image size in pixels as a pair."""
    pair = image_size if isinstance(image_size, tuple | list) else (image_size, image_size)
    if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
        raise ValueError(
            f"data.image_size is {image_size!r}; it must be a positive whole number of pixels or "
            "a pair (height, width) of them"
        )
    return tuple(pair)


class _Augment(grain.transforms.RandomMap):
    """Applies the transforms to a record, with the record's own generator."""

    def __init__(self, steps: list[transforms.Transform]):
        self._steps = steps

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        image = element["image"]
        for step in self._steps:
            image = step(image, rng)
        return {**element, "image": image}


@dataclass(frozen=True, kw_only=True)
class Data:
    """The data of one run; make it with `create_data`, which explains the fields.

    Attributes:
        dataset: the entry of `DATASETS`: classes, channels, mean, std.
        train_source: the records of the training split.
        eval_source: the records of the evaluation split.
        image_size: (height, width).
        steps: the augmentation, in order.
        layout: how global batches lie over processes and devices.
    """

    dataset: datasets.Dataset
    train_source: sources.Source
    eval_source: sources.Source
    image_size: tuple[int, int]
    batch_size: int
    eval_batch_size: int
    steps: list[transforms.Transform]
    seed: int
    layout: Layout
    num_threads: int
    prefetch: int
    data_dir: str | None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the images."""
        return (*self.image_size, self.dataset.num_channels)

    @property
    def num_train_examples(self) -> int:
        """Size of the training split."""
        return len(self.train_source)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.dataset.num_classes

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel's pixels, scaled to 0..1."""
        return self.dataset.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel's pixels, scaled to 0..1."""
        return self.dataset.std

    def train_batches(self, start: int = 0) -> Batches:
        """Returns endless augmented training batches.

        Each epoch holds every example once, in an order of its own. Epochs follow each other
        without a gap: a batch may hold the end of one and the start of the next.

        Args:
            start: number of batches to leave out, which costs nothing.
        """
        records = grain.MapDataset.source(self.train_source).seed(self.seed).shuffle().repeat()
        if self.steps:
            records = records.random_map(_Augment(self.steps))
        return Batches(self._reader(records, self.batch_size), start)

    def eval_batches(self, split: str | None = None) -> BatchReader:
        """Returns all examples of a split, once each, in order, without augmentation.

        The last batch is filled up with zeros, whose mask is 0. The batch size is rounded up to a
        multiple of the number of devices (or processes).

        Args:
            split: as for TensorFlow Datasets; None is the recipe's `eval_split`.

        Returns:
            An iterable with a length in batches and `num_examples`.
        """
        source = self.eval_source
        if split is not None:
            source = datasets.load_source(self.dataset, split, self.image_size)
        batch_size = self.layout.round_up(self.eval_batch_size)
        return self._reader(grain.MapDataset.source(source), batch_size)

    def _reader(self, records: grain.MapDataset, batch_size: int) -> BatchReader:
        return BatchReader(
            records=records,
            image_shape=self.image_shape,
            batch_size=batch_size,
            layout=self.layout,
            num_threads=self.num_threads,
            prefetch=self.prefetch,
        )


def create_data(
    *,
    name: str,
    image_size: int | tuple[int, int],
    batch_size: int,
    eval_batch_size: int,
    train_split: str = "train",
    eval_split: str = "test",
    augment: Mapping[str, Any] | None = None,
    seed: int = 0,
    sharding: NamedSharding | None = None,
    num_threads: int = 1,
    prefetch: int = 2,
    data_dir: str | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Data:
    """Opens a data set for training and evaluation.

    Args:
        name: key of `DATASETS`.
        image_size: height and width in pixels, or one number for both.
        batch_size: global, over all devices and processes.
        eval_batch_size: likewise; any number will do.
        train_split: like "train" or "train[:80%]".
        eval_split: likewise.
        augment: name in `TRANSFORMS` -> keyword arguments (None: off).
        seed: of order and augmentation, 0 to 2**32 - 1.
        sharding: how the batch axis lies over the devices; None gives numpy batches.
        num_threads: threads that make batches; 0 leaves it to the prefetch thread.
        prefetch: batches kept ready on the device; 0 makes each when it is asked for.
        data_dir: folder of those data sets that have files.
        process_index: without sharding, which of `process_count` parts of each batch to load.
        process_count: see `process_index`; with a sharding, the mesh says it.

    Raises:
        ValueError: names the key, its value and what is allowed.
    """
    check_data(
        name=name,
        image_size=image_size,
        batch_size=batch_size,
        eval_batch_size=eval_batch_size,
        train_split=train_split,
        eval_split=eval_split,
        augment=augment,
        seed=seed,
        num_threads=num_threads,
        prefetch=prefetch,
        data_dir=data_dir,
    )
    image_size = _height_and_width(image_size)
    layout = Layout(sharding, process_index, process_count)
    layout.check("data.batch_size", batch_size)
    dataset = datasets.open_dataset(name, data_dir)
    return Data(
        dataset=dataset,
        train_source=datasets.load_source(dataset, train_split, image_size),
        eval_source=datasets.load_source(dataset, eval_split, image_size),
        image_size=image_size,
        batch_size=batch_size,
        eval_batch_size=eval_batch_size,
        steps=transforms.create_transforms(augment),
        seed=seed,
        layout=layout,
        num_threads=num_threads,
        prefetch=prefetch,
        data_dir=data_dir,
    )
