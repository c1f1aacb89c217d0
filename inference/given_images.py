"""Images that a person gives, as files, folders or arrays: finding, reading and batching them."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from data.images import as_channels, decode_image
from data.loading import Labelled
from data.pipeline import Data
from data.sources.arrays import Record
from data.sources.image_search import Tally, find_images
from harness.errors import BadImage
from harness.files import WrongPath, local_path

# A file or folder, or uint8 pixels: [h, w], [h, w, c] or, of several images, [n, h, w, c].
Given = str | os.PathLike | np.ndarray
# Images uint8 [b, h, w, c] and the number of the first of them -> arrays with b rows.
Compute = Callable[[jax.Array, int], Mapping[str, jax.Array]]


class GivenImages:
    """Images as a source: one record per file or array, without a label."""

    def __init__(
        self,
        images: Sequence[Path | np.ndarray],
        num_channels: int,
        *,
        exif_orientation: bool = False,
    ):
        """Takes the images in the order of the records.

        Args:
            images: paths of files, which need not exist before they are read, and arrays of
                uint8 [h, w, c].
            num_channels: 3, or 1: grey, by the luma of Rec. 601.
            exif_orientation: whether a grey image, decoded here, is turned as its tag says.
        """
        self._images = list(images)
        self._num_channels = num_channels
        self._exif_orientation = exif_orientation

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Record:
        image = self._images[index]
        if isinstance(image, Path):
            try:
                image = image.read_bytes()
            except OSError as error:
                raise BadImage(f"it cannot be read: {error.strerror}") from error
            if self._num_channels == 3:
                return {"image": image, "label": 0}
            image = decode_image(image, exif_orientation=self._exif_orientation)
        return {"image": as_channels(image, self._num_channels), "label": 0}

    def describe(self, index: int) -> str:
        image = self._images[index]
        return str(image) if isinstance(image, Path) else f"image {index}"


def as_images(given: Given | Sequence[Given]) -> list[Path | np.ndarray]:
    """Returns one entry per image of what a caller gives.

    Args:
        given: one of, or several together: a file; a folder, which stands for all images in and
            below it, sorted; an array, uint8, [h, w], [h, w, c] or [n, h, w, c].

    Returns:
        Paths of files, and arrays [h, w, c].

    Raises:
        ValueError: a folder has no image, or something is neither a path nor such an array.
    """
    if isinstance(given, str | os.PathLike):
        files, problems, _ = find_files([os.fspath(given)])
        if problems:
            raise ValueError(problems[0])
        return files
    if isinstance(given, list | tuple):
        return [image for one in given for image in as_images(one)]
    array = np.asarray(given)  # also of Pillow's images and of JAX's arrays
    array = array[..., None] if array.ndim == 2 else array
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[-1] not in (1, 3):
        raise ValueError(
            f"an image is a path, or uint8 [h, w, c] or [n, h, w, c] with 1 or 3 channels; this is "
            f"{type(given).__name__}, {array.dtype} {list(np.shape(given))}"
        )
    if 0 in array.shape[-3:]:
        raise ValueError(f"an image of shape {list(array.shape)} has no pixels")
    return list(array) if array.ndim == 4 else [array]


def find_files(paths: Iterable[str]) -> tuple[list[Path], list[str], list[str]]:
    """Finds the files to predict.

    Args:
        paths: files, taken as they are, and folders, whose images (data/sources/image_search.py)
            are taken in sorted order.

    Returns:
        The files; a line per URL and per folder that has none or cannot be listed; and a line per
        folder of which files are left out, or whose images lie in subfolders.
    """
    files, problems, notes = [], [], []
    for path in paths:
        try:
            here = local_path("image", path)
        except WrongPath as error:
            problems.append(str(error))
            continue
        path = here if path.startswith("~") else Path(path)  # shown as given
        if not path.is_dir():
            files.append(path)
            continue
        tally = Tally()
        found = [path / os.fsdecode(name) for name in find_images(path, tally)]
        files += sorted(found)
        for error in tally.errors:
            folder = Path(os.fsdecode(error.filename))
            problems.append(f"{folder}: the folder cannot be read: {error.strerror}")
        if not found:
            told = f" ({tally.told()})" if tally.told() else ""
            problems.append(f"{path}: the folder holds no image{told}")
        elif note := tally.note(path):
            notes.append(note)
    return files, problems, notes


@dataclasses.dataclass(frozen=True)
class Row:
    """What was computed of one image.

    Attributes:
        given: its path or array.
        image: uint8 [h, w, c], as the model sees it; None if it cannot be read.
        outputs: a row of each array.
        problem: why it cannot be read, "" otherwise.
    """

    given: Path | np.ndarray
    image: np.ndarray | None = None
    outputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    problem: str = ""


def compute_rows(
    images: Sequence[Path | np.ndarray],
    compute: Compute,
    *,
    data: Data,
    num_channels: int,
    batch_size: int,
    images_sharding: NamedSharding | None,
) -> Iterator[Row]:
    """Yields what a function of batches gives for each image, in their order.

    Args:
        images: see `as_images`.
        compute: gets batches of uint8 images [batch_size, h, w, c]; the last is padded.
        data: prepares the images, as in evaluation.
        num_channels: 3, or 1 for grey images.
        batch_size: how many at once.
        images_sharding: of the images; None: NumPy arrays.
    """
    data = dataclasses.replace(
        data,
        eval_batch_size=batch_size,
        num_workers=0,  # starting processes takes longer than most folders
        num_threads=None,
        sharding=images_sharding,
    )
    problems: dict[int, str] = {}

    def report_bad(entries: list[tuple[int, str, str]]) -> None:
        problems.update((index, reason) for index, _, reason in entries)

    source = GivenImages(images, num_channels, exif_orientation=data.exif_orientation)
    first = 0
    form = Labelled((*data.height_and_width, num_channels))
    for batch in data.batches_of(source, report_bad, form):
        outputs = jax.device_get(compute(batch["image"], first))
        pixels = np.asarray(batch["image"])
        for row, given in enumerate(images[first : first + len(pixels)]):  # the rest is padding
            if first + row in problems:
                yield Row(given, problem=problems[first + row])
            else:
                own = {name: values[row] for name, values in outputs.items()}
                yield Row(given, pixels[row], own)
        first += len(pixels)
