"""Where a model's arrays are in a state dict: wrappers put their names before and between its own.

No wrapper is known by name. What stands before an array that every file of a model has is the
prefix, whatever put it there: DistributedDataParallel (module.), torch.compile (_orig_mod.),
Lightning (model., net.), mmpretrain (backbone.), several of them, or keys of nested dicts. Only
whether it is a moving average, or an optimizer's state, is told by the prefix's words.
"""

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from harness.trees import listed
from zoo.stored_weights import NoAverage

# What tells, in `_words` of a prefix, the moving average from the weights that the optimizer moves.
_AVERAGE = re.compile(r"(?<!\bno )(?<!\bnon )\b(ema|swa|avg|averaged?)\b(?! pool)")
# And what is no copy: PyTorch's optimizers call their moments exp_avg, square_avg, momentum_buffer.
# A momentum_encoder is a model, so that "momentum" and "grad" count only if they end a part.
_OPTIMIZER = re.compile(
    r"\b(exp|square) avg|\boptim(i[sz]ers?)?\b"
    r"|\b(moment(um)?s?|grads?|gradients?)( (ema|avg|acc\w*|buffers?|\d+))* \."
)


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
    state: Mapping[str, Any],
    marks: Collection[str],
    known: Collection[str],
    weights: str,
    keys: Iterable[str] = (),
) -> Copy:
    """Finds the copy of a model that is asked for.

    Args:
        state: name -> array, of NumPy or PyTorch.
        marks: names of which every file of the model has one.
        known: all names that a file may have, the marks among them.
        weights: "raw", or "ema" for their moving average: a copy whose prefix says that it is one.
        keys: first parts of names, the ones to prefer first if there are several copies.

    Returns:
        The copy; all of `state` if no mark is in it.

    Raises:
        ValueError: there is no such copy, or there are several.
    """
    words = {word for name in known for word in name.split(".")}
    found = _prefixes(state, marks, words)
    prefixes = [p for p in found if not _OPTIMIZER.search(_words(p))]
    # Lightning's WeightAveraging and mmengine's EMAHook store the average in the weights' place,
    # these under current_model_state and, of all names, ema_state_dict (which counts steps).
    swapped = any(
        name.startswith(("current_model_state.", "ema_state_dict.steps")) for name in state
    )
    averages = [
        p
        for p in prefixes
        if (p.startswith("state_dict.") if swapped else _AVERAGE.search(_words(p)))
    ]
    others = [p for p in prefixes if p not in averages]
    wanted = averages if weights == "ema" else others
    if weights == "ema" and not averages:
        raise NoAverage("there is no moving average in this file")
    if not prefixes:
        arrays = [name for name in state if not name.endswith(".step")]  # which Adam counts
        if arrays and all(_OPTIMIZER.search(_words(f"{name}.")) for name in arrays):
            raise ValueError("only the state of an optimizer in this file, and no weights")
        return Copy(dict(state))
    if not wanted:
        raise ValueError(f"only a moving average in this file: weights='ema' reads {averages[0]!r}")
    preferred = ([p for p in wanted if p.startswith(f"{key}.")] for key in keys)
    wanted = next(filter(None, preferred), wanted)
    if len(wanted) > 1:
        raise ValueError(
            f"several copies of the model in this file, under {listed([*map(repr, wanted)])}; "
            "save one of them by itself"
        )
    (prefix,) = wanted
    copies = [p for p in prefixes if p != prefix]
    besides = [p for p in found if p != prefix]
    inside = tuple(p for p in besides if p.startswith(prefix))
    arrays = {
        name[len(prefix) :]: array
        for name, array in state.items()
        if name.startswith(prefix) and not name.startswith(inside)
    }
    for name in [name for name in arrays if name not in known]:
        inner = _without_wrappers(name.split("."), words)
        if inner in known and inner not in arrays:
            arrays[inner] = arrays.pop(name)
    outside = {n: a for n, a in state.items() if not n.startswith(tuple(found))}
    elsewhere = {p.split(".")[0] for p in besides} - {prefix.split(".")[0]}  # with heads of theirs
    beside = {
        name: array
        for name, array in outside.items()
        if name.split(".")[0] not in elsewhere and not _OPTIMIZER.search(_words(name))
    }
    head = _find_head(arrays, beside, prefix)
    notes = [f"the head is {head}weight and {head}bias"] if head else []
    for leaf in ("weight", "bias") if head else ():
        arrays[f"head.{leaf}"] = outside.pop(f"{head}{leaf}")
    if copies:
        notes.append(
            f"of the copies in this file {prefix!r} is read, not {listed([*map(repr, copies)])}"
        )
    if swapped and averages:
        notes.append(f"the moving average of this file is under {averages[0]!r}")
    skipped = dict.fromkeys(_label(name, prefix) for name in (*outside, *besides))
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


def _words(prefix: str) -> str:
    """Returns "model ema . module ." of "modelEMA.module."."""
    return " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|\.", prefix)).lower()


def _without_wrappers(parts: Sequence[str], words: set[str]) -> str:
    """Returns a name without the parts that no name of the model has, as FSDP puts between.

    The last one stays: what is below a weight, such as its momentum_buffer, is not the weight.
    """
    return ".".join([*(part for part in parts[:-1] if part in words), parts[-1]])


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
