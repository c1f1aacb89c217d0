"""A transformer layer by a kernel that computes all of it, where there is one."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from kernels.whole_layer import choose
from layers.intermediates import ATTENTION_WEIGHTS, is_asked_for


def in_one_kernel(
    layer: nn.Module,
    x: Array,
    train: bool,
    *,
    drop_path: Callable[[Array, str], Array],
    epsilon: float,
) -> Array | None:
    """Returns what a layer computes, from the parameters that its parts made at initialisation.

    Args:
        layer: with the fields and parts of `layers.transformer_layer.TransformerLayer`, and
            multi-head attention.
        x: [..., n, c].
        train: whether paths are dropped; there is no kernel with dropout.
        drop_path: maps an array [..., 1, 1] and the name of a branch to the array with zeros where
            the branch is dropped.
        epsilon: of the layer norms.

    Returns:
        [..., n, c]; None where the device, the shapes or the fields have no kernel.
    """
    drops = train and (layer.dropout_rate or layer.attention_dropout_rate)
    seen = is_asked_for(layer, ATTENTION_WEIGHTS)  # no kernel writes them
    if layer.kernels == "plain" or drops or seen or layer.is_initializing():
        return None
    x = x.astype(layer.dtype)
    hidden_dim = int(x.shape[-1] * layer.mlp_ratio)
    kernel = choose(x, num_heads=layer.num_heads, hidden_dim=hidden_dim, qkv_bias=layer.qkv_bias)
    if kernel is None:
        return None
    keep = None
    if train and layer.drop_path_rate:
        ones = jnp.ones((*x.shape[:-2], 1, 1))
        branches = [drop_path(ones, name)[..., 0] for name in ("drop_path1", "drop_path2")]
        keep = jnp.concatenate(branches, axis=-1)  # [..., 2]
    return kernel(x, layer.variables["params"], keep, layer.gelu, epsilon)
