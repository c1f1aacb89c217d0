"""PyramidTNT's parameters under the official code's names -> ours.

Layers count from 0 there and from 1 here. PyTorch keeps a dense kernel as [out, in] and a
convolution's as [out, in, height, width]; query is one array, key and value are another.

Shape letters: k heads, e channels of a head, d channels.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from tnt.pyramid import PyramidTnt, has_words

MARK = "stages.0.relative_pos"  # an array that only files of PyramidTNT have
FIELDS = {"gelu": "exact"}  # what the code fixes and no array shows
_NOT_READ = "num_batches_tracked"  # PyTorch's batch norm counts with it

_STEM = {
    f"patch_embed.{theirs}": f"stem/{ours}"
    for theirs, ours in {
        **{"common_conv.0": "common_conv", "common_conv.1": "common_norm"},
        **{"inner_convs.0": "words_conv", "inner_convs.1": "words_norm"},
        **{"outer_convs.0": "sentences1_conv", "outer_convs.1": "sentences1_norm"},
        **{"outer_convs.3": "sentences2_conv", "outer_convs.4": "sentences2_norm"},
        **{"outer_convs.6": "sentences3_conv", "outer_convs.7": "sentences3_norm"},
    }.items()
}
_MERGES = {
    f"{kind}_merges.{index}.{theirs}": f"stage{index + 1}_{kind}_aggregation/{ours}"
    for kind in ("word", "sentence")
    for index in range(3)
    for theirs, ours in {"norm": "norm", "conv.0": "conv"}.items()
}
_MODULES = {**_STEM, **_MERGES, "norm": "norm", "head": "head"}


def _half(part: str) -> dict[str, str]:
    modules = {"norm1": "norm_attention", "norm2": "norm_mlp"}
    modules |= {"mlp.fc1": "mlp/dense1", "mlp.fc2": "mlp/dense2", "attn.proj": "attention/out"}
    return {f"{part}_{theirs}": f"{part}_{ours}" for theirs, ours in modules.items()}


_INNER = {
    **_half("inner"),
    **{"inner_attn.q": "inner_attention/q", "inner_attn.kv": "inner_attention/kv"},
    **{"proj_norm1": "fusion/norm_words", "proj": "fusion/projection"},
    "proj_norm2": "fusion/norm_sentences",
}
_OUTER = {
    **_half("outer"),
    **{"outer_attn.q": "outer_attention/query", "outer_attn.kv": "outer_attention/key_value"},
    **{"outer_attn.linear": "outer_attention/reduction"},
    **{"outer_attn.norm": "outer_attention/reduction_norm"},
}


def _modules_of(model: PyramidTnt) -> dict[str, str]:
    """Returns their name -> ours of every module of a model."""
    names = dict(_MODULES)
    for stage, depth in enumerate(model.depths):
        for layer in range(1, depth + 1):
            of_layer = _OUTER | (_INNER if has_words(layer, depth) else {})
            for theirs, ours in of_layer.items():
                prefix = f"stages.{stage}.blocks.{layer - 1}"
                names[f"{prefix}.{theirs}"] = f"stage{stage + 1}_layer{layer}/{ours}"
    return names


def _arrays_of(model: PyramidTnt) -> dict[str, str]:
    """Returns their name -> ours of every array that belongs to no module."""
    positions = {f"{part}_pos": f"{of}_position/embedding" for part, of in _POSITIONS.items()}
    relative = {
        f"stages.{stage}.relative_pos": f"stage{stage + 1}_relative_position"
        for stage in range(len(model.depths))
    }
    return positions | relative


_POSITIONS = {"inner": "word", "outer": "sentence"}


def names_of(model: PyramidTnt) -> set[str]:
    """Returns the names of all arrays that files of a model may have."""
    leaves = ("weight", "bias", "running_mean", "running_var", _NOT_READ)
    names = {f"{module}.{leaf}" for module in _modules_of(model) for leaf in leaves}
    return names | _arrays_of(model).keys()


def from_official(state: Mapping[str, np.ndarray], model: PyramidTnt) -> dict[str, Any]:
    """Renames and regroups the parameters and the batch statistics of an official file.

    Args:
        state: name -> array.
        model: the model that they are for.

    Returns:
        {"params": tree, "batch_stats": tree} in our names. An array without a place in the model
        stays under its own name, so that a comparison with the model's own tree reports it.
    """
    modules, arrays = _modules_of(model), _arrays_of(model)
    ours = {}
    for theirs, array in state.items():
        module, _, leaf = theirs.rpartition(".")
        if theirs in arrays:
            ours[f"params/{arrays[theirs]}"] = array[0]
        elif module not in modules:
            ours[f"params/{theirs}"] = array
        elif leaf.startswith("running_"):
            ours[f"batch_stats/{modules[module]}/{leaf.removeprefix('running_')}"] = array
        elif leaf != _NOT_READ:
            name = modules[module]
            ours[f"params/{name}/{_leaf_name(name, leaf)}"] = _as_ours(name, leaf, array, model)
    for name in [name for name in ours if "/inner_attention/q/" in name]:
        query, key_value = ours.pop(name), ours.pop(name.replace("/q/", "/kv/"))
        joined = np.concatenate([query[..., None, :, :], key_value], axis=-3)  # [..., 3, k, e]
        ours[name.replace("/q/", "/qkv/")] = joined
    return unflatten_dict(ours, sep="/")


def _leaf_name(name: str, leaf: str) -> str:
    is_norm = "norm" in name.rpartition("/")[2]
    return "bias" if leaf == "bias" else "scale" if is_norm else "kernel"


def _as_ours(name: str, leaf: str, array: np.ndarray, model: PyramidTnt) -> np.ndarray:
    """Transposes a kernel, and gives an attention's the axis of heads."""
    array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T  # a vector stays
    attention = re.fullmatch(r"stage(\d)_layer\d+/(inner|outer)_attention/(\w+)", name)
    if not attention:
        return array
    part, of = attention[2], attention[3]
    heads = getattr(model, f"num_{part}_heads")[int(attention[1]) - 1]
    if of in ("q", "query"):
        return array.reshape(*array.shape[:-1], heads, -1)  # [..., k, e]
    if of in ("kv", "key_value"):
        return array.reshape(*array.shape[:-1], 2, heads, -1)  # [..., 2, k, e]
    if of == "out" and leaf == "weight":
        return array.reshape(heads, -1, array.shape[-1])  # [k, e, d]
    return array
