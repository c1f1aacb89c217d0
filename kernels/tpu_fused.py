"""A whole transformer block as one Pallas kernel for TPUs, and its gradient as another.

The forward kernel reads the tokens once and writes them once; the backward kernel reads the tokens
and the gradient, repeats the forward pass, and writes the gradient. Queries, scores, hidden units
and their gradients never leave the chip, and the sums of the weights' gradients stay there until
the last step. What the kernels compute is `block.compute`, differentiated by JAX inside them.

In a train step (bfloat16, 64 images a chip, compiled for v5e:4x4, XLA's count) TNT-S moves 220 MB
an image instead of 2,877 and NesT-T 239 instead of 963; temporary memory is 0.8 GB instead of 14.7
and 1.1 instead of 6.6. The second forward pass is the price: TNT-S becomes bound by products.

Shape letters: b images, s sequences of an image.
"""

import abc
import dataclasses
import itertools
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.shards import over_shards
from kernels.target import platform, vmem_for_a_kernel
from kernels.tpu_attention import product


@dataclasses.dataclass(frozen=True)
class Block(abc.ABC):
    """A transformer block for one step of the kernels' grid: its sizes, and what it computes.

    Attributes:
        num_tokens: tokens of a sequence.
        dim: channels of a token.
        num_heads: attention heads.
        hidden_dim: width of the perceptron.
        gelu: "tanh" or "exact".
        epsilon: of the layer norms.
        dtype: type of the tokens and of the factors of products; sums are float32.
    """

    num_tokens: int
    dim: int
    num_heads: int
    hidden_dim: int
    gelu: str
    epsilon: float
    dtype: Any

    @property
    @abc.abstractmethod
    def products(self) -> int:
        """Multiply-adds of a forward pass over one sequence."""

    def step(self, sequences: int) -> int | None:
        """Returns how many sequences a step takes; None: one, without an axis for it."""
        return None

    def constants(self) -> tuple[Array, ...]:
        """Returns arrays that `compute` takes as they are."""
        return ()

    @abc.abstractmethod
    def pack(self, weights: tuple[Array, ...]) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """Returns the matrices and the vectors, [1, ...] each, that `compute` takes."""

    @abc.abstractmethod
    def compute(
        self, x: Array, keep: Array | None, constants: tuple, matrices: tuple, vectors: tuple
    ) -> Array:
        """Maps the tokens of a step to those after the block, in float32.

        Every matrix is a pair for `dot`.
        """


def block_weights(params: Any) -> tuple[Array, ...]:
    """Lists the parameters of a transformer layer, which all here name in the same way."""
    qkv, out = params["attention"]["qkv"], params["attention"]["out"]
    no_bias = jnp.zeros(qkv["kernel"].shape[1:])
    denses = (params["mlp"][name] for name in ("dense1", "dense2"))
    norms = (params[name] for name in ("norm_attention", "norm_mlp"))
    return (
        *(qkv["kernel"], qkv.get("bias", no_bias), out["kernel"], out["bias"]),
        *(dense[leaf] for dense in denses for leaf in ("kernel", "bias")),
        *(norm[leaf] for norm in norms for leaf in ("scale", "bias")),
    )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def fused(block: Block, x: Array, keep: Array | None, weights: tuple[Array, ...]) -> Array:
    """Computes a block.

    Args:
        block: what to compute.
        x: [b, s, ...].
        keep: [b, s, ..., 2], factors of the two branches, or None for 1. Its gradient is zero.
        weights: what `block.pack` takes.

    Returns:
        Of the shape and type of x.
    """
    batched = (x,) if keep is None else (x, keep)
    flags = (True,) * len(batched) + (False,) * len(weights)
    call = _forward_call(block, len(batched), platform() != "tpu")
    return over_shards(call, (*batched, *weights), flags, (True,))[0]


def _fused_forward(block: Block, x: Array, keep: Array | None, weights: tuple) -> tuple:
    return fused(block, x, keep, weights), (x, keep, weights)


def _fused_backward(block: Block, saved: tuple, d_out: Array) -> tuple:
    x, keep, weights = saved
    batched = (x, d_out) if keep is None else (x, d_out, keep)
    flags = (True,) * len(batched) + (False,) * len(weights)
    call = _backward_call(block, len(batched), platform() != "tpu")
    results = (True,) + (False,) * len(weights)
    dx, *d_weights = over_shards(call, (*batched, *weights), flags, results)
    return dx, None if keep is None else jnp.zeros_like(keep), tuple(d_weights)


fused.defvjp(_fused_forward, _fused_backward)


@lru_cache
def _forward_call(block: Block, num_batched: int, interpret: bool):
    def call(*operands: Array) -> tuple[Array, ...]:
        packed = block.pack(operands[num_batched:])
        return (_pallas(block, operands[:num_batched], packed, False, interpret)[0],)

    return call


@lru_cache
def _backward_call(block: Block, num_batched: int, interpret: bool):
    def call(*operands: Array) -> tuple[Array, ...]:
        packed, unpack = jax.vjp(block.pack, operands[num_batched:])
        dx, *sums = _pallas(block, operands[:num_batched], packed, True, interpret)
        leaves, structure = jax.tree.flatten(packed)
        sums = [total.astype(leaf.dtype) for total, leaf in zip(sums, leaves, strict=True)]
        return dx, *unpack(jax.tree.unflatten(structure, sums))[0]

    return call


def _pallas(
    block: Block, batched: tuple, packed: tuple, backward: bool, interpret: bool
) -> tuple[Array, ...]:
    x = batched[0]
    sequences = x.shape[0] * x.shape[1]
    step = block.step(sequences)
    batched = tuple(a.reshape(sequences, *a.shape[2:]) for a in batched)
    matrices = tuple(a.astype(block.dtype) for a in packed[0])
    constants = block.constants()
    whole = (*constants, *matrices, *packed[1])
    counts = tuple(map(len, (batched, constants, matrices, packed[1])))
    steps = [
        pl.BlockSpec((step, *a.shape[1:]), lambda i, n=a.ndim: (i, *(0,) * (n - 1)))
        for a in batched
    ]
    wholes = [pl.BlockSpec(a.shape, lambda i, n=a.ndim: (0,) * n) for a in whole]
    results = [jax.ShapeDtypeStruct(batched[0].shape, x.dtype)]
    if backward:
        sums = jax.tree.leaves(packed)
        results += [jax.ShapeDtypeStruct(a.shape, jnp.float32) for a in sums]
    arrays = (*batched, *whole, *results)
    found = pl.pallas_call(
        partial(_kernel, block, sequences, step, counts, backward),
        grid=(pl.cdiv(sequences, step or 1),),
        in_specs=[*steps, *wholes],
        out_specs=[steps[0], *wholes[len(constants) :]] if backward else [steps[0]],
        out_shape=results,
        cost_estimate=pl.CostEstimate(
            flops=2 * sequences * block.products * (3 if backward else 1),
            transcendentals=0,
            bytes_accessed=sum(a.size * a.dtype.itemsize for a in arrays),
        ),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary",), vmem_limit_bytes=vmem_for_a_kernel()
        ),
        interpret=interpret,
        name="block_backward" if backward else "block_forward",
    )(*batched, *whole)
    return (found[0].reshape(x.shape), *found[1:])


def _kernel(
    block: Block, sequences: int, step: int | None, counts: tuple[int, ...], backward: bool, *refs
) -> None:
    batched, constants, matrices, vectors, results = _split(refs, counts)
    operands = [ref[...].astype(jnp.float32) for ref in batched]
    if step and sequences % step:
        # What a step reads after the last sequence is anything, and would spoil the sums.
        row = jax.lax.broadcasted_iota(jnp.int32, (step, 1), 0) + pl.program_id(0) * step
        operands = [jnp.where(row < sequences, x, 0) for x in operands]
    x, d_out, keep = operands[0], operands[backward], (*operands[1 + backward :], None)[0]
    constants, matrices, vectors = (
        tuple(ref[...] for ref in part) for part in (constants, matrices, vectors)
    )
    if not backward:
        out = block.compute(x, keep, constants, tuple((m, None) for m in matrices), vectors)
        results[0][...] = out.astype(results[0].dtype)
        return

    def run(x: Array, sums: tuple[Array, ...], vectors: tuple[Array, ...]) -> Array:
        pairs = tuple(zip(matrices, sums, strict=True))
        return block.compute(x, keep, constants, pairs, vectors)

    # Only the gradients of these zeros are used: see dot.
    zeros = tuple(jnp.zeros(m.shape, jnp.float32) for m in matrices)
    dx, *d_weights = jax.vjp(run, x, zeros, vectors)[1](d_out)
    results[0][...] = dx.astype(results[0].dtype)

    @pl.when(pl.program_id(0) == 0)
    def _() -> None:
        for ref in results[1:]:
            ref[...] = jnp.zeros_like(ref)

    for ref, found in zip(results[1:], (*d_weights[0], *d_weights[1]), strict=True):
        ref[...] += found


def _split(refs: tuple, counts: tuple[int, ...]) -> list[tuple]:
    ends = [sum(counts[:i]) for i in range(len(counts) + 1)]
    return [*(refs[i:j] for i, j in itertools.pairwise(ends)), refs[ends[-1] :]]


def gelu(x: Array, form: str) -> Array:
    """GELU, "exact" or "tanh", of operations that Pallas has for TPUs: erfc is none of them."""
    if form == "tanh":
        return jax.nn.gelu(x)
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


@jax.custom_vjp
def dot(a: Array, matrix: tuple[Array, Array | None]) -> Array:
    """Multiplies [i, k] and [k, j] in the type of the matrix, and adds in float32.

    The second array of the pair gets the gradient of the matrix, in float32; the first, which has
    the type of the products, gets none.
    """
    return _product(a, matrix[0], 1, 0)


def _dot_backward(saved: tuple, d_out: Array) -> tuple:
    a, (matrix, total) = saved
    d_matrix = None if total is None else _product(a.astype(matrix.dtype), d_out, 0, 0)
    return _product(d_out, matrix, 1, 1), (jnp.zeros_like(matrix), d_matrix)


dot.defvjp(lambda a, matrix: (dot(a, matrix), (a, matrix)), _dot_backward)


def _product(a: Array, b: Array, a_axis: int, b_axis: int) -> Array:
    """Sums over an axis of each, with factors in the narrower of their types."""
    dtype = min(a.dtype, b.dtype, key=lambda dtype: dtype.itemsize)
    return product(a, b, dtype, a_axis, b_axis)
