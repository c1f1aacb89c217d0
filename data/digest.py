"""A few words that tell whether the data of a run are still the same, wherever they lie."""

import contextlib
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
# Of data that lie where they did, these may differ: an image that has become unreadable has both.
OF_FILES = ("sizes", "contents")
_UNREADABLE = "-"


def data_digest(data: Data) -> dict[str, dict[str, Any]]:
    """Returns a digest of the training and the evaluation split of a run.

    Args:
        data: opened for training.

    Returns:
        "train" and "eval" -> `records`, their number, and digests of `classes`, `labels` (where
        they are at hand), `names` and `sizes` (of files) and `contents`, in the order of the
        records. `contents` are one for each record, "-" for those that cannot be read.
    """
    classes = {"classes": _digest(data.dataset.class_names or ())}
    return {
        "train": classes | _of_source(data.train_source),
        "eval": classes | _of_source(data.eval_source),
    }


def digest_differences(
    old: dict[str, Any], new: dict[str, Any], *, of_files: bool = True
) -> list[str]:
    """Lists what differs between two digests, such as "train: names, sizes"; [] if nothing does.

    What only one of them has, from another version, counts for nothing, nor does a record that one
    of them could not read.

    Args:
        old, new: from data_digest.
        of_files: whether sizes and contents count, too.
    """
    found = []
    for split in old.keys() & new.keys():
        before, now = old[split], new[split]
        different = [key for key in now if key in before and _differ(key, before[key], now[key])]
        if "records" in different:
            found.append(f"{split}: {before['records']:,} records there, {now['records']:,} now")
        elif different := [key for key in different if of_files or key not in OF_FILES]:
            found.append(f"{split}: other {', '.join(different)}")
    return sorted(found, reverse=True)


def _differ(key: str, old: Any, new: Any) -> bool:
    if key != "contents":
        return old != new
    pairs = zip(str(old).split(), new.split(), strict=False)
    return any(one != other and _UNREADABLE not in (one, other) for one, other in pairs)


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
        with contextlib.suppress(OSError):  # nobody can say now
            paths = (source.describe(index) for index in _some(source, NUM_SIZES))
            found["sizes"] = _digest([os.stat(path).st_size for path in paths])
    found["contents"] = " ".join(_content(source, index) for index in _some(source, NUM_CONTENTS))
    return found


def _some(source: Source, at_most: int) -> list[int]:
    return np.unique(np.linspace(0, len(source) - 1, min(len(source), at_most), dtype=int)).tolist()


def _content(source: Source, index: int) -> str:
    try:
        record = source[index]
    except (BadImage, OSError):  # as in training, see config.data.bad_images
        return _UNREADABLE
    image = record["image"]
    content = image if isinstance(image, bytes) else np.ascontiguousarray(image).tobytes()
    shape = () if isinstance(image, bytes) else image.shape
    return _digest([record["label"], shape, hashlib.blake2b(content).digest()])


def _digest(items) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for item in items:
        digest.update(repr(item).encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()
