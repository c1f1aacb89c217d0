"""A few words that tell whether the data of a run are still the same, wherever they lie."""

import hashlib
import os
from typing import Any

import numpy as np

from data.pipeline import Data
from data.selection import Relabelled
from data.sources.arrays import Source
from harness.errors import BadImage

# What is looked at of each record costs time with a million of them on a network disk: of so many,
# evenly spaced, the names, the sizes of the files and the contents.
NUM_NAMES, NUM_SIZES, NUM_CONTENTS = 100_000, 2_000, 32


def data_digest(data: Data) -> dict[str, dict[str, Any]]:
    """Returns a digest of the training and the evaluation split of a run.

    Args:
        data: opened for training.

    Returns:
        "train" and "eval" -> `records`, their number, and digests of `classes`, `labels` (where
        they are at hand), `names` and `sizes` (of files) and `contents`, in the order of the
        records.
    """
    classes = {"classes": _digest(data.dataset.class_names or ())}
    return {
        "train": classes | _of_source(data.train_source),
        "eval": classes | _of_source(data.eval_source),
    }


def digest_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Lists what differs between two digests, such as "train: names, sizes"; [] if nothing does.

    What only one of them has, from another version, counts for nothing.
    """
    found = []
    for split in old.keys() & new.keys():
        before, now = old[split], new[split]
        different = [key for key in now if key in before and before[key] != now[key]]
        if "records" in different:
            found.append(f"{split}: {before['records']:,} records there, {now['records']:,} now")
        elif different:
            found.append(f"{split}: other {', '.join(different)}")
    return sorted(found, reverse=True)


def _of_source(source: Source) -> dict[str, Any]:
    found = {"records": len(source)}
    inner = source
    while isinstance(inner, Relabelled):  # which would read all records for their labels
        inner = inner.source
    if hasattr(inner, "labels"):
        found["labels"] = _digest(np.asarray(source.labels).tolist())
    if os.path.isabs(source.describe(0)):
        names = [source.describe(index) for index in _some(source, NUM_NAMES)]
        root = len(os.path.commonpath([os.path.dirname(name) for name in names]))
        found["names"] = _digest(name[root:] for name in names)
        found["sizes"] = _digest(
            _size(source.describe(index)) for index in _some(source, NUM_SIZES)
        )
    found["contents"] = _digest(_content(source, index) for index in _some(source, NUM_CONTENTS))
    return found


def _some(source: Source, at_most: int) -> list[int]:
    return np.unique(np.linspace(0, len(source) - 1, min(len(source), at_most), dtype=int)).tolist()


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _content(source: Source, index: int) -> str:
    try:
        record = source[index]
    except BadImage:
        return "unreadable"
    image = record["image"]
    content = image if isinstance(image, bytes) else np.ascontiguousarray(image).tobytes()
    shape = () if isinstance(image, bytes) else image.shape
    return f"{record['label']} {shape} {hashlib.blake2b(content, digest_size=8).hexdigest()}"


def _digest(items) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for item in items:
        digest.update(repr(item).encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()
