"""The images of a picture: from files, or examples of a data set, as a model sees them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.loading import Labelled
from data.pipeline import Data
from data.sources.arrays import Record, Source, Subset
from harness.errors import ConfigError, input_errors
from inference.given_images import GivenImages
from inference.pictures.subjects import Subject


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Images that a person chose, not yet prepared for a model.

    Attributes:
        files: image files, or
        examples: numbers of records of the evaluation split.
    """

    files: tuple[Path, ...] = ()
    examples: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.files or self.examples)

    def source(self, subject: Subject, size: tuple[int, int]) -> Source:
        """Returns the records. Some data sets make them in the size in pixels that is asked for."""
        predictor = subject.predictor
        data = dataclasses.replace(predictor.data, image_size=size)
        if self.files:
            orientation = data.exif_orientation
            return GivenImages(self.files, predictor.num_channels, exif_orientation=orientation)
        if not subject.has_recipe:
            raise ConfigError("--examples needs a data set: give --workdir or --config")
        with input_errors():
            source = data.eval_source
            last = len(source) - 1
            if outside := [index for index in self.examples if not 0 <= index <= last]:
                raise ValueError(f"--examples={outside[0]}: out of range; allowed: 0 to {last}")
            return Subset(source, self.examples)

    def labels(self, subject: Subject) -> list[tuple[int, ...]] | None:
        """Returns the classes of each example, None for files."""
        if self.files:
            return None
        source = self.source(subject, subject.predictor.image_shape[:2])
        labels = [source[index]["label"] for index in range(len(source))]
        return [label if isinstance(label, tuple) else (int(label),) for label in labels]


class WithoutLabels:
    """The images of another source, however many labels they have."""

    def __init__(self, source: Source):
        self._source = source
        self.describe = source.describe

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        return self._source[index] | {"label": 0}


def prepare(
    chosen: Chosen, subject: Subject, *, size: tuple[int, int] | None = None, of: Subject = None
) -> np.ndarray:
    """Prepares images as in the evaluation of a subject's recipe.

    Args:
        chosen: the images.
        subject: whose recipe prepares them.
        size: (height, width) in pixels; None: the model's.
        of: subject whose data set has the examples; None: the same one.

    Returns:
        uint8 [n, h, w, c].

    Raises:
        ConfigError: an image cannot be read.
    """
    predictor = subject.predictor
    size = size or predictor.image_shape[:2]
    if of and chosen.examples and of.predictor.num_channels != predictor.num_channels:
        counts = [of.predictor.num_channels, predictor.num_channels]
        raise ConfigError("--against: images of {1} channels, not {0}".format(*counts))
    data: Data = dataclasses.replace(
        predictor.data,
        image_size=size,
        eval_batch_size=len(chosen),
        num_workers=0,
        num_threads=None,
        sharding=None,
    )
    source = WithoutLabels(chosen.source(subject if chosen.files else of or subject, size))

    def report_bad(entries: Sequence[tuple[int, str, str]]) -> None:
        for _, name, reason in entries:
            raise ConfigError(f"{name}: {reason}")

    with input_errors():
        form = Labelled((*data.height_and_width, predictor.num_channels))
        batch = next(iter(data.batches_of(source, report_bad, form)))
    return np.asarray(batch["image"])[: len(chosen)]


def join(images: np.ndarray) -> np.ndarray:
    """Joins four images [4, h, w, c], row by row, to one, [2h, 2w, c]."""
    above, below = (np.concatenate(list(pair), axis=1) for pair in (images[:2], images[2:]))
    return np.concatenate([above, below], axis=0)
