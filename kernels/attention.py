"""Attention: softmax(q k^T / sqrt(d)) v in several forms, of which device and shapes choose one.

Shape letters: n query tokens, m key tokens, h heads, k heads of keys and values, g = h / k query
heads per key head, d channels of a head.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from kernels import cpu_attention, cudnn_attention, tpu_attention
from kernels.precision import at_least_float32
from kernels.target import platform

Implementation = Literal["auto", "plain", "chunks", "cudnn", "tpu"]


def dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    dropout: Callable[[Array], Array] | None = None,
    implementation: Implementation = "auto",
) -> Array:
    """Computes softmax(q k^T / sqrt(d)) v.

    All attention in this codebase runs through here. Axis order and head sharing are those of
    `jax.nn.dot_product_attention`.

    Args:
        query: [..., n, h, d].
        key: [..., m, k, d], where k divides h: k = h is multi-head, k = 1 multi-query attention.
        value: [..., m, k, d].
        dropout: applied to the attention weights, [..., k, g, n, m]; None for none. Only the plain
            form has weights to apply it to.
        implementation: "auto" takes the fastest form that the device and the shapes allow.

    Returns:
        [..., n, h, d], in the type of `value`.

    Reference:
        Vaswani et al., arXiv 1706.03762, equation 1; Shazeer, arXiv 1911.02150, section 3.
    """
    if implementation == "auto":
        implementation = "plain" if dropout is not None else choose(query, key, platform())
    if implementation == "plain":
        return plain(query, key, value, dropout)
    return IMPLEMENTATIONS[implementation](query, key, value)


def self_attention(
    qkv: Array,
    dropout: Callable[[Array], Array] | None = None,
    implementation: Implementation = "auto",
) -> Array:
    """Computes `dot_product_attention` of the three parts of `qkv`.

    Args:
        qkv: [..., n, 3, h, d]: query, key and value.
        dropout, implementation: as in `dot_product_attention`.

    Returns:
        [..., n, h, d].
    """
    # The gradient of a split joins its parts; that of indexing pads each and adds them up.
    query, key, value = (x.squeeze(-3) for x in jnp.split(qkv, 3, axis=-3))  # [..., n, h, d]
    if implementation == "auto" and dropout is None:
        implementation = choose(query, key, platform())
        if implementation == "chunks":
            return cpu_attention.joint_in_chunks(qkv)
        if implementation == "tpu":
            return tpu_attention.self_attention(qkv)
    return dot_product_attention(query, key, value, dropout, implementation)


def choose(query: Array, key: Array, platform: str) -> Implementation:
    """Returns the fastest form for a kind of device and these shapes and types."""
    if platform == "cpu" and cpu_attention.is_fast(query, key):
        return "chunks"
    if platform == "gpu" and cudnn_attention.fits(query, key):
        return "cudnn"
    if platform == "tpu" and tpu_attention.fits(query, key):
        return "tpu"
    return "plain"


def plain(
    query: Array, key: Array, value: Array, dropout: Callable[[Array], Array] | None = None
) -> Array:
    """The form that defines the numbers: the attention weights, then their sums of values."""
    *leading, n, h, d = query.shape
    k = key.shape[-2]
    query = (query * d**-0.5).reshape(*leading, n, k, h // k, d)  # [..., n, k, g, d]
    scores = jnp.einsum(
        "...nkgd,...mkd->...kgnm", query, key, preferred_element_type=at_least_float32(query)
    )  # [..., k, g, n, m]
    # The softmax sums in float32 for every computation type.
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    if dropout is not None:
        weights = dropout(weights)
    out = jnp.einsum("...kgnm,...mkd->...nkgd", weights, value)  # [..., n, k, g, d]
    return out.reshape(*leading, n, h, d)  # [..., n, h, d]


# Each maps query, key and value to the result of `plain` without dropout.
IMPLEMENTATIONS: dict[str, Callable[[Array, Array, Array], Array]] = {
    "plain": plain,
    "chunks": cpu_attention.in_chunks,
    "cudnn": cudnn_attention.attention,
    "tpu": tpu_attention.attention,
}
