"""Image files to predict: finding them, and reading them as a source of records."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2

from data.images import decode_image
from data.sources.arrays import Record
from data.sources.folders import SUFFIXES
from harness.errors import BadImage


class ImageFiles:
    """Image files as a source: one record per file, without a label."""

    def __init__(self, paths: Sequence[Path], num_channels: int):
        """Takes the paths in the order of the records.

        Args:
            paths: of files, which need not exist before they are read.
            num_channels: 3, or 1: grey, by the luma of Rec. 601.
        """
        self._paths = list(paths)
        self._is_grey = num_channels == 1

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Record:
        try:
            encoded = self._paths[index].read_bytes()
        except OSError as error:
            raise BadImage(f"it cannot be read: {error.strerror}") from error
        if not self._is_grey:
            return {"image": encoded, "label": 0}
        grey = cv2.cvtColor(decode_image(encoded), cv2.COLOR_RGB2GRAY)
        return {"image": grey[..., None], "label": 0}

    def describe(self, index: int) -> str:
        return str(self._paths[index])


def find_images(paths: Iterable[str]) -> tuple[list[Path], list[str]]:
    """Finds the files to predict.

    Args:
        paths: files, taken as they are, and folders, whose image files (by their suffix, without
            hidden ones) are taken in sorted order, recursively.

    Returns:
        The files, and one line per folder that holds none or cannot be listed.
    """
    files, problems = [], []

    def note(error: OSError) -> None:
        problems.append(f"{error.filename}: the folder cannot be read: {error.strerror}")

    for path in map(Path, paths):
        if not path.is_dir():
            files.append(path)
            continue
        found = []
        for folder, below, names in os.walk(path, onerror=note):
            below[:] = [name for name in below if not name.startswith(".")]
            found += [
                Path(folder, name)
                for name in names
                if name.lower().endswith(SUFFIXES) and not name.startswith(".")
            ]
        if not found:
            endings = ", ".join(SUFFIXES)
            problems.append(f"{path}: the folder holds no image; known endings: {endings}")
        files += sorted(found)
    return files, problems
