"""PyTorch parameter names of TNT <-> ours. Pure functions on dicts of NumPy arrays.

Four files are known: those of the official code (huawei-noah), of timm, of timm's first port, whose
names are timm's, and of mmpretrain, which copied that port under names of its own (tnt/names.py).
Layers count from 0 there and from 1 here:

    official                     timm                       ours
    patch_embed.proj             pixel_embed.proj           word_embedding/projection
    inner_pos [1,m,c]            pixel_pos [1,c,mh,mw]      word_position/embedding [m,c]
    proj_norm1, proj, proj_norm2 norm1_proj, proj, norm2_.. sentence_embedding/norm_words,
                                                            projection, norm_sentences
    cls_token [1,1,d]            cls_token                  class_token [d]
    outer_pos [1,1+n,d]          patch_pos                  sentence_position/embedding [1+n,d]
    blocks.0.                    blocks.0.                  layer1/
        inner_norm1, inner_norm2     norm_in, norm_mlp_in       inner/norm_attention, norm_mlp
        inner_attn.qk, .v, .proj     attn_in.qk, .v, .proj      inner/attention/qkv, qkv, out
        inner_mlp.fc1, .fc2          mlp_in.fc1, .fc2           inner/mlp/dense1, dense2
        proj_norm1, proj, proj_norm2 norm1_proj, proj, ...      fusion/norm_words, ...
        outer_...                    norm_out, attn_out, ...    outer/...
        se_layer.fc.0, .1, .3                                   outer/squeeze_excite/norm, ...
    norm, head                   norm, head                 norm, head

The official `outer_tokens` are zeros that nothing reads: dropped on the way in, put back on the
way out.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from tnt.model import Tnt
from tnt.names import (
    NAMINGS,
    array_in,
    array_out,
    check_exists,
    from_mmpretrain,
    leaf_in,
    leaf_out,
)

State = dict[str, np.ndarray]  # as in PyTorch: "blocks.0.proj.weight" -> array

# An array that only files of this naming have; mmpretrain's have timm's, and blocks named layers.
_MARKS = {"official": "outer_pos", "timm": "patch_pos"}
MARKS = tuple(_MARKS.values())


def from_pytorch(state: Mapping[str, np.ndarray], model: Tnt) -> dict[str, Any]:
    """Renames and regroups the parameters of any known file.

    Args:
        state: name -> array.
        model: the model that the parameters are for.

    Returns:
        The tree in our names. An array without a place in TNT stays under its own name, so that a
        comparison with the model's own tree reports it.

    Raises:
        ValueError: if the names are of no known file, or if names and shapes show that the model
            has other fields, which are then named. Numbers of heads show in no file.
    """
    naming = naming_of(state)
    params = _from(naming, state, model)
    found = fields_of(params)
    asked = {field: getattr(model, field) for field in found}
    if asked["inner_layers"] is None:
        asked["inner_layers"] = tuple(range(1, model.depth + 1))
    wrong = [field for field in found if found[field] != asked[field]]
    if wrong:
        need, have = (
            ", ".join(f"{field}={values[field]!r}" for field in wrong) for values in (found, asked)
        )
        raise ValueError(f"{naming} weights of a TNT with {need}; set this, the model has {have}")
    return params


def naming_of(state: Mapping[str, Any]) -> str:
    """Returns whose names these are: "official", "timm" or "mmpretrain"; ValueError if none's."""
    naming = next((naming for naming, key in _MARKS.items() if key in state), None)
    if naming is None:
        raise ValueError(
            f"parameter names are not those of a TNT: none of {', '.join(_MARKS.values())}"
        )
    if naming == "timm" and any(name.startswith("layers.") for name in state):
        return "mmpretrain"
    return naming


def names_of(model: Tnt) -> set[str]:
    """Returns the names of all arrays that files of a model may have, mmpretrain's blocks apart."""
    names = {"outer_tokens"}
    for modules, block_modules, arrays in NAMINGS.values():
        blocks = (f"blocks.{n}.{module}" for n in range(model.depth) for module in block_modules)
        leaves = {
            f"{module}.{leaf}" for module in (*modules, *blocks) for leaf in ("weight", "bias")
        }
        names |= leaves | arrays.keys()
    return names


def fields_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a model that the names and shapes of its parameters show.

    The stem's convolution has the same shape on patches and on the image; the fusion distinguishes
    timm's first port, which convolves the image, from all others.
    """
    flat = flatten_dict(params, sep="/")
    layers = [re.match(r"layer(\d+)/(\w+)/", name) for name in flat]
    parts = {(int(match[1]), match[2]) for match in layers if match}
    norms = {name.split("/")[2] for name in flat if re.match(r"layer\d+/fusion/norm", name)}
    fusion = "paper" if not norms else "released" if "norm_sentences" in norms else "legacy"
    fields = {
        "depth": max((layer for layer, _ in parts), default=0),
        "inner_layers": tuple(sorted(layer for layer, part in parts if part == "inner")),
        "squeeze_excite": any("/squeeze_excite/" in name for name in flat),
        "word_position": "word_position/embedding" in flat,
        "sentence_position": "sentence_position/embedding" in flat,
    }
    if fields["inner_layers"]:
        fields["fusion"] = fusion
    kernel = flat.get("word_embedding/projection/kernel")
    if kernel is not None:
        conv = "conv7_image" if fusion == "legacy" else "conv7"
        fields["stem"] = conv if kernel.ndim == 4 else "linear"
        fields["inner_dim"] = kernel.shape[-1]
    if "class_token" in flat:
        fields["outer_dim"] = flat["class_token"].shape[-1]
    return fields


def to_official(params: Mapping[str, Any], model: Tnt) -> State:
    """Renames and regroups parameters as in the official code: the inverse of `from_pytorch`.

    Args:
        params: tree in our names.
        model: the model that they belong to.

    Raises:
        ValueError: if the official code has no such model. Layers without an inner block are
            allowed: its code lists them, `vanilla_idxs`.
    """
    state = _to("official", params, model)
    _, tokens, dim = state["outer_pos"].shape
    return state | {"outer_tokens": np.zeros((1, tokens - 1, dim), np.float32)}


def to_timm(params: Mapping[str, Any], model: Tnt) -> State:
    """Renames and regroups parameters as in timm: the inverse of `from_pytorch`.

    Args:
        params: tree in our names.
        model: the model that they belong to.

    Raises:
        ValueError: if timm has no such model.
    """
    return _to("timm", params, model)


def _from(naming: str, state: Mapping[str, np.ndarray], model: Tnt) -> dict[str, Any]:
    if naming == "mmpretrain":
        naming, state = "timm", from_mmpretrain(state)
    modules, block_modules, arrays = NAMINGS[naming]
    ours = {}
    for theirs, array in state.items():
        if theirs == "outer_tokens":
            continue
        if theirs in arrays:
            turned = array_in(arrays[theirs], array)
            ours[theirs if turned is None else arrays[theirs]] = array if turned is None else turned
            continue
        module, _, leaf = theirs.rpartition(".")
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)", module)
        name = block_modules.get(block[2]) if block else modules.get(module)
        if name is None or leaf not in ("weight", "bias"):
            ours[theirs] = array
            continue
        if block:
            name = f"layer{int(block[1]) + 1}/{name}"
        heads = model.num_inner_heads if "/inner/" in name else model.num_outer_heads
        weight = "scale" if name.rpartition("/")[2].startswith("norm") else "kernel"
        our_leaf = weight if leaf == "weight" else leaf
        ours[f"{name}/{our_leaf}"] = leaf_in(name, leaf, array, heads)
    return unflatten_dict(_join_qkv(ours), sep="/")


def _join_qkv(flat: State) -> State:
    """Concatenates each query-and-key with its value, if both exist and their shapes agree."""
    joined = dict(flat)
    for name, qk in flat.items():
        value = flat.get(name.replace("/qk/", "/v/"))
        if "/attention/qk/" in name and value is not None and qk.ndim == value.ndim >= 3:
            if np.delete(qk.shape, -3).tolist() == np.delete(value.shape, -3).tolist():
                both = np.concatenate([qk, value], axis=-3)  # [..., 3, h, e]
                joined[name.replace("/qk/", "/qkv/")] = both
                del joined[name], joined[name.replace("/qk/", "/v/")]
    return joined


def _to(naming: str, params: Mapping[str, Any], model: Tnt) -> State:
    check_exists(naming, model)
    modules, block_modules, arrays = NAMINGS[naming]
    theirs_of = {ours: theirs for theirs, ours in {**modules, **arrays}.items()}
    theirs_in_block = {ours: theirs for theirs, ours in block_modules.items()}
    state, nameless = {}, []
    for name, array in _split_qkv(flatten_dict(params, sep="/")).items():
        if name in theirs_of:
            state[theirs_of[name]] = array_out(theirs_of[name], array)
            continue
        module, _, leaf = name.rpartition("/")
        layer = re.fullmatch(r"layer(\d+)/(.+)", module)
        theirs = theirs_in_block.get(layer[2]) if layer else theirs_of.get(module)
        if theirs is None:
            nameless.append(name)
            continue
        prefix = f"blocks.{int(layer[1]) - 1}." if layer else ""
        torch_leaf = "bias" if leaf == "bias" else "weight"
        state[f"{prefix}{theirs}.{torch_leaf}"] = leaf_out(module, leaf, array)
    if nameless:
        raise ValueError(f"no {naming} name for {', '.join(sorted(nameless)[:10])}")
    # Contiguous, because safetensors writes a transposed view as if it were not transposed.
    return {name: np.ascontiguousarray(array) for name, array in state.items()}


def _split_qkv(flat: Mapping[str, np.ndarray]) -> State:
    split = {}
    for name, array in flat.items():
        if "/attention/qkv/" in name:
            qk, value = np.split(array, [2], axis=-3)  # [..., 2, h, e], [..., 1, h, e]
            split[name.replace("/qkv/", "/qk/")] = qk
            split[name.replace("/qkv/", "/v/")] = value
        else:
            split[name] = array
    return split
