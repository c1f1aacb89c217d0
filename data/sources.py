"""Random-access sources of labelled images.

A source has a length and gives for an index the record
`{"image": uint8 [h, w, c], "label": int}`. The same index always gives the same record, from any
thread and in any order; shuffling, augmentation and batching are the pipeline's.
"""

import functools
from collections.abc import Sequence
from typing import Any, Protocol

import cv2
import numpy as np


class Source(Protocol):
    """What every source offers."""

    def __len__(self) -> int:
        """Number of records."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Record at `index`, from 0 to the length less 1."""


class ArraySource:
    """Images and labels held in memory."""

    def __init__(self, images: np.ndarray, labels: Sequence[int] | np.ndarray):
        """Takes the arrays as they are.

        Args:
            images: uint8 `[n, h, w, c]`.
            labels: `[n]` integers.
        """
        if images.ndim != 4 or images.dtype != np.uint8:
            raise ValueError(
                f"images are {images.dtype} {images.shape}; they must be uint8 [n, h, w, c]"
            )
        if len(images) != len(labels):
            raise ValueError(f"there are {len(images)} images but {len(labels)} labels")
        self._images = images
        self._labels = [int(label) for label in labels]

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self._images[index], "label": self._labels[index]}


class Subset:
    """Consecutive records `start` to `stop - 1` of another source."""

    def __init__(self, source: Source, start: int, stop: int):
        if not 0 <= start <= stop <= len(source):
            raise ValueError(f"records {start} to {stop} do not lie in 0 to {len(source)}")
        self._source = source
        self._start = start
        self._length = stop - start

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self._length:
            raise IndexError(f"record {index} does not lie in 0 to {self._length - 1}")
        return self._source[self._start + index]


class SyntheticSource:
    """Made-up images: for each class a wave of its own direction and length, under noise.

    A model can learn the classes, so that losses fall in smoke runs; nothing is kept in memory, so
    that images of any size can be benchmarked. A record depends on `seed` and its index alone.
    """

    def __init__(
        self, num_examples: int, image_shape: tuple[int, int, int], num_classes: int, seed: int
    ):
        self._num_examples = num_examples
        self._image_shape = image_shape
        self._num_classes = num_classes
        self._seed = seed

    def __len__(self) -> int:
        return self._num_examples

    def __getitem__(self, index: int) -> dict[str, Any]:
        height, width, channels = self._image_shape
        label = index % self._num_classes
        rng = np.random.default_rng((self._seed, index))
        # Directions spread over half a turn; one to three periods across the image.
        angle = np.pi * label / self._num_classes
        periods = 2 * np.pi * (1 + label % 3)
        y = np.exp(1j * periods * np.sin(angle) * np.arange(height) / height)
        x = np.exp(1j * (periods * np.cos(angle) * np.arange(width) / width + rng.random()))
        wave = np.outer(y, x).real  # [h, w], -1 to 1
        image = rng.integers(0, 128, (height, width, channels), dtype=np.uint8)
        image += (63.5 * (wave + 1)).astype(np.uint8)[:, :, None]
        return {"image": image, "label": label}


def digits_source(split: str, image_size: tuple[int, int]) -> ArraySource:
    """Loads the handwritten digits that come with scikit-learn.

    Args:
        split: "train" (1,437 images) or "test" (360).
        image_size: height and width in pixels to which the 8x8 originals are resized.

    Returns:
        A source of one-channel images.

    Reference: https://archive.ics.uci.edu/dataset/80 (its test part, as scikit-learn ships it).
    """
    images, labels = _digits(split)
    height, width = image_size
    resized = [
        cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC) for image in images
    ]
    # Cubic interpolation overshoots at edges: cut to the range before rounding.
    stacked = np.clip(np.rint(np.stack(resized)), 0, 255).astype(np.uint8)
    return ArraySource(stacked[..., None], labels)


@functools.cache
def _digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images as float32 [n, 8, 8] in 0 to 255 and labels [n], in the split's fixed order."""
    # scikit-learn takes a second to import, and only this data set needs it.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = (digits.images * (255 / 16)).astype(np.float32)
    # Stratified, and shuffled: any slice of the training split has about the same mix of classes.
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, digits.target, test_size=360, stratify=digits.target, random_state=0
    )
    if split == "train":
        return train_images, train_labels
    return test_images, test_labels
