"""Official parameter names of NesT <-> ours. Pure functions on trees of NumPy arrays.

The official code (google-research/nested-transformer) leaves naming to flax, which counts layers
across all levels from 0; we count levels, and layers within a level, from 1:

    official                                      ours
    PatchEmbedding_0/Conv_0                       patch_embedding
    PositionEmbedding_0/pos_embedding [1,t,n,c]   level1_position/embedding [t,n,c]
    EncoderNDBlock_5/LayerNorm_0, LayerNorm_1     level3_layer2/norm_attention, norm_mlp
        MlpBlock_0/Dense_0, Dense_1                   mlp/dense1, dense2
        MultiHeadAttention_0/                         attention/
            DenseGeneral_0, DenseGeneral_1                qkv
            proj_kernel, bias                             out/kernel, out/bias
        MultiQueryAttention_0/                        attention/
            DenseGeneral_0                                query
            Dense_0                                       key_value
            proj_kernel, bias                             out/kernel, out/bias
    ConvPool_0/Conv_0, LayerNorm_0                level1_aggregation/conv, norm
    LayerNorm_0                                   norm
    Dense_0                                       head

(EncoderNDBlock_5 is level3_layer2 with two layers in each of the first two levels.)
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

# What the official code fixes and no array shows.
FIELDS = {"gelu": "tanh", "aggregation": "conv_norm_maxpool", "aggregation_padding": "same"}

_HEAD, _MULTI_QUERY = "MultiHeadAttention_0", "MultiQueryAttention_0"
_NORM, _DENSE = ("scale", "bias"), ("kernel", "bias")


def from_official(params: dict[str, Any], depths: Sequence[int]) -> dict[str, Any]:
    """Renames and regroups official parameters.

    Args:
        params: the official tree (`optimizer.target` of a checkpoint).
        depths: transformer layers of each level.

    Returns:
        The tree in our names. An array without a place in a model of these depths stays under its
        official name, so that a comparison with the model's own tree reports it.
    """
    official = flatten_dict(params, sep="/")
    ours = {}
    for theirs, name in _same_arrays(depths):
        if theirs in official:
            ours[name] = official.pop(theirs)
    for theirs, name in _positions(depths):
        if theirs in official and np.shape(official[theirs])[:1] == (1,):
            ours[name] = official.pop(theirs)[0]  # [t, n, c]
    for layer, name in _layers(depths):
        for leaf in _DENSE:
            query = official.get(f"{layer}/{_HEAD}/DenseGeneral_0/{leaf}")  # [..., h, d]
            key_value = official.get(f"{layer}/{_HEAD}/DenseGeneral_1/{leaf}")  # [..., h, 2 * d]
            if query is not None and key_value is not None and _twice(query, key_value):
                stack = [query, *np.split(key_value, 2, axis=-1)]
                ours[f"{name}/attention/qkv/{leaf}"] = np.stack(stack, axis=-3)  # [..., 3, h, d]
                del official[f"{layer}/{_HEAD}/DenseGeneral_0/{leaf}"]
                del official[f"{layer}/{_HEAD}/DenseGeneral_1/{leaf}"]
            shared = official.get(f"{layer}/{_MULTI_QUERY}/Dense_0/{leaf}")  # [..., 2 * d]
            if shared is not None and np.ndim(shared) and shared.shape[-1] % 2 == 0:
                shape = (*shared.shape[:-1], 2, shared.shape[-1] // 2)
                ours[f"{name}/attention/key_value/{leaf}"] = shared.reshape(shape)  # [..., 2, d]
                del official[f"{layer}/{_MULTI_QUERY}/Dense_0/{leaf}"]
    return unflatten_dict(ours | official, sep="/")


def to_official(params: dict[str, Any], depths: Sequence[int]) -> dict[str, Any]:
    """Renames and regroups parameters as in the official code: the inverse of `from_official`.

    Args:
        params: a tree in our names, of a model with the official aggregation.
        depths: transformer layers of each level.

    Returns:
        The official tree.

    Raises:
        ValueError: if a parameter has no official name.
    """
    ours = flatten_dict(params, sep="/")
    official = {}
    multi_query = any(name.endswith("/attention/query/kernel") for name in ours)
    for theirs, name in _same_arrays(depths, (_MULTI_QUERY if multi_query else _HEAD,)):
        if name in ours:
            official[theirs] = ours.pop(name)
    for theirs, name in _positions(depths):
        if name in ours:
            official[theirs] = ours.pop(name)[None]  # [1, t, n, c]
    for layer, name in _layers(depths):
        for leaf in _DENSE:
            qkv = ours.pop(f"{name}/attention/qkv/{leaf}", None)  # [..., 3, h, d]
            if qkv is not None:
                query, key, value = (np.take(qkv, i, axis=-3) for i in range(3))
                official[f"{layer}/{_HEAD}/DenseGeneral_0/{leaf}"] = query  # [..., h, d]
                key_value = np.concatenate([key, value], axis=-1)  # [..., h, 2 * d]
                official[f"{layer}/{_HEAD}/DenseGeneral_1/{leaf}"] = key_value
            shared = ours.pop(f"{name}/attention/key_value/{leaf}", None)  # [..., 2, d]
            if shared is not None:
                shape = (*shared.shape[:-2], 2 * shared.shape[-1])
                official[f"{layer}/{_MULTI_QUERY}/Dense_0/{leaf}"] = shared.reshape(shape)
    if ours:
        raise ValueError(f"no official name for {', '.join(sorted(ours)[:10])}")
    return unflatten_dict(official, sep="/")


def _twice(query: np.ndarray, key_value: np.ndarray) -> bool:
    shape = np.shape(query)
    return len(shape) >= 2 and np.shape(key_value) == (*shape[:-1], 2 * shape[-1])


def _layers(depths: Sequence[int]) -> Iterator[tuple[str, str]]:
    """Yields (official name, our name) of each transformer layer."""
    names = (
        f"level{level}_layer{layer}"
        for level, depth in enumerate(depths, start=1)
        for layer in range(1, depth + 1)
    )
    for index, name in enumerate(names):
        yield f"EncoderNDBlock_{index}", name


def _positions(depths: Sequence[int]) -> Iterator[tuple[str, str]]:
    for index in range(len(depths)):
        yield f"PositionEmbedding_{index}/pos_embedding", f"level{index + 1}_position/embedding"


def _same_arrays(
    depths: Sequence[int], attentions: Sequence[str] = (_HEAD, _MULTI_QUERY)
) -> Iterator[tuple[str, str]]:
    """Yields (official path, our path) of the parameters that are the same array in both."""
    modules = [
        ("PatchEmbedding_0/Conv_0", "patch_embedding", _DENSE),
        ("LayerNorm_0", "norm", _NORM),
        ("Dense_0", "head", _DENSE),
    ]
    for index in range(len(depths) - 1):
        ours = f"level{index + 1}_aggregation"
        modules.append((f"ConvPool_{index}/Conv_0", f"{ours}/conv", _DENSE))
        modules.append((f"ConvPool_{index}/LayerNorm_0", f"{ours}/norm", _NORM))
    for layer, name in _layers(depths):
        modules.append((f"{layer}/LayerNorm_0", f"{name}/norm_attention", _NORM))
        modules.append((f"{layer}/LayerNorm_1", f"{name}/norm_mlp", _NORM))
        modules.append((f"{layer}/MlpBlock_0/Dense_0", f"{name}/mlp/dense1", _DENSE))
        modules.append((f"{layer}/MlpBlock_0/Dense_1", f"{name}/mlp/dense2", _DENSE))
        if _MULTI_QUERY in attentions:
            query = f"{layer}/{_MULTI_QUERY}/DenseGeneral_0"
            modules.append((query, f"{name}/attention/query", _DENSE))
        for attention in attentions:
            yield f"{layer}/{attention}/proj_kernel", f"{name}/attention/out/kernel"
            yield f"{layer}/{attention}/bias", f"{name}/attention/out/bias"
    for theirs, name, leaves in modules:
        for leaf in leaves:
            yield f"{theirs}/{leaf}", f"{name}/{leaf}"
