"""Layer norm whose gradient keeps nothing but the input.

On an NVIDIA GPU, one kernel each way: the norm reads and writes the tokens once, its gradient reads
them, the two gradients that meet there, and sums those by scale and bias on the way. XLA needs four
passes and six. Compiled for an H100 in bfloat16 at 64 images, NesT-T's train step moves 473 MB an
image with the kernels and 517 with XLA's.

Shape letters: b images, t tokens of an image, c channels, C the next power of two.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from kernels.precision import at_least_float32
from kernels.shards import over_shards
from kernels.target import Kernels, has_tensor_cores, platform

PARTS = 4  # programs an image
ELEMENTS = 8192  # that a program holds at a time
MAX_CHANNELS = 2048


def layer_norm(
    x: Array,
    scale: Array,
    bias: Array,
    epsilon: float,
    hand_on: bool = False,
    kernels: Kernels = "auto",
) -> tuple[Array, ...]:
    """Normalises the last axis: (x - mean) / sqrt(variance + epsilon) * scale + bias.

    Args:
        x: [..., c].
        scale: [c], float32.
        bias: [c], float32.
        epsilon: added to the variance.
        hand_on: whether to return `x` as well. Who goes on with this `x` has its gradient added
            where the norm's is computed, instead of in a pass of its own.
        kernels: "plain" for the formula alone, whose gradient JAX derives.

    Returns:
        [..., c], in the type of `x`, computed in float32 at least; then, if asked for, `x`.

    Reference:
        Ba et al., arXiv 1607.06450.
    """
    if kernels == "plain":
        return (plain(x, scale, bias, epsilon), x)[: 1 + hand_on]
    form = "triton" if platform() == "gpu" and fits(x) else "jnp"
    return _layer_norm(epsilon, form, hand_on, x, scale, bias)


def fits(x: Array) -> bool:
    """Returns whether the Triton kernel takes these tokens on the GPU at hand."""
    return x.ndim > 2 and x.shape[-1] <= MAX_CHANNELS and has_tensor_cores()


def _moments(x: Array) -> tuple[Array, Array]:
    mean = x.mean(axis=-1, keepdims=True)
    return mean, ((x - mean) ** 2).mean(axis=-1, keepdims=True)


def plain(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    """The form that defines the numbers."""
    wide = x.astype(at_least_float32(x))
    mean, variance = _moments(wide)
    return ((wide - mean) * lax.rsqrt(variance + epsilon) * scale + bias).astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _layer_norm(
    epsilon: float, form: str, hand_on: bool, x: Array, scale: Array, bias: Array
) -> tuple[Array, ...]:
    if form == "jnp":
        out = plain(x, scale, bias, epsilon)
    else:
        out = triton_forward(x, scale, bias, epsilon, form == "interpret")
    return (out, x)[: 1 + hand_on]


def _forward(epsilon, form, hand_on, x, scale, bias):
    return _layer_norm(epsilon, form, hand_on, x, scale, bias), (x, scale)


def _backward(epsilon, form, hand_on, saved, gradients) -> tuple[Array, Array, Array]:
    x, scale = saved
    if form == "jnp":
        x_gradient, *sums = _jnp_backward(x, scale, gradients, epsilon)
    else:
        x_gradient, *sums = triton_backward(x, scale, gradients, epsilon, form == "interpret")
    return x_gradient, *(total.astype(scale.dtype) for total in sums)


def _jnp_backward(x, scale, gradients, epsilon) -> tuple[Array, Array, Array]:
    # Without the barrier, XLA keeps the forward pass's float32 arrays instead of x.
    x, (gradient, *past) = lax.optimization_barrier((x, gradients))
    wide = x.astype(at_least_float32(x))
    mean, variance = _moments(wide)
    inverse = lax.rsqrt(variance + epsilon)
    normed, gradient = (wide - mean) * inverse, gradient.astype(wide.dtype)
    rows = tuple(range(x.ndim - 1))
    scale_gradient, bias_gradient = (gradient * normed).sum(rows), gradient.sum(rows)
    x_gradient = _x_gradient(gradient * scale, normed, inverse, x.shape[-1])
    return sum(past, x_gradient).astype(x.dtype), scale_gradient, bias_gradient


def _x_gradient(gradient: Array, normed: Array, inverse: Array, c: int) -> Array:
    mean = gradient.sum(axis=-1, keepdims=True) / c
    slope = (gradient * normed).sum(axis=-1, keepdims=True) / c
    return inverse * (gradient - mean - normed * slope)


_layer_norm.defvjp(_forward, _backward)


# The kernels. A program works on one of PARTS of an image; references are whole arrays.


def _sides(c: int) -> tuple[int, int]:
    """Returns rows and columns of a tile: powers of two, as Triton wants."""
    width = max(16, pl.next_power_of_2(c))
    return ELEMENTS // width, width


def _place(x_ref, image, tile):
    """Returns where a tile is, and which of its elements are."""
    rows, width = _sides(x_ref.shape[2])
    row = tile * rows + lax.broadcasted_iota(jnp.int32, (rows, width), 0)
    column = lax.broadcasted_iota(jnp.int32, (rows, width), 1)
    return (image, row, column), (row < x_ref.shape[1]) & (column < x_ref.shape[2])


def _load(ref, at, inside):
    return triton.load(ref.at[at], mask=inside, other=0.0).astype(jnp.float32)


def _vector(ref, width):
    column = lax.broadcasted_iota(jnp.int32, (1, width), 1)
    return triton.load(
        ref.at[jnp.zeros_like(column), column], mask=column < ref.shape[1], other=0.0
    )


def _normed(x, inside, c, epsilon):
    centred = jnp.where(inside, x - x.sum(axis=1, keepdims=True) / c, 0.0)
    inverse = lax.rsqrt((centred * centred).sum(axis=1, keepdims=True) / c + epsilon)
    return centred * inverse, inverse


def _forward_kernel(epsilon, x_ref, scale_ref, bias_ref, out_ref):
    at, inside = _place(x_ref, pl.program_id(0), pl.program_id(1))
    normed, _ = _normed(_load(x_ref, at, inside), inside, x_ref.shape[2], epsilon)
    scale, bias = (_vector(ref, inside.shape[1]) for ref in (scale_ref, bias_ref))
    triton.store(out_ref.at[at], (normed * scale + bias).astype(out_ref.dtype), mask=inside)


def _backward_kernel(epsilon, x_ref, scale_ref, gradient_ref, *refs):
    *past_refs, x_gradient_ref, sums_ref = refs
    image, part = pl.program_id(0), pl.program_id(1)
    _, tokens, c = x_ref.shape
    rows, width = _sides(c)
    steps = pl.cdiv(pl.cdiv(tokens, rows), PARTS)

    def one_tile(step, sums):
        at, inside = _place(x_ref, image, part * steps + step)
        normed, inverse = _normed(_load(x_ref, at, inside), inside, c, epsilon)
        gradient = _load(gradient_ref, at, inside)
        x_gradient = _x_gradient(gradient * _vector(scale_ref, width), normed, inverse, c)
        for past_ref in past_refs:
            x_gradient += _load(past_ref, at, inside)
        triton.store(x_gradient_ref.at[at], x_gradient.astype(x_gradient_ref.dtype), mask=inside)
        new = (gradient * normed).sum(axis=0), gradient.sum(axis=0)
        return tuple(total + more for total, more in zip(sums, new, strict=True))

    zeros = jnp.zeros(width, jnp.float32)
    for i, total in enumerate(lax.fori_loop(0, steps, one_tile, (zeros, zeros))):
        sums_ref[image, part, i] = total


def _call(kernel, epsilon, parts, results, interpret, name):
    def run(x, *rest):
        return pl.pallas_call(
            partial(kernel, epsilon),
            grid=(x.shape[0], parts),
            out_shape=results(x),
            interpret=interpret,
            compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
            name=name,
        )(x, *rest)

    return run


def triton_forward(x, scale, bias, epsilon: float, interpret: bool) -> Array:
    """The norm as one kernel."""
    flat = x.reshape(x.shape[0], -1, x.shape[-1])  # [b, t, c]
    tiles = pl.cdiv(flat.shape[1], _sides(x.shape[-1])[0])

    def results(x):
        return (jax.ShapeDtypeStruct(x.shape, x.dtype),)

    run = _call(_forward_kernel, epsilon, tiles, results, interpret, "layer_norm")
    operands = (flat, scale[None], bias[None])
    (out,) = over_shards(run, operands, (True, False, False), (True,))
    return out.reshape(x.shape)


def triton_backward(
    x, scale, gradients: tuple[Array, ...], epsilon: float, interpret: bool
) -> tuple[Array, Array, Array]:
    """Gradients by x, to which a second of `gradients` is added, scale and bias; one kernel."""
    c = x.shape[-1]

    def results(x):
        sums = (x.shape[0], PARTS, 2, max(16, pl.next_power_of_2(c)))
        like_x = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return like_x, jax.ShapeDtypeStruct(sums, jnp.float32)

    run = _call(_backward_kernel, epsilon, PARTS, results, interpret, "layer_norm_gradient")
    flat_x, *gradients = (y.reshape(x.shape[0], -1, c) for y in (x, *gradients))
    batched = (True, False, *(True for _ in gradients))
    operands = (flat_x, scale[None], *gradients)
    x_gradient, sums = over_shards(run, operands, batched, (True, True))
    scale_gradient, bias_gradient = sums.sum((0, 1))[:, :c]
    return x_gradient.reshape(x.shape), scale_gradient, bias_gradient
