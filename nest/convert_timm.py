"""timm's parameter names of NesT <-> ours. Pure functions on dicts of NumPy arrays.

timm (timm/models/nest.py) counts levels and layers from 0, we from 1; its aggregation belongs to
the level above, ours to the level below:

    timm                                       ours
    patch_embed.proj                           patch_embedding
    levels.0.pos_embed [1,t,n,c]               level1_position/embedding [t,n,c]
    levels.1.pool.conv, norm                   level1_aggregation/conv, norm
    levels.2.transformer_encoder.0.            level3_layer1/
        norm1, norm2                               norm_attention, norm_mlp
        attn.qkv [3*h*d,c], attn.proj [c,d*h]      attention/qkv [c,3,h,d], out [h,d,c]
        mlp.fc1, mlp.fc2                           mlp/dense1, dense2
    norm, head                                 norm, head

After attention, timm puts channels before heads: the inputs of attn.proj are [d, h], not [h, d].
timm's models `nest_*` pad the aggregation as PyTorch does, `nest_*_jx` as the official code; the
names are the same. All have the exact GELU, so that official weights converted to timm give
slightly different logits there.

Shape letters: t blocks, n tokens of a block, c channels, h heads, d channels of a head.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from nest.model import Nest

State = dict[str, np.ndarray]  # as in PyTorch: "levels.0.pos_embed" -> array

MARK = "levels.0.pos_embed"  # an array that every such file has

# What timm's code fixes and no array shows.
FIELDS = {"gelu": "exact"}

# Fields that a model must have to exist in timm.
_IN_TIMM = {"attention": "multi_head", "aggregation": "conv_norm_maxpool", **FIELDS}


def from_timm(state: Mapping[str, np.ndarray], model: Nest) -> dict[str, Any]:
    """Renames and regroups timm's parameters.

    Args:
        state: name -> array.
        model: the model that the parameters are for; its depths and heads decide.

    Returns:
        The tree in our names. An array without a place in the model stays under its own name, so
        that a comparison with the model's own tree reports it.

    Raises:
        ValueError: if the names are not those of a NesT.
    """
    if MARK not in state:
        raise ValueError(f"parameter names are not those of a NesT: no {MARK}")
    state, ours = dict(state), {}
    for theirs, name, heads in _arrays(model):
        if theirs in state:
            converted = _array_in(name, state[theirs], heads)
            if converted is not None:
                ours[name] = converted
                del state[theirs]
    return unflatten_dict(ours | state, sep="/")


def to_timm(params: Mapping[str, Any], model: Nest) -> State:
    """Renames and regroups parameters as in timm: the inverse of `from_timm`.

    Args:
        params: tree in our names.
        model: the model that they belong to.

    Returns:
        What timm's `load_state_dict(..., strict=True)` takes.

    Raises:
        ValueError: if timm has no such model.
    """
    wrong = {field: getattr(model, field) for field in _IN_TIMM}
    wrong = [f"{field}={have!r}" for field, have in wrong.items() if have != _IN_TIMM[field]]
    sides = model.block_size
    if isinstance(sides, tuple) and sides[0] != sides[1]:  # it takes square images only
        wrong.append(f"block_size={sides}")
    if wrong:
        need = ", ".join(f"{field}={value!r}" for field, value in _IN_TIMM.items())
        raise ValueError(f"timm has no NesT with {', '.join(wrong)}; it has {need}")
    ours = flatten_dict(params, sep="/")
    state = {}
    for theirs, name, _ in _arrays(model):
        if name in ours:
            # Contiguous, because safetensors writes a transposed view as if it were not transposed.
            state[theirs] = np.ascontiguousarray(_array_out(name, ours.pop(name)))
    if ours:
        raise ValueError(f"no timm name for {', '.join(sorted(ours)[:10])}")
    return state


def names_of(model: Nest) -> set[str]:
    """Returns the names of all arrays that timm's files of a model may have."""
    return {theirs for theirs, _, _ in _arrays(model)}


def _arrays(model: Nest) -> Iterator[tuple[str, str, int]]:
    """Yields (timm's name, our name, heads) of every array that a model may have."""
    modules = [("patch_embed.proj", "patch_embedding", 0), ("norm", "norm", 0), ("head", "head", 0)]
    for level, (depth, heads) in enumerate(zip(model.depths, model.num_heads, strict=True)):
        yield f"levels.{level}.pos_embed", f"level{level + 1}_position/embedding", 0
        if level:
            for part in ("conv", "norm"):
                ours = f"level{level}_aggregation/{part}"
                modules.append((f"levels.{level}.pool.{part}", ours, 0))
        for layer in range(depth):
            theirs = f"levels.{level}.transformer_encoder.{layer}"
            ours = f"level{level + 1}_layer{layer + 1}"
            modules += [
                (f"{theirs}.norm1", f"{ours}/norm_attention", 0),
                (f"{theirs}.norm2", f"{ours}/norm_mlp", 0),
                (f"{theirs}.attn.qkv", f"{ours}/attention/qkv", heads),
                (f"{theirs}.attn.proj", f"{ours}/attention/out", heads),
                (f"{theirs}.mlp.fc1", f"{ours}/mlp/dense1", 0),
                (f"{theirs}.mlp.fc2", f"{ours}/mlp/dense2", 0),
            ]
    for theirs, ours, heads in modules:
        weight = "scale" if "norm" in ours.rpartition("/")[2] else "kernel"
        yield f"{theirs}.weight", f"{ours}/{weight}", heads
        yield f"{theirs}.bias", f"{ours}/bias", heads


def _array_in(name: str, array: np.ndarray, heads: int) -> np.ndarray | None:
    """Converts an array of theirs into ours, or returns None if it does not fit."""
    if name.endswith("/embedding"):
        return array[0] if array.ndim == 4 and len(array) == 1 else None  # [t, n, c]
    if "/qkv/" in name:
        if array.ndim != 1 + name.endswith("kernel") or len(array) % (3 * heads):
            return None
        array = array.reshape(3, heads, -1, *array.shape[1:])  # [3, h, d] or [3, h, d, c]
        return np.moveaxis(array, 3, 0) if array.ndim == 4 else array  # [c, 3, h, d]
    if not name.endswith("/kernel"):
        return array
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)  # [height, width, in, out]
    if array.ndim != 2:
        return None
    if "/out/" in name:
        if array.shape[1] % heads:
            return None
        array = array.T.reshape(-1, heads, array.shape[0])  # [d, h, c]
        return array.transpose(1, 0, 2)  # [h, d, c]
    return array.T


def _array_out(name: str, array: np.ndarray) -> np.ndarray:
    """Converts an array of this model into timm's: the inverse of `_array_in`."""
    if name.endswith("/embedding"):
        return array[None]  # [1, t, n, c]
    if name.endswith("/qkv/kernel"):
        return np.moveaxis(array, 0, -1).reshape(-1, len(array))  # [3 * h * d, c]
    if name.endswith("/qkv/bias"):
        return array.reshape(-1)
    if not name.endswith("/kernel"):
        return array
    if "/out/" in name:
        array = array.transpose(1, 0, 2).reshape(-1, array.shape[-1])  # [d * h, c]
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
