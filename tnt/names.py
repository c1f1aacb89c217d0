"""TNT's parameters in the official code (huawei-noah) and in timm: names, layouts, limits.

Both are PyTorch. A naming is three tables from their name to ours: modules of the model, modules of
a block, and arrays that belong to no module. PyTorch keeps a dense kernel as [out, in] and a
convolution's as [out, in, height, width]; query and key are one array and value is another, with
all heads concatenated.

Shape letters: h heads, e channels of a head, n sentences, m words of a sentence in mh rows and mw
columns, c channels of a word, d of a sentence.
"""

import re
from collections.abc import Mapping

import numpy as np

from tnt.model import Tnt

# naming -> what its code fixes and no array shows. timm has either pooling.
FIELDS = {
    "official": {"gelu": "exact", "pooling": "class_token"},
    "timm": {"gelu": "exact"},
    "mmpretrain": {"gelu": "exact", "pooling": "class_token"},
}

# naming -> (fusion, stem) that exist there. timm's second is its first port.
_STARTS = {
    "official": [("released", "conv7")],
    "timm": [("released", "conv7"), ("legacy", "conv7_image")],
}


def check_exists(naming: str, model: Tnt) -> None:
    """Checks that the code of a naming, "official" or "timm", has a model.

    Raises:
        ValueError: naming the fields that differ there.
    """
    needs = {"word_position": True, "sentence_position": True, **FIELDS[naming]}
    if naming == "timm":
        # timm fixes the hidden width of its inner perceptrons.
        needs |= {"squeeze_excite": False, "mlp_ratio": 4}
    has = {field: getattr(model, field) for field in needs}
    if model.patch_stride != model.patch_size:
        needs["patch_stride"], has["patch_stride"] = None, model.patch_stride
    # The official code lists layers without an inner block, though none by default.
    if naming == "timm" and model.inner_layers != tuple(range(1, model.depth + 1)):
        needs["inner_layers"], has["inner_layers"] = None, model.inner_layers
    start = (model.fusion, model.stem)
    if start not in _STARTS[naming]:
        needs["(fusion, stem)"], has["(fusion, stem)"] = _STARTS[naming], start
    wrong = [field for field in needs if has[field] != needs[field]]
    if wrong:
        have, need = (
            ", ".join(f"{field}={values[field]!r}" for field in wrong) for values in (has, needs)
        )
        raise ValueError(f"{naming} code has no TNT with {have}; it has {need}")


_ATTENTION = {"qk": "qk", "v": "v", "proj": "out"}
_MLP = {"fc1": "dense1", "fc2": "dense2"}


def _block(part: str, norm1: str, attention: str, norm2: str, mlp: str) -> dict[str, str]:
    return {
        norm1: f"{part}/norm_attention",
        norm2: f"{part}/norm_mlp",
        **{f"{attention}.{theirs}": f"{part}/attention/{o}" for theirs, o in _ATTENTION.items()},
        **{f"{mlp}.{theirs}": f"{part}/mlp/{ours}" for theirs, ours in _MLP.items()},
    }


def _fusion(part: str, norm1: str, norm2: str) -> dict[str, str]:
    names = {norm1: "norm_words", "proj": "projection", norm2: "norm_sentences"}
    return {theirs: f"{part}/{ours}" for theirs, ours in names.items()}


# naming -> (modules of the model, modules of a block, arrays): their name -> ours
NAMINGS = {
    "official": (
        {
            "patch_embed.proj": "word_embedding/projection",
            **_fusion("sentence_embedding", "proj_norm1", "proj_norm2"),
            "norm": "norm",
            "head": "head",
        },
        {
            **_block("inner", "inner_norm1", "inner_attn", "inner_norm2", "inner_mlp"),
            **_fusion("fusion", "proj_norm1", "proj_norm2"),
            **_block("outer", "outer_norm1", "outer_attn", "outer_norm2", "outer_mlp"),
            "se_layer.fc.0": "outer/squeeze_excite/norm",
            "se_layer.fc.1": "outer/squeeze_excite/dense1",
            "se_layer.fc.3": "outer/squeeze_excite/dense2",
        },
        {
            "cls_token": "class_token",
            "outer_pos": "sentence_position/embedding",
            "inner_pos": "word_position/embedding",
        },
    ),
    "timm": (
        {
            "pixel_embed.proj": "word_embedding/projection",
            **_fusion("sentence_embedding", "norm1_proj", "norm2_proj"),
            "norm": "norm",
            "head": "head",
        },
        {
            **_block("inner", "norm_in", "attn_in", "norm_mlp_in", "mlp_in"),
            **_fusion("fusion", "norm1_proj", "norm2_proj"),
            **_block("outer", "norm_out", "attn_out", "norm_mlp", "mlp"),
        },
        {
            "cls_token": "class_token",
            "patch_pos": "sentence_position/embedding",
            "pixel_pos": "word_position/embedding",
        },
    ),
}


# Modules of mmpretrain (mmpretrain/models/backbones/tnt.py), a port of timm's first one -> timm's.
_IN_TIMM = {
    "projection": "proj",
    "norm_proj": "norm1_proj",
    **{
        f"{part}_block.{theirs}": timms
        for part, short, mlp in (("inner", "in", "mlp_in"), ("outer", "out", "mlp"))
        for theirs, timms in {
            "norm_attn": f"norm_{short}",
            "attn.attn.out_proj": f"attn_{short}.proj",
            "norm_ffn": f"norm_{mlp}",
            "ffn.layers.0.0": f"{mlp}.fc1",
            "ffn.layers.1": f"{mlp}.fc2",
        }.items()
    },
}
_JOINED = {"inner_block.attn.attn": "attn_in", "outer_block.attn.attn": "attn_out"}


def from_mmpretrain(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames and regroups arrays of mmpretrain's TNT as in timm; others stay as they are."""
    timms = {}
    for name, array in state.items():
        layer = re.fullmatch(r"layers\.(\d+)\.(.+)\.(\w+)", name)
        start, module, leaf = (f"blocks.{layer[1]}.", layer[2], layer[3]) if layer else ("", "", "")
        if not layer and name.startswith("projection."):
            module, leaf = name.rsplit(".", 1)
        if module in _JOINED and leaf == "in_proj_weight" and len(array) % 3 == 0:
            qk, value = np.split(array, [len(array) // 3 * 2])  # query, key, value
            timms[f"{start}{_JOINED[module]}.qk.weight"] = qk
            timms[f"{start}{_JOINED[module]}.v.weight"] = value
        elif module in _IN_TIMM:
            timms[f"{start}{_IN_TIMM[module]}.{leaf}"] = array
        else:
            timms[name] = array
    return timms


def array_in(name: str, array: np.ndarray) -> np.ndarray | None:
    """Converts an array of theirs into ours, or returns None if it does not fit.

    Args:
        name: our name for it.
        array: [1, 1, d], [1, n, d], [1, m, c] or [1, c, mh, mw].

    Returns:
        [d], [n, d] or [m, c].
    """
    if array.ndim == 4:
        array = array.reshape(*array.shape[:2], -1).transpose(0, 2, 1)  # [1, m, c]
    if array.ndim != 3 or len(array) != 1:
        return None
    if name == "class_token":
        return array[0, 0] if array.shape[1] == 1 else None  # [d]
    return array[0]


def array_out(theirs: str, array: np.ndarray) -> np.ndarray:
    """Converts an array of this model into theirs: the inverse of `array_in`."""
    if theirs == "cls_token":
        return array[None, None]  # [1, 1, d]
    if theirs == "pixel_pos":
        side = round(len(array) ** 0.5)
        return array.T.reshape(1, -1, side, side)  # [1, c, mh, mw]
    return array[None]


def leaf_in(module: str, leaf: str, array: np.ndarray, heads: int) -> np.ndarray:
    """Converts the weight or the bias of a module of theirs into ours.

    Args:
        module: our name for it; its last part decides. "qk" and "v" are parts of our "qkv".
        leaf: "weight" or "bias".
        array: [out, in], [out, in, height, width] or [out].
        heads: of the attention that the module is part of, if any.

    Returns:
        [in, out], [height, width, in, out] or [out]; of attention [in, 2 or 1, h, e] and
        [2 or 1, h, e] for "qk" and "v", [h, e, out] for "out". An array that does not fit is
        returned as it is.
    """
    name = module.rpartition("/")[2]
    weight = leaf == "weight"
    if name in ("qk", "v"):
        parts = 2 if name == "qk" else 1
        if array.ndim != 1 + weight or len(array) % (parts * heads):
            return array
        array = array.reshape(parts, heads, -1, *array.shape[1:])  # [parts, h, e, in]
        return np.moveaxis(array, -1, 0) if weight else array  # [in, parts, h, e]
    if not weight:
        return array
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if name == "out" and array.ndim == 2 and array.shape[1] % heads == 0:
        return array.T.reshape(heads, -1, array.shape[0])  # [h, e, out]
    return array.T


def leaf_out(module: str, leaf: str, array: np.ndarray) -> np.ndarray:
    """Converts a kernel, scale or bias of this model into theirs: the inverse of `leaf_in`."""
    name = module.rpartition("/")[2]
    if name in ("qk", "v"):
        array = np.moveaxis(array, 0, -1) if leaf == "kernel" else array  # [parts, h, e, in]
        return array.reshape(-1, *array.shape[3:])  # [out, in] or [out]
    if leaf != "kernel":
        return array
    if name == "out":
        array = array.reshape(-1, array.shape[-1])  # [in, out]
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
