"""Attention on a CPU: a loop over chunks whose scores stay in cache, with its own backward pass.

The plain form writes the scores of all blocks to memory, reads them for each step of the softmax,
and keeps them for the backward pass. Here only the logarithms of the softmax's sums are kept, and
each chunk's weights are computed again from them. Processor time on two cores of an AMD EPYC,
float32, forward / forward and backward, plain -> here:
    NesT level 1, [128 blocks, 196, 3 heads, 32]   166 / 313 -> 39 / 122 ms
    NesT level 3, [8, 196, 12, 32]                  33 /  99 -> 10 /  35 ms
    TNT sentences, [8, 197, 6, 64]                  21 /  40 ->  9 /  41 ms
TNT's words, [1568, 16, 4, 6], take 9 / 22 -> 7 / 29 ms: they keep the plain form.

Shape letters: b blocks, c those of a chunk, n query tokens, m key tokens, k heads of keys and
values, g query heads per key head, d channels of a head.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array, lax

CHUNK_BYTES = 2 << 20  # of a chunk's scores: they stay in the second-level and shared caches
# Below, a loop's overhead and its compile time exceed what it saves.
LEAST_BYTES, LEAST_TOKENS = 4 << 20, 64


def is_fast(query: Array, key: Array) -> bool:
    """Returns whether chunks are faster than the plain form on a CPU."""
    n, m = query.shape[-3], key.shape[-3]
    scores = 4 * query.size // query.shape[-1] * m
    # A loop over blocks that several devices share would bring all of them to each device.
    return (
        query.dtype == key.dtype == jnp.float32
        and scores >= LEAST_BYTES
        and min(n, m) >= LEAST_TOKENS
        and jax.device_count() == 1
    )


def in_chunks(query: Array, key: Array, value: Array) -> Array:
    """Computes `kernels.attention.plain` without dropout, in chunks of blocks or of heads."""
    return _in_chunks((query, key, value), query.shape, key.shape)


def joint_in_chunks(qkv: Array) -> Array:
    """Computes `in_chunks` of the parts of `qkv`, [..., n, 3, h, d], without copying them apart.

    Their gradient is joined where it is computed, in cache. Joined outside, XLA repeats the join
    for each of its readers: at NesT's level 1 with 8 images, 29 MB are written 3 times more.
    """
    shape = (*qkv.shape[:-3], *qkv.shape[-2:])
    return _in_chunks((qkv,), shape, shape)


def _in_chunks(parts: tuple[Array, ...], shape: tuple[int, ...], key_shape: tuple[int, ...]):
    *leading, n, h, d = shape
    m, k = key_shape[-3:-1]
    blocks, heads = _chunk(math.prod(leading), k, 4 * n * m * h // k)

    def to_front(x: Array) -> Array:
        """Maps [..., tokens, (3,) heads, d] to [chunks, c, tokens, (3,) heads of a chunk, d]."""
        inner = x.shape[len(leading) : -2]  # tokens, and 3 if joint
        x = x.reshape(-1, blocks, *inner, k // heads, x.shape[-2] * heads // k, d)
        x = jnp.moveaxis(x, -3, 1)
        return x.reshape(-1, *x.shape[2:])

    out = _attend(tuple(to_front(x) for x in parts))  # [chunks, c, n, heads * g, d]
    out = out.reshape(-1, k // heads, *out.shape[1:]).transpose(0, 2, 3, 1, 4, 5)
    return out.reshape(shape)


def _chunk(blocks: int, heads: int, bytes_per_head: int) -> tuple[int, int]:
    """Returns the blocks and the key heads of a chunk: divisors of all blocks and heads."""

    def largest_divisor(number: int, limit: int) -> int:
        return max(i for i in range(1, number + 1) if number % i == 0 and i <= max(limit, 1))

    fitting = CHUNK_BYTES // bytes_per_head
    if fitting < heads:
        return 1, largest_divisor(heads, fitting)
    return largest_divisor(blocks, fitting // heads), heads


def _dot(a: Array, b: Array, axis_a: int, axis_b: int) -> Array:
    """Multiplies two batches of matrices, summing over one axis of each."""
    return lax.dot_general(a, b, (((axis_a,), (axis_b,)), ((0,), (0,))))


def _fold(x: Array, k: int) -> Array:
    """Maps [c, n, k * g, d] to [c * k, g * n, d]: one matrix of queries for each key head."""
    c, n, h, d = x.shape
    x = x.reshape(c, n, k, h // k, d).transpose(0, 2, 3, 1, 4)  # [c, k, g, n, d]
    return x.reshape(c * k, -1, d)


def _unfold(x: Array, shape: tuple[int, ...], k: int) -> Array:
    """Maps [c * k, g * n, d] to `shape`, [c, n, k * g, d]."""
    c, n, h, d = shape
    return x.reshape(c, k, h // k, n, d).transpose(0, 3, 1, 2, 4).reshape(shape)


def _chunk_forward(query: Array, key: Array, value: Array) -> tuple[Array, Array]:
    """Returns a chunk's result, [c, n, k * g, d], and its softmax's log-sums, [c * k, g * n]."""
    k = key.shape[-2]
    q, key, value = (_fold(x, k) for x in (query * query.shape[-1] ** -0.5, key, value))
    scores = _dot(q, key, 2, 2)  # [c * k, g * n, m]
    highest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - highest)
    total = weights.sum(axis=-1, keepdims=True)
    out = _dot(weights, value, 2, 1) / total  # [c * k, g * n, d]
    return _unfold(out, query.shape, k), (highest + jnp.log(total))[..., 0]


def _chunk_backward(
    query: Array, key: Array, value: Array, out: Array, log_sums: Array, cotangent: Array
) -> tuple[Array, Array, Array]:
    """Returns the gradients of query, key and value, from those of the result."""
    k, scale = key.shape[-2], query.shape[-1] ** -0.5
    # The softmax's gradient needs sum(weights * their gradients), which is sum(out * cotangent).
    sums = _fold(out * cotangent, k).sum(axis=-1, keepdims=True)  # [c * k, g * n, 1]
    q, keys, values, d_out = (_fold(x, k) for x in (query * scale, key, value, cotangent))
    weights = jnp.exp(_dot(q, keys, 2, 2) - log_sums[..., None])  # [c * k, g * n, m]
    d_value = _dot(weights, d_out, 1, 1)
    d_scores = weights * (_dot(d_out, values, 2, 2) - sums)
    d_query, d_key = _dot(d_scores, keys, 2, 1) * scale, _dot(d_scores, q, 1, 1)
    return (
        _unfold(d_query, query.shape, k),
        _unfold(d_key, key.shape, k),
        _unfold(d_value, value.shape, k),
    )


def _split(parts: tuple[Array, ...]) -> tuple[Array, ...]:
    """Returns query, key and value of a chunk, which may be one array, [c, n, 3, h, d]."""
    return parts if len(parts) == 3 else tuple(parts[0][:, :, i] for i in range(3))


@jax.custom_vjp
def _attend(parts: tuple[Array, ...]) -> Array:
    """Maps [chunks, c, n, k * g, d] and twice [chunks, c, m, k, d] to the shape of the first."""
    return _forward(parts)[0]


def _forward(parts: tuple[Array, ...]) -> tuple[Array, tuple]:
    out, log_sums = lax.map(lambda chunk: _chunk_forward(*_split(chunk)), parts)
    return out, (parts, out, log_sums)


def _backward(saved: tuple, cotangent: Array) -> tuple[tuple[Array, ...]]:
    def one_chunk(chunk):
        parts, *rest = chunk
        gradients = _chunk_backward(*_split(parts), *rest)
        return gradients if len(parts) == 3 else (jnp.stack(gradients, axis=2),)

    return (lax.map(one_chunk, (*saved, cotangent)),)


_attend.defvjp(_forward, _backward)
