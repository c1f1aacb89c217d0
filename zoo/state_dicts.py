"""PyTorch state dicts: which codebase one comes from, and the model fields which that implies.

How the names map to this repository's is in the model's own room (nest/convert_timm.py,
tnt/convert.py, tnt/convert_pyramid.py).
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen as nn

from harness.trees import listed
from nest import convert_timm as nest_timm
from nest.model import Nest
from tnt import convert as tnt_weights
from tnt import convert_pyramid as pyramid_weights
from tnt.model import Tnt
from tnt.names import FIELDS as TNT_FIELDS
from tnt.pyramid import PyramidTnt
from zoo.state_dict_copies import Copy, find_copy
from zoo.stored_weights import StoredWeights

State = Mapping[str, np.ndarray]  # "blocks.0.proj.weight" -> array


def select(
    file: Path,
    state: Mapping[str, Any],
    model: nn.Module,
    weights: str,
    keys: Iterable[str] = (),
) -> Copy:
    """Finds a model's arrays in a state dict, under any prefix.

    Args:
        file: where it comes from, for messages.
        state: name -> array, of NumPy or PyTorch.
        model: the model that it is for.
        weights: "raw", or "ema" for their moving average.
        keys: of nested dicts, the ones to prefer first if there are several copies.

    Raises:
        ValueError: no state dict of this class of model is known, not one copy is to be found, or
            its arrays are not the weights but what a parametrization computes them from.
    """
    if type(model) not in STATE_DICTS:
        known = ", ".join(model_class.__name__ for model_class in STATE_DICTS)
        raise ValueError(
            f"weights {file}: state dicts can be read for {known}, not for {type(model).__name__}"
        )
    _, marks, names = STATE_DICTS[type(model)]
    try:
        copy = find_copy(state, marks, names(model), weights, keys)
    except ValueError as error:
        raise type(error)(f"weights {file}: {error}") from None  # a NoAverage stays one
    computed = [name for name in copy.arrays if "parametrizations" in name.split(".")]
    if computed:
        raise ValueError(
            f"weights {file}: {listed(computed)}: a parametrization computes the weights from "
            "these; call torch.nn.utils.parametrize.remove_parametrizations, then save"
        )
    return copy


def convert_state_dict(
    file: Path, copy: Copy, model: nn.Module, architecture: str | None = None
) -> StoredWeights:
    """Renames the arrays of a state dict to the model's parameters.

    Args:
        file: where it comes from; its name may include timm's architecture.
        copy: of the model, as `select` gives it, in NumPy's arrays.
        model: the model that it is for.
        architecture: timm's name of the model, if the file itself names it.

    Returns:
        The parameters; names that have no place in the model stay as they are.

    Raises:
        ValueError: the state dict is of another model.
    """
    convert, _, _ = STATE_DICTS[type(model)]
    try:
        stored = convert(file, copy.arrays, model, architecture)
    except (ValueError, IndexError, AttributeError) as error:  # names of some other model
        raise ValueError(f"weights {file}: {error}") from error
    return dataclasses.replace(
        stored, skipped=(*stored.skipped, *copy.skipped), notes=(*stored.notes, *copy.notes)
    )


def _nest(file: Path, state: State, model: Nest, architecture: str | None) -> StoredWeights:
    variables = {"params": nest_timm.from_timm(state, model)}
    architecture = architecture or _timm_architecture(file)
    if architecture is None:
        notes = (
            "the file does not say how timm's model pads its aggregation: nest_*_jx as "
            "aggregation_padding='same', nest_* as 'torch'; this model has "
            f"{model.aggregation_padding!r}",
        )
        return StoredWeights("timm NesT", variables, nest_timm.FIELDS, notes=notes)
    padding = "same" if "jx" in architecture.split("_") else "torch"
    fields = {**nest_timm.FIELDS, "aggregation_padding": padding}
    return StoredWeights(f"timm {architecture}", variables, fields)


def _tnt(file: Path, state: State, model: Tnt, architecture: str | None) -> StoredWeights:
    variables = {"params": tnt_weights.from_pytorch(state, model)}
    naming = tnt_weights.naming_of(state)
    skipped = tuple(name for name in ("outer_tokens",) if name in state)
    return StoredWeights(f"{naming} TNT", variables, TNT_FIELDS[naming], skipped)


def _pyramid_tnt(
    file: Path, state: State, model: PyramidTnt, architecture: str | None
) -> StoredWeights:
    variables = pyramid_weights.from_official(state, model)
    return StoredWeights("official PyramidTNT", variables, pyramid_weights.FIELDS)


def _timm_architecture(file: Path) -> str | None:
    """Finds timm's name of a NesT in the folder's config.json or the names of file and folder."""
    try:
        config = json.loads((file.parent / "config.json").read_text())
        return _timm_name(config["architecture"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not a model hub's folder
    return _timm_name(file.name) or _timm_name(file.parent.name)


def _timm_name(text: str) -> str | None:
    """Returns "nest_tiny_jx" for that, with or without tag or suffix, or "jx_nest_tiny-8bc41011".

    Any other name is somebody's own and says nothing about the padding.
    """
    found = re.fullmatch(r"(jx_)?(nest_(?:tiny|small|base))(_jx)?(?:-[0-9a-f]{8})?(?:\..*)?", text)
    return found and found[2] + ("_jx" if found[1] or found[3] else "")


# model class -> function (file, state dict, model, architecture) -> renamed weights; names of which
# each file has one; function (model) -> all names that files have
STATE_DICTS: dict[type[nn.Module], tuple[Callable, tuple[str, ...], Callable]] = {
    Nest: (_nest, (nest_timm.MARK,), nest_timm.names_of),
    Tnt: (_tnt, tnt_weights.MARKS, tnt_weights.names_of),
    PyramidTnt: (_pyramid_tnt, (pyramid_weights.MARK,), pyramid_weights.names_of),
}
