"""Attention on a TPU: a Pallas kernel that keeps the scores of whole blocks in VMEM.

The kernels read tokens with all heads side by side, [n, h * d], as a dense layer writes them: no
axis of d channels is padded to the 128 lanes of a register, and nothing is transposed in memory. A
head is a range of lanes. Its scores are a product over the 128 lanes around it in which the other
heads' are zero in one factor: the matrix unit is 128 wide, so that costs the same as a product over
d lanes and moves nothing from lane to lane.

These kernels serve where a whole layer is not one kernel (kernels/tpu_tokens.py): with dropout,
multi-query attention, or weights too large for VMEM. Alone they take NesT-T's train step (bfloat16,
64 images a chip, compiled for v5e:4x4, XLA's count) from 963 MB an image to 814, and from 6.6 GB of
temporary memory to 3.3.

Shape letters: n query tokens, m key tokens, h heads, d channels of a head, c = h * d.
"""

from functools import lru_cache, partial
from math import prod

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.shards import over_shards
from kernels.target import platform, vmem_for_a_kernel

LANES = 128
FLOATS = (jnp.bfloat16, jnp.float32)  # that Mosaic multiplies
MAX_TOKENS = 576  # The float32 scores of a head and their gradients are 6 MB of VMEM then.
_VMEM = 48 * 2**20  # bytes that a kernel asks for at most
_STEP = 4 * 2**20  # bytes of blocks that one step of the grid reads and writes


def fits(query: Array, key: Array) -> bool:
    """Returns whether the kernels work on a query and a key of these shapes and types.

    The backward kernel holds each block of its seven arrays twice, and of one as many in float32;
    the scores of a head, their exponentials and their gradients.
    """
    tokens, width = max(query.shape[-3], key.shape[-3]), query.shape[-2] * query.shape[-1]
    rows, columns = pl.cdiv(tokens, 8) * 8, pl.cdiv(width, LANES) * LANES
    arrays = rows * columns * 7 * (2 * query.dtype.itemsize + 4)
    scores = 6 * 4 * rows * pl.cdiv(tokens, LANES) * LANES
    fit = tokens <= MAX_TOKENS and arrays + scores <= _VMEM <= vmem_for_a_kernel()
    return fit and query.dtype == key.dtype and query.dtype in FLOATS


def attention(query: Array, key: Array, value: Array) -> Array:
    """Computes attention from separate arrays, as `kernels.attention.plain` does.

    Args:
        query: [..., n, h, d].
        key: [..., m, k, d], where k divides h.
        value: [..., m, k, d].

    Returns:
        [..., n, h, d].
    """
    *leading, n, h, d = query.shape
    group = h // key.shape[-2]
    if group > 1:  # shared keys and values: still far fewer bytes than scores
        key, value = (jnp.repeat(x, group, axis=-2) for x in (key, value))
    parts = tuple(x.reshape(*leading, -1, h * d) for x in (query, key, value))
    return _attention(parts, h).reshape(*leading, n, h, d)


def self_attention(qkv: Array) -> Array:
    """Computes self-attention from the joint array that one dense layer makes.

    Args:
        qkv: [..., n, 3, h, d].

    Returns:
        [..., n, h, d].
    """
    *leading, n, _, h, d = qkv.shape
    joint = qkv.reshape(*leading, n, 3 * h * d)
    return _attention((joint,), h).reshape(*leading, n, h, d)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _attention(parts: tuple[Array, ...], num_heads: int) -> Array:
    """Maps (query, key, value), [..., n, c] each, or (qkv,), [..., n, 3 * c], to [..., n, c]."""
    return _on_blocks(forward, num_heads, parts)[0]


def _attention_forward(parts: tuple[Array, ...], num_heads: int) -> tuple[Array, tuple]:
    return _attention(parts, num_heads), parts


def _attention_backward(num_heads: int, parts: tuple, d_out: Array) -> tuple[tuple[Array, ...]]:
    return (_on_blocks(backward, num_heads, (*parts, d_out)),)


_attention.defvjp(_attention_forward, _attention_backward)


def _on_blocks(body, num_heads: int, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    if arrays[0].ndim == 2:
        return tuple(x[0] for x in _on_blocks(body, num_heads, tuple(x[None] for x in arrays)))
    num_results = 1 if body is forward else len(arrays) - 1
    # platform() is asked here: devices get their parts of the batch after the trace.
    call = _call(body, num_heads, platform() != "tpu")
    return over_shards(call, arrays, (True,) * len(arrays), (True,) * num_results)


@lru_cache
def _call(body, num_heads: int, interpret: bool):
    def call(*arrays: Array) -> tuple[Array, ...]:
        leading = arrays[0].shape[:-2]
        blocks = prod(leading)
        arrays = tuple(x.reshape(blocks, *x.shape[-2:]) for x in arrays)
        first = arrays[0]
        if body is backward:
            results = arrays[:-1]  # the gradients of the parts
        else:
            c = first.shape[-1] // (3 if len(arrays) == 1 else 1)
            results = (jax.ShapeDtypeStruct((*first.shape[:-1], c), first.dtype),)
        n, m, c = first.shape[1], arrays[len(arrays) // 3].shape[1], results[0].shape[2]
        c = c // 3 if body is backward and len(arrays) == 2 else c
        size = sum(_padded_bytes(x) for x in (*arrays, *results))
        step = max(1, min(blocks, _STEP // size))
        specs = [
            pl.BlockSpec((step, *x.shape[1:]), lambda i: (i, 0, 0)) for x in (*arrays, *results)
        ]
        products = 2 if body is forward else 5
        found = pl.pallas_call(
            partial(_each_block, body, num_heads, step, len(arrays)),
            grid=(pl.cdiv(blocks, step),),
            in_specs=specs[: len(arrays)],
            out_specs=specs[len(arrays) :],
            out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in results],
            cost_estimate=pl.CostEstimate(
                flops=products * 2 * blocks * n * m * c,
                transcendentals=blocks * num_heads * n * m,
                bytes_accessed=sum(x.size * x.dtype.itemsize for x in (*arrays, *results)),
            ),
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel",), vmem_limit_bytes=_VMEM
            ),
            interpret=interpret,
            name=f"attention_{body.__name__}",
        )(*arrays)
        return tuple(x.reshape(*leading, *x.shape[1:]) for x in found)

    return call


def _padded_bytes(x: Array | jax.ShapeDtypeStruct) -> int:
    """Bytes of one block in VMEM, where tiles of 8 x 128 are whole."""
    n, c = x.shape[-2:]
    return pl.cdiv(n, 8) * 8 * pl.cdiv(c, LANES) * LANES * x.dtype.itemsize


def _each_block(body, num_heads: int, step: int, num_operands: int, *refs) -> None:
    operands, results = refs[:num_operands], refs[num_operands:]

    def one(i: Array, carry: None) -> None:
        parts = tuple(ref[i] for ref in operands)
        for ref, found in zip(results, body(parts, num_heads), strict=True):
            ref[i] = found.astype(ref.dtype)

    jax.lax.fori_loop(0, step, one, None)


def _split(parts: tuple[Array, ...]) -> tuple[Array, ...]:
    return parts if len(parts) == 3 else tuple(jnp.split(parts[0], 3, axis=-1))


def forward(parts: tuple[Array, ...], num_heads: int) -> tuple[Array, ...]:
    """Maps the parts of one block to its (out,), [n, c]."""
    query, key, value = _split(parts)
    d = query.shape[-1] // num_heads
    out = []
    for lanes in _lane_ranges(num_heads, d):
        q, k, v = _in(lanes, query, key, value)
        total = 0.0
        for mask in _masks(lanes, d):
            weights, scale = _softmax(q * d**-0.5, k * mask, query.dtype)
            total += product(weights, v * mask, query.dtype, 1, 0) * scale
        out.append(total)
    return (jnp.concatenate(out, axis=-1),)


def backward(parts: tuple[Array, ...], num_heads: int) -> tuple[Array, ...]:
    """Maps the parts of one block and the gradient of its result to the gradients of the parts."""
    *parts, d_out = parts
    query, key, value = _split(tuple(parts))
    dtype, d = query.dtype, query.shape[-1] // num_heads
    d_parts = []
    for lanes in _lane_ranges(num_heads, d):
        q, k, v, do = _in(lanes, query, key, value, d_out)
        q = q * d**-0.5
        dq, dk, dv = 0.0, 0.0, 0.0
        for mask in _masks(lanes, d):
            weights, scale = _softmax(q, k * mask, dtype)
            weights = weights * scale  # [n, m]
            dv += product(weights, do * mask, dtype, 0, 0)
            d_weights = product(do, v * mask, dtype, 1, 1)  # [n, m]
            mean = jnp.sum(weights * d_weights, axis=-1, keepdims=True)
            d_scores = weights * (d_weights - mean)
            dq += product(d_scores, k * mask, dtype, 1, 0)
            dk += product(d_scores, q * mask, dtype, 0, 0)
        d_parts.append((dq * d**-0.5, dk, dv))
    d_parts = [jnp.concatenate(part, axis=-1) for part in zip(*d_parts, strict=True)]
    return tuple(d_parts) if len(parts) == 3 else (jnp.concatenate(d_parts, axis=-1),)


def _lane_ranges(num_heads: int, d: int) -> list[tuple[int, int]]:
    """Cuts the lanes of all heads into ranges of whole heads and, if that can be, whole tiles."""
    c, width = num_heads * d, max(d, LANES)
    if width % min(d, LANES):
        width = c
    return [(start, min(start + width, c)) for start in range(0, c, width)]


def _in(lanes: tuple[int, int], *arrays: Array) -> tuple[Array, ...]:
    return tuple(x[:, lanes[0] : lanes[1]].astype(jnp.float32) for x in arrays)


def _masks(lanes: tuple[int, int], d: int) -> list[Array]:
    """Returns for each head in a range of lanes 1 in its own lanes and 0 in the others."""
    width = lanes[1] - lanes[0]
    lane = jax.lax.broadcasted_iota(jnp.int32, (1, width), 1)
    return [
        ((lane >= start) & (lane < start + d)).astype(jnp.float32) for start in range(0, width, d)
    ]


def _softmax(q: Array, k: Array, dtype) -> tuple[Array, Array]:
    """Returns exp(scores - maximum), [n, m], and the reciprocal of its sums, [n, 1]."""
    scores = product(q, k, dtype, 1, 1)  # [n, m]
    weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    return weights, 1 / jnp.sum(weights, axis=-1, keepdims=True)


def product(a: Array, b: Array, dtype, a_axis: int, b_axis: int) -> Array:
    """Sums over an axis of each: factors in a type, sums in float32."""
    return jax.lax.dot_general(
        a.astype(dtype),
        b.astype(dtype),
        (((a_axis,), (b_axis,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )
