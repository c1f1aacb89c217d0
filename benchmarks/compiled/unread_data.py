"""The sizes of data sets, for programs that are compiled where the data are not.

A train step depends on its data set through the number of classes, the channels and, by way of the
schedule's length, the number of training images.
"""

import dataclasses
import functools
import re

import numpy as np

from data import datasets, pipeline, selection
from data.sources import arrays
from harness.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of a data set: classes, channels, and images of each split."""

    num_classes: int
    num_channels: int
    splits: dict[str, int]


_IMAGENET = {"train": 1_281_167, "validation": 50_000}
# As the catalog of TensorFlow Datasets has them; iNaturalist as in the competition's README.
SIZES = {
    "imagenet2012": Sizes(1000, 3, _IMAGENET),
    "downsampled_imagenet/64x64": Sizes(1, 3, {"train": 1_281_149, "validation": 49_999}),
    "cifar10": Sizes(10, 3, {"train": 50_000, "test": 10_000}),
    "cifar100": Sizes(100, 3, {"train": 50_000, "test": 10_000}),
    "oxford_flowers102": Sizes(102, 3, {"train": 1020, "validation": 1020, "test": 6149}),
    "oxford_iiit_pet": Sizes(37, 3, {"train": 3680, "test": 3669}),
    "inat:": Sizes(1010, 3, {"train": 265_213, "test": 3030}),
}


class Unread:
    """A source of a length, with labels in turn, of which no image can be read."""

    def __init__(self, length: int, num_classes: int):
        self._length = length
        self.labels = np.arange(length) % num_classes

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> arrays.Record:
        arrays.check_index(index, self._length)
        return {"image": b"", "label": int(self.labels[index])}

    def describe(self, index: int) -> str:
        return f"record {index} of a data set that is not read"


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnreadData(pipeline.Data):
    """The data of a run without the data set.

    Attributes:
        sizes: of the data set; None: those in SIZES, or of a set that ships with the code.

    Raises:
        ConfigError: nothing says how large the data set is.
    """

    sizes: Sizes | None = None

    @functools.cached_property
    def dataset(self) -> datasets.Dataset:
        """What the sizes say."""
        if self.sizes is None and self.name in datasets.BUILT_IN:
            return super().dataset
        # A split that the table lacks has the size of the training split: it may be any other's.
        known = self.sizes or SIZES.get("inat:" if self.name.startswith("inat:") else self.name)
        if known is None:
            raise ConfigError(
                f"config.data.name={self.name!r}: its sizes are not known here: give --num_classes "
                "and --num_examples, of its training split"
            )
        names = re.findall(r"[A-Za-z_]\w*", f"{self.train_split} {self.eval_split}")
        splits = dict.fromkeys(names, known.splits["train"]) | known.splits

        def load(split: str, image_size: tuple[int, int]) -> arrays.Source:
            return Unread(splits[split], known.num_classes)

        channels = self.channels or known.num_channels
        dataset = datasets.Dataset(self.name, known.num_classes, channels, load, tuple(splits))
        return selection.keep_classes(dataset, self.classes) if self.classes else dataset
