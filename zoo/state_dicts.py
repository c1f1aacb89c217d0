"""State dicts of PyTorch models: which model each is of, and what its source fixes unseen.

How foreign names map to ours lives beside the model (nest/convert_timm.py, tnt/convert.py).
"""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen as nn

from nest import convert_timm as nest_timm
from nest.model import Nest
from tnt import convert as tnt_weights
from tnt.model import Tnt
from tnt.names import FIELDS as TNT_FIELDS

State = Mapping[str, np.ndarray]  # "blocks.0.proj.weight" -> array

# What wrappers of PyTorch put before every name.
_PREFIXES = ("module.", "_orig_mod.")


@dataclasses.dataclass(frozen=True)
class Converted:
    """A state dict in our names.

    Attributes:
        naming: whose names they were.
        params: tree in our names.
        fields: fields of the model that the source fixes, though no array shows them.
        skipped: names that were left out.
        notes: what a person should know.
    """

    naming: str
    params: dict[str, Any]
    fields: dict[str, Any]
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def convert_state_dict(
    file: Path, state: State, model: nn.Module, architecture: str | None = None
) -> Converted:
    """Gives the arrays of a state dict our names.

    Args:
        file: where it comes from; its name may tell timm's architecture.
        state: name -> array.
        model: the model that it is for.
        architecture: timm's name of the model, if the file itself tells.

    Returns:
        The parameters; names that have no place in the model stay as they are.

    Raises:
        ValueError: if no names of this model are known, or these are of another one.
    """
    for prefix in _PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): array for name, array in state.items()}
    convert = STATE_DICTS.get(type(model))
    if convert is None:
        known = ", ".join(model_class.__name__ for model_class in STATE_DICTS)
        raise ValueError(
            f"weights {file}: state dicts can be read for {known}, not for {type(model).__name__}"
        )
    try:
        return convert(file, state, model, architecture)
    except (ValueError, IndexError, AttributeError) as error:  # names of some other model
        raise ValueError(f"weights {file}: {error}") from error


def _nest(file: Path, state: State, model: Nest, architecture: str | None) -> Converted:
    params = nest_timm.from_timm(state, model)
    architecture = architecture or _timm_architecture(file)
    if architecture is None:
        notes = (
            "nothing tells how timm's model pads its aggregation: nest_*_jx as "
            f"aggregation_padding='same', nest_* as 'torch'; this model has "
            f"{model.aggregation_padding!r}",
        )
        return Converted("timm NesT", params, nest_timm.FIELDS, notes=notes)
    padding = "same" if "jx" in architecture.split("_") else "torch"
    fields = {**nest_timm.FIELDS, "aggregation_padding": padding}
    return Converted(f"timm {architecture}", params, fields)


def _tnt(file: Path, state: State, model: Tnt, architecture: str | None) -> Converted:
    params, naming = tnt_weights.from_pytorch(state, model), tnt_weights.naming_of(state)
    skipped = tuple(name for name in ("outer_tokens",) if name in state)
    return Converted(f"{naming} TNT", params, TNT_FIELDS[naming], skipped)


def _timm_architecture(file: Path) -> str | None:
    """Finds timm's name of a NesT in the config.json beside the file or in the names around it."""
    try:
        config = json.loads((file.parent / "config.json").read_text())
        return _timm_name(config["architecture"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no folder of a model hub
    return _timm_name(file.name) or _timm_name(file.parent.name)


def _timm_name(text: str) -> str | None:
    """Returns "nest_tiny_jx" for that itself, with a tag or a suffix, or "jx_nest_tiny-8bc41011".

    Any other name of a NesT is somebody's own and tells nothing of its padding.
    """
    found = re.fullmatch(r"(jx_)?(nest_(?:tiny|small|base))(_jx)?(?:-[0-9a-f]{8})?(?:\..*)?", text)
    return found and found[2] + ("_jx" if found[1] or found[3] else "")


# model class -> function from a file, its state dict, a model and an architecture to our names
STATE_DICTS: dict[type[nn.Module], Callable[[Path, State, Any, str | None], Converted]] = {
    Nest: _nest,
    Tnt: _tnt,
}
