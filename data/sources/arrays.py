"""Random-access sources of labelled images.

A source has a length and gives for an index the record `{"image": ..., "label": int}`, whose image
is uint8 `[h, w, c]` or the bytes of an image file; with several labels an image, "label" is a tuple
of ints. The same index always gives the same record, from any thread and in any order, and a
pickled source gives the same ones in a worker process. A source that knows where objects lie has
`boxes(index) -> float32 [m, 5]`: label, top, left, bottom and right, in fractions of the image's
height and width. The pipeline decodes, shuffles, augments and batches.
"""

import bisect
import contextlib
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import cv2
import numpy as np

from data.images import decode_image
from harness.errors import BadImage

Record = dict[str, Any]  # image: uint8 [h, w, c] or encoded bytes; label: int or tuple of ints
Label = int | tuple[int, ...]


class NoLabel(ValueError):
    """A split or a record has no label, or one that is none of the classes."""


class Source(Protocol):
    """What every source offers."""

    def __len__(self) -> int:
        """Number of records."""

    def __getitem__(self, index: int) -> Record:
        """Returns the record at `index`, from 0; raises IndexError outside the source."""

    def describe(self, index: int) -> str:
        """Returns a name of the record for a person: its file, or its number and split."""


def check_index(index: int, length: int) -> None:
    """Raises IndexError unless 0 <= index < length."""
    if not 0 <= index < length:
        raise IndexError(f"record {index} does not lie in 0 to {length - 1}")


def tried(source: Source) -> Source:
    """Returns the source after reading one record, so that what all lack shows at once.

    Raises:
        ValueError: such as records without labels.
    """
    with contextlib.suppress(BadImage):
        _ = source[0]
    return source


class ArraySource:
    """Images and labels held in memory."""

    def __init__(
        self, images: np.ndarray, labels: Sequence[Label] | np.ndarray, name: str = "the array"
    ):
        """Takes the arrays as they are.

        Args:
            images: uint8 `[n, h, w, c]`.
            labels: `[n]` integers, or tuples of them.
            name: of data set and split, for `describe`.
        """
        if images.ndim != 4 or images.dtype != np.uint8:
            raise ValueError(
                f"images are {images.dtype} {images.shape}; they must be uint8 [n, h, w, c]"
            )
        if len(images) != len(labels):
            raise ValueError(f"there are {len(images)} images but {len(labels)} labels")
        self._images = images
        is_multi = len(labels) > 0 and isinstance(labels[0], tuple)
        self.labels = as_array(labels) if is_multi else [int(label) for label in labels]
        self._name = name

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Record:
        check_index(index, len(self))
        return {"image": self._images[index], "label": self.labels[index]}

    def describe(self, index: int) -> str:
        return f"record {index} of {self._name}"


def as_array(labels: Sequence[Label]) -> np.ndarray:
    """Returns labels `[n]`: int64, or an array of objects for tuples of them."""
    if not any(isinstance(label, tuple) for label in labels):
        return np.asarray(labels, np.int64)
    return np.fromiter(labels, object, len(labels))


def hold_in_memory(source: Source, image_shape: tuple[int, int, int], name: str) -> ArraySource:
    """Reads and decodes all records of a source whose images have one size.

    Args:
        source: of encoded images.
        image_shape: (height, width, 3).
        name: of data set and split, for `describe`.

    Raises:
        ValueError: an image cannot be read, or has another size.
    """
    images = np.empty((len(source), *image_shape), np.uint8)
    labels = []
    for index in range(len(source)):
        record = source[index]
        try:
            image = decode_image(record["image"])
        except BadImage as error:
            raise ValueError(f"{source.describe(index)}: {error}") from None
        if image.shape != image_shape:
            raise ValueError(
                f"{source.describe(index)} has the shape {image.shape}, not {image_shape}"
            )
        images[index] = image
        labels.append(record["label"])
    return ArraySource(images, labels, name)


class Subset:
    """Some records of another source, in the order given."""

    def __init__(self, source: Source, indices: range | Sequence[int] | np.ndarray):
        """Chooses the records.

        Args:
            source: what to choose from.
            indices: of its records; a range takes no memory.
        """
        if not isinstance(indices, range):
            indices = np.asarray(indices, np.int64)
        if len(indices):
            is_range = isinstance(indices, range)
            ends = np.asarray(indices[:: len(indices) - 1 or 1] if is_range else indices)
            first, last = ends.min(), ends.max()
            if not 0 <= first <= last < len(source):
                raise ValueError(f"records {first} to {last} do not lie in 0 to {len(source) - 1}")
        self._source = source
        self._indices = indices

    @property
    def labels(self) -> np.ndarray:
        """All labels `[n]`; only there if the other source has them at hand."""
        return np.asarray(self._source.labels)[np.asarray(self._indices)]

    @property
    def boxes(self) -> Callable[[int], np.ndarray]:
        """Index -> boxes `[m, 5]`; only there if the other source has them."""
        boxes = self._source.boxes
        return lambda index: boxes(int(self._indices[index]))

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:
        check_index(index, len(self))
        return self._source[int(self._indices[index])]

    def describe(self, index: int) -> str:
        check_index(index, len(self))
        return self._source.describe(int(self._indices[index]))


class Concatenated:
    """All records of the first source, then all of the second, and so on."""

    def __init__(self, parts: Sequence[Source]):
        self._parts = list(parts)
        self._ends = list(itertools.accumulate(len(part) for part in self._parts))

    @property
    def labels(self) -> np.ndarray:
        """All labels `[n]`; only there if every part has them at hand."""
        return np.concatenate([part.labels for part in self._parts])

    @property
    def boxes(self) -> Callable[[int], np.ndarray]:
        """Index -> boxes `[m, 5]`; only there if every part has them."""
        _ = [part.boxes for part in self._parts]

        def boxes(index: int) -> np.ndarray:
            part, within = self._locate(index)
            return part.boxes(within)

        return boxes

    def __len__(self) -> int:
        return self._ends[-1]

    def _locate(self, index: int) -> tuple[Source, int]:
        check_index(index, len(self))
        part = bisect.bisect_right(self._ends, index)
        return self._parts[part], index - (self._ends[part - 1] if part else 0)

    def __getitem__(self, index: int) -> Record:
        part, within = self._locate(index)
        return part[within]

    def describe(self, index: int) -> str:
        part, within = self._locate(index)
        return part.describe(within)


class SyntheticSource:
    """Synthetic images: noise over a wave whose direction and length depend on the class.

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

    def describe(self, index: int) -> str:
        return f"record {index} of synthetic (seed {self._seed})"

    def __getitem__(self, index: int) -> Record:
        check_index(index, len(self))
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
    return ArraySource(stacked[..., None], labels, f"digits {split}")


@functools.cache
def _digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns images, float32 [n, 8, 8] in 0 to 255, and labels [n], in the split's fixed order."""
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
