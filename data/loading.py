"""From an index of a source to an augmented image, and from many of them to a part of a batch.

What runs in the loader's threads and worker processes is here; it never touches JAX.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grain
import numpy as np

from data.images import UndecodedJpeg, as_channels, decode_image, open_image
from data.sources.arrays import Label, Source
from harness.arguments import problem
from harness.errors import BadImage, one_line

# A record that cannot be read is replaced by others, of which this many may be unreadable too.
REPLACEMENTS = 10


@dataclass(frozen=True)
class Sample:
    """A record on its way into a batch.

    Attributes:
        row: array name -> what goes into the batch; None in evaluation if it cannot be read.
        bad: (index in the source, name, reason) of each record that could not be read.
    """

    row: dict[str, np.ndarray] | None
    bad: tuple[tuple[int, str, str], ...] = ()


class Form(Protocol):
    """What records become: an item, which the augmentations change, and then rows of a batch.

    Attributes:
        empty: name -> array of a row without a record, all of the shapes and dtypes of a row.
    """

    empty: dict[str, np.ndarray]

    def start(self, image: np.ndarray | UndecodedJpeg, label: Any) -> Any:
        """Returns the item of a decoded image and its record's label; may raise BadImage."""

    def finish(self, item: Any, label: Any) -> dict[str, np.ndarray]:
        """Returns the row of an augmented item."""

    def classes(self, row: dict[str, np.ndarray]) -> Sequence[int]:
        """Returns the labels that occur in a row."""


class Labelled:
    """Images with a class, or several: the item is the image."""

    def __init__(self, image_shape: tuple[int, int, int], label_shape: tuple[int, ...] = ()):
        """Takes the shapes.

        Args:
            image_shape: (height, width, channels).
            label_shape: of a record's label in the batch: () for its number, (num_classes,) for 1
                at each of its classes and 0 elsewhere.
        """
        label = np.zeros(label_shape, np.int32)
        self.empty = {"image": np.zeros(image_shape, np.uint8), "label": label}

    def start(self, image: np.ndarray | UndecodedJpeg, label: Label) -> np.ndarray | UndecodedJpeg:
        return image

    def finish(self, item: np.ndarray, label: Label) -> dict[str, np.ndarray]:
        row = self.empty["label"].copy()
        row[list(label) if row.shape else ()] = 1 if row.shape else label
        return {"image": item, "label": row}

    def classes(self, row: dict[str, np.ndarray]) -> Sequence[int]:
        label = row["label"]
        return np.flatnonzero(label) if label.ndim else [label]


def replacement(index: int, attempt: int, num_records: int) -> int:
    """Returns the record that stands in for an unreadable one.

    It depends on the arguments alone, so that order and resuming stay exact whichever thread,
    process or host finds the record unreadable.
    """
    return int(np.random.default_rng((index, attempt)).integers(num_records))


def check_channels(key: str, channels: int | None) -> None:
    """Raises ValueError for what is no number of channels of an image."""
    if channels not in (None, 1, 3):
        raise ValueError(problem(key, channels, "wrong", "1: grey, 3: colour"))


def _read(
    source: Source,
    index: int,
    exif_orientation: bool,
    decode: Callable[..., np.ndarray | UndecodedJpeg],
    channels: int | None = None,
) -> tuple[np.ndarray | UndecodedJpeg, Label]:
    """Returns the image and label of a record; raises BadImage or OSError."""
    record = source[index]
    image = record["image"]
    if isinstance(image, bytes):
        image = decode(image, exif_orientation=exif_orientation)
    return as_channels(image, channels), record["label"]


def _bad(source: Source, index: int, error: Exception) -> tuple[int, str, str]:
    return index, source.describe(index), one_line(error)


def none_readable(source: Source, most: int) -> str:
    """Returns what is wrong if none of the first `most` + 1 records can be read, "" otherwise.

    Of a source with images that can be read this takes one of them.

    Args:
        source: of images.
        most: how many may be unreadable before a run stops anyway: config.data.max_bad.
    """
    bad = []
    for index in range(min(len(source), most + 1)):
        try:
            _read(source, index, False, decode_image)
            return ""
        except (BadImage, OSError) as error:
            bad.append(_bad(source, index, error))
    what = "no image can be read"
    if len(bad) < len(source):
        what = f"more than config.data.max_bad={most} images cannot be read"
    first = "; ".join(f"{name}: {reason}" for _, name, reason in bad[:3])
    return f"{what}: {first}{'; ...' if len(bad) > 3 else ''}"


class ReadTraining(grain.transforms.RandomMap):
    """Index -> augmented Sample; unreadable records are replaced."""

    def __init__(
        self,
        source: Source,
        form: Form,
        steps: Sequence[Callable[[Any, np.random.Generator], Any]],
        exif_orientation: bool,
        channels: int | None = None,
    ):
        self._source = source
        self._form = form
        self._steps = steps
        self._exif_orientation = exif_orientation
        self._channels = channels

    def random_map(self, index: int, rng: np.random.Generator) -> Sample:
        first, *others = self._steps
        # Of a crop's image no more is decoded than the crop needs.
        decode = open_image if getattr(first, "takes_undecoded", False) else decode_image
        unused = rng.bit_generator.state
        bad = []
        wanted = index
        while True:
            try:
                image, label = _read(
                    self._source, index, self._exif_orientation, decode, self._channels
                )
                item = first(self._form.start(image, label), rng)
                break
            except (BadImage, OSError) as error:
                rng.bit_generator.state = unused
                bad.append(_bad(self._source, index, error))
                if len(bad) > REPLACEMENTS:
                    raise BadImage(
                        f"{bad[0][1]} and {REPLACEMENTS} replacements cannot be read: {error}"
                    ) from None
                index = replacement(wanted, len(bad), len(self._source))
        for step in others:
            item = step(item, rng)
        return Sample(self._form.finish(item, label), tuple(bad))


class ReadEvaluation(grain.transforms.Map):
    """Index -> Sample for evaluation; an unreadable one is left out, so that none counts twice."""

    def __init__(
        self,
        source: Source,
        form: Form,
        crop: Callable[[Any], Any],
        exif_orientation: bool,
        channels: int | None = None,
    ):
        self._source = source
        self._form = form
        self._crop = crop
        self._options = (exif_orientation, decode_image, channels)

    def map(self, index: int) -> Sample:
        try:
            image, label = _read(self._source, index, *self._options)
            item = self._form.start(image, label)
        except (BadImage, OSError) as error:
            return Sample(None, (_bad(self._source, index, error),))
        return Sample(self._form.finish(self._crop(item), label))


class Repeat(grain.transforms.Map):
    """Position -> index, each index `repeats` times in a row: repeated augmentation.

    An epoch still has `num_records` positions, so each draws a new set of `num_records / repeats`
    records.

    Args:
        order: endless list of indices, of which each run of `num_records` is one epoch's order.
        num_records: of the source.
        repeats: copies of each record, augmented differently.

    Reference: Hoffer et al., "Augment your batch", arXiv 1901.09335; DeiT's RASampler.
    """

    def __init__(self, order: grain.MapDataset, num_records: int, repeats: int):
        self._order = order
        self._num_records = num_records
        self._repeats = repeats

    def map(self, position: int) -> int:
        epoch, place = divmod(position, self._num_records)
        return self._order[epoch * self._num_records + place // self._repeats]


def training_order(num_records: int, seed: int, repeats: int) -> grain.MapDataset:
    """Returns the endless list of indices that training goes through, epoch after epoch.

    Args:
        num_records: of the source.
        seed: of the order, and of what is done with the list.
        repeats: see Repeat.
    """
    order = grain.MapDataset.range(num_records).seed(seed).shuffle().repeat()
    if repeats == 1:
        return order
    repeat = Repeat(order, num_records, repeats)
    return grain.MapDataset.range(len(order)).map(repeat).seed(seed)


class MakePart(grain.transforms.Map):
    """Makes part t of all batches: some rows of one global batch.

    A part is what one thread makes at a time. It is large enough that its overhead does not count
    and small enough that many threads do not hold many batches.

    Args:
        records: list of Samples; rows past its end are `empty` with mask 0.
        empty: of the records' Form.
        batch_size: global.
        parts: rows of the global batch in each part.
    """

    def __init__(
        self,
        records: grain.MapDataset,
        empty: dict[str, np.ndarray],
        batch_size: int,
        parts: list[list[int]],
    ):
        self._records = records
        self._num_records = len(records)
        self._empty = empty
        self._batch_size = batch_size
        self._parts = parts

    def map(self, t: int) -> dict[str, Any]:
        k, part = divmod(t, len(self._parts))
        rows = self._parts[part]
        arrays = {
            name: np.repeat(empty[None], len(rows), axis=0) for name, empty in self._empty.items()
        }
        mask = np.zeros(len(rows), np.float32)
        bad = []
        for position, row in enumerate(rows):
            index = k * self._batch_size + row
            if index >= self._num_records:
                continue
            record = self._records[index]
            bad.extend(record.bad)
            if record.row is not None:
                for name, value in record.row.items():
                    arrays[name][position] = value
                mask[position] = 1.0
        return {**arrays, "mask": mask, "bad": bad}


def join_parts(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Puts the parts of a batch together."""
    joined = {"bad": [entry for part in parts for entry in part.pop("bad")]}
    for key in parts[0]:
        arrays = [part[key] for part in parts]
        joined[key] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return joined
