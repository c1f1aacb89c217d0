"""Where a model's arrays are in a state dict: wrappers put their names before and between its own.

No wrapper is known by name. What stands before an array that every file of a model has is the
prefix, whatever put it there: DistributedDataParallel (module.), torch.compile (_orig_mod.),
Lightning (model., net.), mmpretrain (backbone.), several of them, or keys of nested dicts.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from harness.trees import listed
from zoo.stored_weights import NoAverage

# Words in a prefix that tell the moving average from the weights that the optimizer moves.
_AVERAGES = {"ema", "average", "averaged", "avg", "swa"}


@dataclasses.dataclass(frozen=True)
class Copy:
    """One copy of a model in a state dict.

    Attributes:
        arrays: name without what wrappers added -> array.
        prefix: what stood before the names, with its last point.
        skipped: what the state dict holds besides.
        notes: what a person should know about the choice.
    """

    arrays: dict[str, Any]
    prefix: str = ""
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find_copy(
    state: Mapping[str, Any], marks: Collection[str], known: Collection[str], weights: str
) -> Copy:
    """Finds the copy of a model that is asked for.

    Args:
        state: name -> array, of NumPy or PyTorch.
        marks: names of which every file of the model has one.
        known: all names that a file may have, the marks among them.
        weights: "raw", or "ema" for their moving average: a copy whose prefix says that it is one.

    Returns:
        The copy; all of `state` if no mark is in it.

    Raises:
        ValueError: there is no such copy, or there are several.
    """
    words = {word for name in known for word in name.split(".")}
    prefixes = _prefixes(state, marks, words)
    averages = [p for p in prefixes if _AVERAGES & set(p.replace(".", "_").split("_"))]
    others = [p for p in prefixes if p not in averages]
    wanted = averages if weights == "ema" else others
    if weights == "ema" and not averages:
        raise NoAverage("there is no moving average in this file")
    if not prefixes:
        return Copy(dict(state))
    if not wanted:
        raise ValueError(f"only a moving average in this file: weights='ema' reads {averages[0]!r}")
    if len(wanted) > 1:
        raise ValueError(
            f"several copies of the model in this file, under {listed([*map(repr, wanted)])}; "
            "save one of them by itself"
        )
    (prefix,) = wanted
    copies = tuple(p for p in prefixes if p != prefix)
    inside = tuple(p for p in copies if p.startswith(prefix))
    arrays = {
        name[len(prefix) :]: array
        for name, array in state.items()
        if name.startswith(prefix) and not name.startswith(inside)
    }
    for name in [name for name in arrays if name not in known]:
        inner = _without_wrappers(name.split("."), words)
        if inner in known and inner not in arrays:
            arrays[inner] = arrays.pop(name)
    outside = {n: a for n, a in state.items() if not n.startswith(tuple(prefixes))}
    head = _find_head(arrays, outside, prefix)
    notes = [f"the head is {head}weight and {head}bias"] if head else []
    for leaf in ("weight", "bias") if head else ():
        arrays[f"head.{leaf}"] = outside.pop(f"{head}{leaf}")
    if copies:
        notes.append(
            f"of the copies in this file {prefix!r} is read, not {listed([*map(repr, copies)])}"
        )
    skipped = dict.fromkeys(_label(name, prefix) for name in (*outside, *copies))
    return Copy(arrays, prefix, tuple(skipped), tuple(notes))


def _prefixes(names: Iterable[str], marks: Collection[str], words: set[str]) -> list[str]:
    """Returns what stands before a mark, each once, the shortest first."""
    found = set()
    for name in names:
        parts = name.split(".")
        for mark in marks:
            first = mark.split(".")[0]
            starts = [i for i, part in enumerate(parts) if part == first]
            if starts and _without_wrappers(parts[starts[-1] :], words) == mark:
                found.add("".join(f"{part}." for part in parts[: starts[-1]]))
    return sorted(found, key=lambda prefix: (len(prefix), prefix))


def _without_wrappers(parts: Iterable[str], words: set[str]) -> str:
    """Returns a name without the parts that no name of the model has, as FSDP puts between."""
    return ".".join(part for part in parts if part in words)


def _find_head(arrays: Mapping[str, Any], outside: Mapping[str, Any], prefix: str) -> str | None:
    """Returns "head.fc." if that is a dense layer beside the model that has no head of its own.

    It takes as many features as the model's last norm gives, and is the only one that does.
    """
    width = getattr(arrays.get("norm.weight"), "shape", ())
    if not prefix or not width or any(name.startswith("head.") for name in arrays):
        return None
    heads = [
        name.removesuffix("weight")
        for name, array in outside.items()
        if name.endswith(".weight") and tuple(array.shape[1:]) == tuple(width)
        if tuple(outside.get(f"{name.removesuffix('weight')}bias", array).shape) == array.shape[:1]
    ]
    return heads[0] if len(heads) == 1 else None


def _label(name: str, prefix: str) -> str:
    """Returns the start of a name as far as it differs from the prefix: "optimizer"."""
    parts, chosen = name.rstrip(".").split("."), prefix.split(".")
    shared = 0
    while shared < min(len(parts), len(chosen)) and parts[shared] == chosen[shared]:
        shared += 1
    return ".".join(parts[: shared + 1])
