"""Which files of a folder are its images: one rule for training, preparing and predicting.

An image is a file with an ending of a format that `data.images` reads, or without an ending and
with the first bytes of one. Folders are searched at any depth, and links to folders are followed,
except those that lead back. What is hidden (a dot comes first) is passed over.
"""

import os
from collections import Counter
from pathlib import Path

from data.images import endings, is_image
from harness.errors import printable

_NAMED = 5  # reasons that a note names; the rest are "others"


class Tally:
    """What searches took and left out, to be told in one line.

    Attributes:
        num_images: files taken.
        num_below: of these, how many lie in subfolders.
        left_out: reason, such as ".txt" -> number of files.
        errors: of folders that cannot be listed.
    """

    def __init__(self):
        self.num_images = self.num_below = 0
        self.left_out: Counter[str] = Counter()
        self.errors: list[OSError] = []

    def add(self, other: "Tally") -> None:
        """Adds what another search found."""
        self.num_images += other.num_images
        self.num_below += other.num_below
        self.left_out += other.left_out
        self.errors += other.errors

    def told(self) -> str:
        """Returns e.g. "3 files left out: 2 .txt, 1 .mp4", or "" if nothing is left out."""
        total = self.left_out.total()
        if not total:
            return ""
        named = self.left_out.most_common(_NAMED)
        shown = [f"{count:,} {reason}" for reason, count in named]
        if others := total - sum(count for _, count in named):
            shown.append(f"{others:,} others")
        return f"{total:,} file{'s' if total > 1 else ''} left out: {', '.join(shown)}"

    def note(self, folder: Path, where: str = "subfolders") -> str:
        """Returns a line on what a person may not expect of a folder, or "" if there is nothing.

        Args:
            folder: that was searched.
            where: images `num_below` lie.
        """
        parts = [self.told()] if self.left_out else []
        if self.num_below:
            parts.append(f"{self.num_below:,} of {self.num_images:,} images lie in {where}")
        return printable(f"{folder}: {'; '.join(parts)}") if parts else ""


def find_images(folder: str | os.PathLike, tally: Tally) -> list[bytes]:
    """Finds the images in and below a folder.

    Args:
        folder: to search.
        tally: counts what is found.

    Returns:
        Their paths within the folder, as the operating system encodes them, in no order.
    """
    root = os.path.join(os.getcwdb(), os.fsencode(folder))
    found = []
    todo = [(b"", _above(root))]
    while todo:
        prefix, above = todo.pop()
        try:
            here = _identity(os.path.join(root, prefix))
            if here in above:
                tally.left_out["that lead to a folder above"] += 1
                continue
            with os.scandir(os.path.join(root, prefix)) as entries:
                for entry in entries:
                    if entry.name.startswith(b"."):
                        continue
                    if entry.is_dir():
                        linked = _above(entry.path) if entry.is_symlink() else frozenset()
                        todo.append((prefix + entry.name + b"/", above | {here} | linked))
                    elif reason := _why_not(entry):
                        tally.left_out[reason] += 1
                    else:
                        found.append(prefix + entry.name)
        except OSError as error:
            tally.errors.append(error)
    tally.num_images += len(found)
    tally.num_below += sum(b"/" in name for name in found)
    return found


def num_images_in(folder: Path) -> int:
    """Counts the images in a folder, without those in its subfolders."""
    with os.scandir(os.fsencode(folder)) as entries:
        files = [e for e in entries if not e.name.startswith(b".") and not e.is_dir()]
    return sum(not _why_not(entry) for entry in files)


def _identity(path: bytes) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _above(path: bytes) -> frozenset[tuple[int, int]]:
    """Returns the folders that hold a path, as it is written and where it leads."""
    written, real = (Path(os.fsdecode(p)) for p in (path, os.path.realpath(path)))
    return frozenset(map(_identity, map(os.fsencode, {*written.parents, *real.parents})))


def _why_not(entry: os.DirEntry) -> str:
    """Returns why a file is left out; "" for an image."""
    if not (entry.is_file() or entry.is_symlink()):  # a broken link is an image that is missing
        return "neither file nor folder"
    ending = os.fsdecode(os.path.splitext(entry.name)[1].lower())
    if ending in endings() or (not ending and is_image(entry.path)):
        return ""
    return ending or "without an ending"
