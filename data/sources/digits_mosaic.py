"""Images of four handwritten digits of four different classes, one in each quadrant.

Where each class lies is known, so that explanations of a model can be checked.
"""

import functools

import numpy as np

from data.sources.arrays import Record, check_index, digits_source

_SIZES = {"train": 5000, "test": 500}
_SEEDS = {"train": 0, "test": 1}
# Mosaics come in this many runs of equal length, each of its own part of the digits: no digit of
# train[80%:] is in train[:80%], as it has to be where a recipe is tuned.
_PARTS = 5
# Above left, above right, below left, below right: top, left, bottom, right.
QUADRANTS = np.array(
    [(0, 0, 0.5, 0.5), (0, 0.5, 0.5, 1), (0.5, 0, 1, 0.5), (0.5, 0.5, 1, 1)], np.float32
)


class MosaicSource:
    """Mosaics of the digits of one split; a record depends on the split and its index alone."""

    def __init__(self, split: str, image_size: tuple[int, int]):
        """Draws which digits each mosaic has.

        Args:
            split: "train" or "test", of the digits.
            image_size: height and width in pixels of a mosaic, even.

        Raises:
            ValueError: a side is odd.
        """
        height, width = image_size
        if height % 2 or width % 2:
            raise ValueError(f"mosaics of {height} x {width} pixels: sides must be even")
        self._split = split
        self._digits = digits_source(split, (height // 2, width // 2))
        labels = np.asarray(self._digits.labels)
        self._chosen = _choose(split, tuple(labels.tolist()))  # [n, 4]
        self.labels = np.fromiter(map(tuple, labels[self._chosen].tolist()), object, len(self))

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Record:
        check_index(index, len(self))
        a, b, c, d = (self._digits[int(digit)]["image"] for digit in self._chosen[index])
        image = np.concatenate([np.concatenate([a, b], 1), np.concatenate([c, d], 1)])
        return {"image": image, "label": self.labels[index]}

    def boxes(self, index: int) -> np.ndarray:
        """Returns label, top, left, bottom, right of each digit, float32 [4, 5], in fractions."""
        check_index(index, len(self))
        return np.column_stack([self.labels[index], QUADRANTS]).astype(np.float32)

    def describe(self, index: int) -> str:
        return f"record {index} of digits_mosaic {self._split}"


@functools.cache
def _choose(split: str, labels: tuple[int, ...]) -> np.ndarray:
    """Returns which digits are in the quadrants of each mosaic, int64 [n, 4]."""
    of_class = [np.flatnonzero(np.asarray(labels) == label) for label in range(10)]
    count = _SIZES[split]
    chosen = np.empty((count, 4), np.int64)
    for index in range(count):
        rng = np.random.default_rng((_SEEDS[split], index))
        part = index * _PARTS // count
        for quadrant, label in enumerate(rng.choice(10, 4, replace=False)):
            chosen[index, quadrant] = rng.choice(of_class[label][part::_PARTS])
    return chosen


# Slices of one split share what is in memory.
digits_mosaic_source = functools.cache(MosaicSource)
