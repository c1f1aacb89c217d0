"""What a smaller copy of a data set was made from, its file source.json, and if it still is."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from data.datasets import SOURCE_FILE, Dataset
from data.sources.arrays import NoLabel, Source
from harness.errors import BadImage
from harness.files import write_text

_SAMPLES = 100  # files of a split whose content counts too, not only their names and sizes


def describe_source(dataset: Dataset, folder: Path, size: int) -> dict[str, Any]:
    """Describes the images that a copy is made from, so that any other set differs.

    Args:
        dataset: of image files, or prepared by TensorFlow Datasets.
        folder: where it is.
        size: short side of the copy's images in pixels.

    Returns:
        Ready for JSON. `path` is where the set was; the rest is what it holds.
    """
    splits = {}
    for split in dataset.splits:
        try:
            source = dataset.load(split, (size, size))
        except NoLabel:  # the copy leaves it out
            continue
        splits[split] = {"records": len(source), "hash": _hash(source, folder)}
    return {
        "path": str(folder),
        "size": size,
        "class_names": list(dataset.class_names or ()),
        "splits": splits,
    }


def _hash(source: Source, folder: Path) -> str:
    """Hashes the labels, paths and sizes of a split's files, and the content of some of them.

    Of a set without files, the content of some records.
    """
    total, step = hashlib.sha256(), max(1, len(source) // _SAMPLES)
    if hasattr(source, "labels"):  # which a list may give
        labels = np.asarray(source.labels)
        several = labels.dtype == object  # tuples
        total.update(repr(labels.tolist()).encode() if several else labels.astype("i8").tobytes())
    for index in range(len(source)):
        path = source.describe(index)
        if is_file := os.path.isfile(path):
            name = os.path.relpath(path, folder)
            total.update(os.fsencode(f"{name}\0{os.path.getsize(path)}\0"))
        if index % step == 0:
            if is_file:
                total.update(Path(path).read_bytes())
            else:
                total.update(_content(source, index))
    return total.hexdigest()[:16]


def _content(source: Source, index: int) -> bytes:
    try:
        record = source[index]
    except (NoLabel, BadImage) as error:  # which a copy leaves out, or keeps as it is
        return type(error).__name__.encode()
    return bytes(record["image"]) + str(record["label"]).encode()


def write_source(folder: Path, described: dict[str, Any]) -> None:
    """Writes what `describe_source` gives into the folder of the copy."""
    write_text(folder / SOURCE_FILE, json.dumps(described, indent=2) + "\n")


def compare_source(folder: Path, described: dict[str, Any]) -> str:
    """Returns how the source of a copy differs from what it would be made from now; "": not at all.

    Args:
        folder: of the copy.
        described: by `describe_source`.
    """
    path = described["path"]
    try:
        there = json.loads((folder / SOURCE_FILE).read_text(encoding="utf-8"))
        before, now = there["splits"], described["splits"]
        counts = [
            f"{split} had {before.get(split, {}).get('records', 0)} images and has "
            f"{now.get(split, {}).get('records', 0)}"
            for split in dict.fromkeys((*before, *now))
            if before.get(split, {}).get("records") != now.get(split, {}).get("records")
        ]
        if all(there[key] == described[key] for key in ("size", "class_names", "splits")):
            return ""
        if there["path"] != path:
            return f"a copy of {there['path']}, not of {path}"
        if there["class_names"] != described["class_names"]:
            changed = set(there["class_names"]) ^ set(described["class_names"])
            counts.append(
                f"its classes differ in {', '.join(sorted(changed)[:5]) or 'their order'}"
            )
        if there["size"] != described["size"]:
            counts.append(f"short side {there['size']}, not {described['size']}")
        what = "; ".join(counts) or "some of its files are other ones"
        return f"a copy of {path} as it was before: {what}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"a copy that does not say what it is of, perhaps not of {path} as it is now"
