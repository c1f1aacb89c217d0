"""Recomputing in the backward pass what the forward pass would otherwise keep: memory for time."""

from typing import Literal

import jax
from flax import linen as nn

# "none"       keeps all that the backward pass needs.
# "attention"  recomputes the attention weights, from queries and keys. Fused forms of attention
#              (kernels/attention.py) never keep them.
# "dots"       keeps the results of the dense layers, and recomputes all else of a layer.
# "block"      recomputes whole layers from their inputs.
Remat = Literal["none", "attention", "dots", "block"]
# Of networks without attention.
BlockRemat = Literal["none", "block"]

_KEEP_DENSE = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
_LAYER_POLICIES = {"dots": _KEEP_DENSE, "block": None}


def recomputed_layer(
    layer: type[nn.Module], remat: Remat, train: int | None = None
) -> type[nn.Module]:
    """Returns a layer's class as "dots" or "block" want it, which is otherwise the class itself.

    Args:
        layer: class of a transformer layer or of a block of convolutions.
        remat: what is recomputed.
        train: position of `train` among the arguments of its __call__, counted from self as 0, if
            it has one. It is a Python bool, not an array.
    """
    if remat not in _LAYER_POLICIES:
        return layer
    static = () if train is None else (train,)
    return nn.remat(layer, static_argnums=static, policy=_LAYER_POLICIES[remat])


def recomputed_attention(attention: type[nn.Module], remat: Remat) -> type[nn.Module]:
    """Returns the class of an attention module as "attention" wants it.

    Its arguments are self, the tokens and `deterministic`.
    """
    if remat != "attention":
        return attention
    return nn.remat(attention, static_argnums=(2,), policy=_KEEP_DENSE)
