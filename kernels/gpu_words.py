"""A whole pre-norm transformer block in one kernel, for many short sequences of few channels.

TNT's inner block reads and writes words of 24 or 40 channels some forty times, and its attention
scores are 2.7 times the words themselves. The weights are small (7 thousand in TNT-S), so a GPU
program takes 64 words at a time through the whole block on the chip: the block reads and writes the
words once, and its gradient computes the block again.

Compiled for an H100 in bfloat16 at 64 images, TNT-S's train step moves 400 MB an image with it and
1,176 MB without, in 2.5 instead of 8.1 GB of temporary memory (of that, the norms of the outer
blocks by kernels/layer_norm.py are part).

Shape letters: b images, w words of an image (m in each sentence), c channels, h heads, d channels
of a head, f hidden channels of the perceptron, in g groups of FEATURES. C and D are c and d padded
to powers of two, as Triton wants.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from kernels.gelu import Gelu
from kernels.gpu_word_tiles import (
    FEATURES,
    PARTS,
    ROWS,
    Shape,
    Weights,
    backward_kernel,
    forward_kernel,
)
from kernels.shards import over_shards
from kernels.target import has_tensor_cores


def fits(x: Array, num_heads: int) -> bool:
    """Returns whether the kernel takes these words on the GPU at hand.

    Args:
        x: [b, n, m, c]: whole sentences must fill a tile, and the weights fit on the chip.
        num_heads: h, which divides c.
    """
    *_, words, dim = x.shape
    half = x.dtype in (jnp.bfloat16, jnp.float16)
    small = dim <= 64 and dim // num_heads <= 32
    return x.ndim == 4 and half and ROWS % words == 0 and small and has_tensor_cores()


def pack(params: dict, dtype: jnp.dtype) -> Weights:
    """Returns the parameters of a TransformerBlock as a kernel takes them."""

    def pad(x: Array, *sides: int) -> Array:
        return jnp.pad(x, [(0, side - old) for side, old in zip(sides, x.shape, strict=True)])

    attention, mlp = params["attention"], params["mlp"]
    c, _, h, d = attention["qkv"]["kernel"].shape
    f = mlp["dense1"]["kernel"].shape[1]
    big_c, big_d = (max(16, pl.next_power_of_2(size)) for size in (c, d))
    g = pl.cdiv(f, FEATURES)
    norms = (params[name] for name in ("norm_attention", "norm_mlp"))
    norms = jnp.stack([norm[part] for norm in norms for part in ("scale", "bias")])
    ends = jnp.stack([attention["out"]["bias"], mlp["dense2"]["bias"]])
    qkv = attention["qkv"]["kernel"].transpose(1, 2, 0, 3)  # [3, h, c, d]
    query, key, value = pad(qkv, 3, h, big_c, big_d).astype(dtype)
    dense1 = pad(mlp["dense1"]["kernel"], big_c, g * FEATURES).reshape(big_c, g, FEATURES)
    return Weights(
        norms=pad(norms[:, None], 4, 1, big_c),
        ends=pad(ends[:, None], 2, 1, big_c),
        query=query,
        key=key,
        value=value,
        out=pad(attention["out"]["kernel"], h, big_d, big_c).astype(dtype),
        dense1=dense1.transpose(1, 0, 2).astype(dtype),
        bias1=pad(mlp["dense1"]["bias"], g * FEATURES).reshape(g, 1, FEATURES),
        dense2=pad(mlp["dense2"]["kernel"], g * FEATURES, big_c)
        .reshape(g, FEATURES, big_c)
        .astype(dtype),
    )


def _call(kernel, shape: Shape, results, has_keep: bool, name: str):
    def run(x, *rest):
        return pl.pallas_call(
            partial(kernel, shape, has_keep),
            grid=(x.shape[0], PARTS),
            out_shape=results(x, *rest),
            interpret=shape.interpret,
            compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
            name=name,
        )(x, *rest)

    return run


def _like(x: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _block(shape: Shape, x: Array, keep: Array | None, weights: Weights) -> Array:
    keeps = () if keep is None else (keep,)
    run = _call(forward_kernel, shape, lambda x, *_: (_like(x),), bool(keeps), "word_block")
    batched = (True, *(True for _ in keeps), *(False for _ in weights))
    return over_shards(run, (x, *keeps, *weights), batched, (True,))[0]


def _forward(shape: Shape, x: Array, keep: Array | None, weights: Weights) -> tuple[Array, tuple]:
    return _block(shape, x, keep, weights), (x, keep, weights)


def _backward(shape: Shape, saved: tuple, gradient: Array) -> tuple[Array, Array | None, Weights]:
    x, keep, weights = saved
    keeps = () if keep is None else (keep,)

    def results(x, *rest):
        sums = ((x.shape[0], PARTS, *weight.shape) for weight in rest[-len(Weights._fields) :])
        return (
            _like(x),
            *(jax.ShapeDtypeStruct(size, jnp.float32) for size in sums),
        )

    run = _call(backward_kernel, shape, results, bool(keeps), "word_block_gradient")
    batched = (True, True, *(True for _ in keeps), *(False for _ in weights))
    operands, all_batched = (x, gradient, *keeps, *weights), (True,) * (1 + len(weights))
    x_gradient, *sums = over_shards(run, operands, batched, all_batched)
    sums = (total.sum((0, 1)).astype(old.dtype) for total, old in zip(sums, weights, strict=True))
    return x_gradient, None if keep is None else jnp.zeros_like(keep), Weights(*sums)


_block.defvjp(_forward, _backward)


def transformer_block(
    x: Array,
    params: dict,
    keep: Array | None,
    gelu: Gelu,
    epsilon: float,
    interpret: bool = False,
) -> Array:
    """Computes x + attention(norm(x)), then x + mlp(norm(x)), without dropout.

    Args:
        x: [b, n, m, c]; the words of different sentences, n, never meet.
        params: of a `tnt.block.TransformerBlock` without biases of query, key and value.
        keep: [b, n, 2], what each of the two branches of a sentence is multiplied by: 0 where its
            path is dropped. None: 1.
        gelu: "tanh" or "exact".
        epsilon: of the layer norms.
        interpret: whether to run the kernel step by step in JAX, on any device.

    Returns:
        [b, n, m, c], in the type of `x`; sums, norms and the softmax in float32.
    """
    b, n, m, c = x.shape
    head_dim = params["attention"]["qkv"]["kernel"].shape[-1]
    shape = Shape(m, c, head_dim, gelu, epsilon, x.dtype, interpret)
    return _block(shape, x.reshape(b, n * m, c), keep, pack(params, x.dtype)).reshape(x.shape)
