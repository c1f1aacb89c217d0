"""Image files to predict: finding them, and reading them as a source of records."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from data.images import as_channels, decode_image
from data.sources.arrays import Record
from data.sources.image_search import Tally, find_images
from harness.errors import BadImage
from harness.files import WrongPath, local_path


class ImageFiles:
    """Image files as a source: one record per file, without a label."""

    def __init__(self, paths: Sequence[Path], num_channels: int, *, exif_orientation: bool = False):
        """Takes the paths in the order of the records.

        Args:
            paths: of files, which need not exist before they are read.
            num_channels: 3, or 1: grey, by the luma of Rec. 601.
            exif_orientation: whether a grey image, decoded here, is turned as its tag says.
        """
        self._paths = list(paths)
        self._is_grey = num_channels == 1
        self._exif_orientation = exif_orientation

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Record:
        try:
            encoded = self._paths[index].read_bytes()
        except OSError as error:
            raise BadImage(f"it cannot be read: {error.strerror}") from error
        if not self._is_grey:
            return {"image": encoded, "label": 0}
        image = decode_image(encoded, exif_orientation=self._exif_orientation)
        return {"image": as_channels(image, 1), "label": 0}

    def describe(self, index: int) -> str:
        return str(self._paths[index])


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
