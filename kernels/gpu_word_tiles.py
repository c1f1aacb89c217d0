"""What a GPU program does with a tile of words: the kernels of gpu_words.py.

Shape letters: r words of a tile; the others are those of gpu_words.py.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from kernels.gelu import Gelu, tanh_share

ROWS = 64  # words of a tile: whole sentences
FEATURES = 32  # hidden channels at a time
PARTS = 4  # programs an image


class Weights(NamedTuple):
    """The parameters of a block, padded with zeros; vectors and biases are float32."""

    norms: Array  # [4, 1, C]: scale and bias of both
    ends: Array  # [2, 1, C]: biases of the attention's and the perceptron's output
    query: Array  # [h, C, D]
    key: Array  # [h, C, D]
    value: Array  # [h, C, D]
    out: Array  # [h, D, C]
    dense1: Array  # [g, C, FEATURES]
    bias1: Array  # [g, 1, FEATURES]
    dense2: Array  # [g, FEATURES, C]


HEAD = ("query", "key", "value", "out")
GROUP = ("dense1", "bias1", "dense2")


class Shape(NamedTuple):
    """What a kernel is compiled for."""

    words: int  # of a sentence, m
    dim: int  # c
    head_dim: int  # d
    gelu: Gelu
    epsilon: float
    dtype: jnp.dtype
    interpret: bool


# The mathematics of a tile, [r, C], on float32 values. Products take the type of the words.


def _product(a: Array, b: Array, shape: Shape) -> Array:
    a, b = a.astype(shape.dtype), b.astype(shape.dtype)
    if shape.interpret:  # XLA's products on a CPU have the types of their arguments
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return jnp.dot(a, b, preferred_element_type=jnp.float32)


_product_with_gradient = jax.custom_vjp(_product, nondiff_argnums=(2,))
_product_with_gradient.defvjp(
    lambda a, b, shape: (_product(a, b, shape), (a, b)),
    lambda shape, saved, gradient: (
        _product(gradient, saved[1].T, shape),
        _product(saved[0].T, gradient, shape),
    ),
)


def _gelu(x: Array, form: Gelu) -> Array:
    if form == "tanh":
        return x * tanh_share(x)
    # Triton has no erf. Abramowitz and Stegun, formula 7.1.26: within 2e-7.
    z = jnp.abs(x) * 0.5**0.5
    t = 1 / (1 + 0.3275911 * z)
    series = 1.061405429
    for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = series * t + factor
    tail = 0.5 * series * t * jnp.exp(-z * z)  # P(normal > |x|)
    return x * jnp.where(x > 0, 1 - tail, tail)


def _norm(x: Array, scale: Array, bias: Array, shape: Shape) -> Array:
    real = lax.broadcasted_iota(jnp.int32, x.shape, 1) < shape.dim
    mean = x.sum(axis=1, keepdims=True) / shape.dim
    centred = jnp.where(real, x - mean, 0.0)
    variance = (centred * centred).sum(axis=1, keepdims=True) / shape.dim
    return centred * lax.rsqrt(variance + shape.epsilon) * scale + bias


def _head(product, shape: Shape, x: Array, *weights: Array) -> Array:
    """Returns what one head adds: normed words [r, C] to [r, C]."""
    to_query, to_key, to_value, to_out = weights
    row, column = (lax.broadcasted_iota(jnp.int32, (ROWS, ROWS), axis) for axis in range(2))
    query, key, value = (product(x, w, shape) for w in (to_query, to_key, to_value))  # [r, D]
    scores = product(query, key.T, shape) * shape.head_dim**-0.5  # [r, r]
    scores = jnp.where(row // shape.words == column // shape.words, scores, -1e30)
    exps = jnp.exp(scores - lax.stop_gradient(scores.max(axis=1, keepdims=True)))
    mean = product(exps / exps.sum(axis=1, keepdims=True), value, shape)  # [r, D]
    return product(mean, to_out, shape)


def _group(product, shape: Shape, x: Array, *weights: Array) -> Array:
    """Returns what some hidden channels add: normed words [r, C] to [r, C]."""
    dense1, bias1, dense2 = weights
    hidden = product(x, dense1, shape) + bias1  # [r, FEATURES]
    return product(_gelu(hidden, shape.gelu), dense2, shape)


# The kernels. References are whole arrays; a program works on one of PARTS of an image.


class _Tile:
    """Where a program reads and writes ROWS words of an image."""

    def __init__(self, x, keep, step, image, part, width: int, shape: Shape):
        _, words, dim = x.shape
        start = (part * _steps(words) + step) * ROWS
        row = start + lax.broadcasted_iota(jnp.int32, (ROWS, width), 0)
        column = lax.broadcasted_iota(jnp.int32, (ROWS, width), 1)
        self.at, self.inside = (image, row, column), (row < words) & (column < dim)
        self.keeps = 1.0, 1.0
        if keep:
            (keep,) = keep
            row = (start + lax.broadcasted_iota(jnp.int32, (ROWS, 1), 0)) // shape.words
            inside = row < keep.shape[1]
            at = ((image, row, jnp.full_like(row, branch)) for branch in range(2))
            self.keeps = tuple(triton.load(keep.at[i], mask=inside, other=0.0) for i in at)

    def load(self, x) -> Array:
        return triton.load(x.at[self.at], mask=self.inside, other=0.0).astype(jnp.float32)

    def store(self, x, value: Array) -> None:
        triton.store(x.at[self.at], value.astype(x.dtype), mask=self.inside)


def _steps(words: int) -> int:
    return pl.cdiv(pl.cdiv(words, ROWS), PARTS)


def _read(weights: Weights, names: tuple[str, ...], index) -> list[Array]:
    return [getattr(weights, name)[index].astype(jnp.float32) for name in names]


def _branch(function, names, weights: Weights, shape: Shape, x: Array, end: Array) -> Array:
    """Sums what heads or groups of hidden channels add; a loop keeps one of them on the chip."""

    def add(i, total):
        return total + function(_product, shape, x, *_read(weights, names, i))

    return lax.fori_loop(0, getattr(weights, names[0]).shape[0], add, jnp.zeros_like(x) + end)


def _branch_gradient(function, names, weights, sums, shape, x, gradient):
    """Returns the gradient of `_branch` by x; adds those by its weights to `sums`."""

    def add(i, total):
        transpose = jax.vjp(
            partial(function, _product_with_gradient, shape), x, *_read(weights, names, i)
        )[1]
        x_gradient, *gradients = transpose(gradient)
        for name, value in zip(names, gradients, strict=True):
            sums.add(name, i, value)
        return total + x_gradient

    return lax.fori_loop(0, getattr(weights, names[0]).shape[0], add, jnp.zeros_like(x))


class _Sums:
    """Where a program sums its gradients by the weights, over the tiles."""

    def __init__(self, refs: Weights, image, part, step):
        self.refs, self.place, self.step = refs, (image, part), step

    def add(self, name: str, index, value: Array) -> None:
        ref, at = getattr(self.refs, name), (*self.place, index)
        ref[at] = value + jnp.where(self.step == 0, 0.0, ref[at])


def forward_kernel(shape: Shape, has_keep: bool, x_ref, *refs):
    """Takes one of PARTS of an image through the block."""
    keep, weights, out_ref = refs[:has_keep], Weights(*refs[has_keep:-1]), refs[-1]
    image, part = pl.program_id(0), pl.program_id(1)

    def one_tile(step, _):
        tile = _Tile(x_ref, keep, step, image, part, weights.norms.shape[-1], shape)
        x = tile.load(x_ref)
        for i, (function, names) in enumerate(BRANCHES):
            scale, bias = (weights.norms[2 * i + j] for j in range(2))
            normed = _norm(x, scale, bias, shape)
            branch = _branch(function, names, weights, shape, normed, weights.ends[i])
            x = x + tile.keeps[i] * branch
        tile.store(out_ref, x)

    lax.fori_loop(0, _steps(x_ref.shape[1]), one_tile, None)


def backward_kernel(shape: Shape, has_keep: bool, x_ref, gradient_ref, *refs):
    """Writes the gradient by x, and what these words add to those by the weights."""
    keep, refs = refs[:has_keep], refs[has_keep:]
    number = len(Weights._fields)
    weights, x_gradient_ref, sum_refs = Weights(*refs[:number]), refs[number], refs[number + 1 :]
    image, part = pl.program_id(0), pl.program_id(1)

    def one_tile(step, _):
        tile = _Tile(x_ref, keep, step, image, part, weights.norms.shape[-1], shape)
        sums = _Sums(Weights(*sum_refs), image, part, step)
        inputs = [tile.load(x_ref)]
        norm = partial(_norm, shape=shape)
        norms = [weights.norms[i] for i in range(4)]
        normed = norm(inputs[0], *norms[:2])
        branch = _branch(*BRANCHES[0], weights, shape, normed, weights.ends[0])
        inputs.append(inputs[0] + tile.keeps[0] * branch)
        gradient = tile.load(gradient_ref)
        for i in (1, 0):
            normed, transpose = jax.vjp(norm, inputs[i], *norms[2 * i : 2 * i + 2])
            branch_gradient = gradient * tile.keeps[i]
            sums.add("ends", i, branch_gradient.sum(axis=0, keepdims=True))
            normed_gradient = _branch_gradient(
                *BRANCHES[i], weights, sums, shape, normed, branch_gradient
            )
            x_gradient, scale_gradient, bias_gradient = transpose(normed_gradient)
            sums.add("norms", 2 * i, scale_gradient)
            sums.add("norms", 2 * i + 1, bias_gradient)
            gradient = gradient + x_gradient
        tile.store(x_gradient_ref, gradient)
        if not shape.interpret:
            triton.debug_barrier()  # the next tile's sums may be read by another thread

    lax.fori_loop(0, _steps(x_ref.shape[1]), one_tile, None)


BRANCHES = ((_head, HEAD), (_group, GROUP))
