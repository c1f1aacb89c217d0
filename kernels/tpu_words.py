"""TNT's inner block on a TPU: a transformer block over the words of a sentence in one kernel.

A word is narrow (24 channels in TNT-S) and a register has 128 lanes. So the words of a sentence lie
side by side in memory, [m * c], and the kernel spreads them over whole tiles of 128 lanes, a power
of two of lanes to a word and to each of its heads; the lanes between them hold zeros. What acts on
each word by itself is a product with a block-diagonal matrix of 128 rows. Attention goes through
the m distances between two words: it turns the keys by one distance, multiplies them with the
queries lane by lane, and sums the lanes of a head by a product with a matrix of ones and zeros.

Shape letters: b images, n sentences, r sentences of one step, m words, c channels of a word, h
heads, d = c / h channels of a head, l lanes of a word, g = 128 / l words of a tile, t = m / g tiles
of a sentence.
"""

from collections.abc import Mapping
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.target import vmem_for_a_kernel
from kernels.tpu_attention import FLOATS
from kernels.tpu_fused import Block, block_weights, dot, fused, gelu

LANES = 128
MAX_WORDS = 64
_SCORES = 4 * 2**20  # bytes of attention weights of one step; the backward pass needs 5 times that


def fits(x: Array, num_heads: int) -> bool:
    """Returns whether the kernel takes words [b, n, m, c]: they must fill tiles and fit in VMEM."""
    if x.ndim != 4 or x.dtype not in FLOATS:
        return False
    words = Words(*x.shape[2:], num_heads, 0, "exact", 0.0, x.dtype)
    if words.lanes > LANES or words.num_tokens % words.per_tile or words.num_tokens > MAX_WORDS:
        return False
    return words.most_sentences > 0 and vmem_for_a_kernel() > 8 * _SCORES


def transformer_block(
    x: Array, params: Mapping[str, Any], keep: Array | None, gelu: str, epsilon: float
) -> Array:
    """Computes x + attention(norm(x)), then x + mlp(norm(x)), without dropout.

    Args:
        x: [b, n, m, c]; the words of different sentences, n, never meet.
        params: of a `tnt.block.TransformerBlock`.
        keep: [b, n, 2], what each of the two branches of a sentence is multiplied by: 0 where its
            path is dropped. None: 1.
        gelu: "tanh" or "exact".
        epsilon: of the layer norms.

    Returns:
        [b, n, m, c], in the type of `x`; sums, norms and the softmax in float32.
    """
    b, n, m, c = x.shape
    _, _, num_heads, _ = params["attention"]["qkv"]["kernel"].shape
    hidden_dim = params["mlp"]["dense1"]["bias"].size
    words = Words(m, c, num_heads, hidden_dim, gelu, epsilon, x.dtype)
    keep = None if keep is None else keep.astype(jnp.float32)
    return fused(words, x.reshape(b, n, m * c), keep, block_weights(params)).reshape(x.shape)


class Words(Block):
    """A block over the words of a sentence, its tokens, and where they lie in lanes."""

    @property
    def head_lanes(self) -> int:
        return pl.next_power_of_2(self.dim // self.num_heads)

    @property
    def lanes(self) -> int:
        lanes = self.head_lanes * pl.next_power_of_2(self.num_heads)
        # A few very narrow words: a tile holds no more than all of them.
        return max(lanes, LANES // self.num_tokens if LANES % self.num_tokens == 0 else 0)

    @property
    def per_tile(self) -> int:
        return LANES // self.lanes

    @property
    def tiles(self) -> int:
        return self.num_tokens // self.per_tile

    @property
    def most_sentences(self) -> int:
        return _SCORES // (self.num_tokens * self.tiles * LANES * 4) // 16 * 16

    @property
    def products(self) -> int:
        hidden = self.per_tile * self.hidden_dim // LANES
        dense = 4 + 2 * hidden  # products of 128 x 128 for a tile
        turns = 2 * self.tiles  # spreading the words and putting them together
        return self.tiles * LANES**2 * (dense + self.num_tokens + 8 + turns)

    def step(self, sequences: int) -> int:
        """As in `tpu_fused.Block`: as many sentences as leave room for their weights."""
        return min(sequences, self.most_sentences)

    def constants(self) -> tuple[Array, ...]:
        """Returns what moves [m * c] channels to their lanes, t * 128, and what moves them back."""
        channel = jnp.arange(self.num_tokens * self.dim)
        lane = channel // self.dim * self.lanes + channel % self.dim
        spread = (lane[:, None] == jnp.arange(self.tiles * LANES)).astype(self.dtype)
        return spread, spread.T

    def pack(self, weights: tuple[Array, ...]) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """Lays the weights of one word out for a tile of self.

        Returns:
            qkv [128, 3 * 128], out [128, 128], dense1 [128, g * hidden], dense2 [g * hidden, 128];
            then the bias of dense1 [1, g * hidden], and [9, 128]: the biases of query, key, value,
            out and dense2, then scale and bias of both norms.
        """
        g, lanes = self.per_tile, self.lanes
        qkv, qkv_bias, out, out_bias, dense1, bias1, dense2, bias2, *norms = weights

        def pad(x: Array, axis: int) -> Array:
            sizes = [(0, 0)] * x.ndim
            sizes[axis] = (0, lanes - x.shape[axis])
            return jnp.pad(x, sizes)

        def heads(x: Array, axis: int) -> Array:  # [..., h, d, ...] to [..., l, ...]
            sizes = [(0, 0)] * x.ndim
            sizes[axis + 1] = (0, self.head_lanes - x.shape[axis + 1])
            x = jnp.pad(x, sizes)
            return pad(x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :]), axis)

        def diagonal(x: Array) -> Array:  # [rows, columns] to [g * rows, g * columns]
            return jnp.kron(jnp.eye(g, dtype=x.dtype), x)

        qkv = heads(pad(qkv, 0), 2)  # [l, 3, l]
        qkv = jnp.concatenate([diagonal(qkv[:, i]) for i in range(3)], axis=1)
        rows = [heads(qkv_bias, 1), *(pad(x, 0)[None] for x in (out_bias, bias2, *norms))]
        matrices = (
            qkv,
            diagonal(pad(heads(out, 0), 1)),
            diagonal(pad(dense1, 0)),
            diagonal(pad(dense2, 1)),
        )
        return matrices, (jnp.tile(bias1, g)[None], jnp.tile(jnp.concatenate(rows), (1, g)))

    def compute(
        self, x: Array, keep: Array | None, constants: tuple, matrices: tuple, vectors: tuple
    ) -> Array:
        """Maps the words of r sentences, [r, m * c], to the same, in float32."""
        (qkv, out, dense1, dense2), (bias1, rows) = matrices, vectors
        row = [rows[i : i + 1] for i in range(9)]
        tiles = self.tiles

        def keeps(i: int) -> Array | float:  # [t * r, 1]
            return 1.0 if keep is None else jnp.concatenate([keep[:, i : i + 1]] * tiles)

        x = dot(x, (constants[0], None))  # [r, t * 128]
        x = jnp.concatenate(
            [x[:, i * LANES : (i + 1) * LANES] for i in range(tiles)]
        )  # [t * r, 128]
        y = dot(_norm(self, x, *row[5:7]), qkv)  # [t * r, 3 * 128]
        query, key, value = (y[:, i * LANES : (i + 1) * LANES] + row[i] for i in range(3))
        x = x + (dot(_attend(self, query, key, value), out) + row[3]) * keeps(0)
        y = dot(_norm(self, x, *row[7:9]), dense1) + bias1  # [t * r, g * hidden]
        y = gelu(y, self.gelu)
        x = x + (dot(y, dense2) + row[4]) * keeps(1)
        step = x.shape[0] // tiles
        x = jnp.concatenate([x[i * step : (i + 1) * step] for i in range(tiles)], axis=1)
        return dot(x, (constants[1], None))  # [r, m * c]


def _norm(words: Words, x: Array, scale: Array, bias: Array) -> Array:
    """Layer norm of each word; the lanes between words stay zero."""
    i, j = _lanes()
    # Two lanes are of one word where they differ in its low bits alone.
    ones = ((i ^ j) < words.lanes) & ((i & (words.lanes - 1)) < words.dim)
    ones = ones.astype(jnp.float32).astype(words.dtype)
    mean = _sum_lanes(x, ones) / words.dim
    centred = x - mean
    variance = _sum_lanes(centred * centred, ones) / words.dim
    return centred * jax.lax.rsqrt(variance + words.epsilon) * scale + bias


def _attend(words: Words, query: Array, key: Array, value: Array) -> Array:
    """Attention of all words of a sentence, [t * r, 128] each: sums over m distances."""
    i, j = _lanes()
    ones = ((i ^ j) < words.head_lanes).astype(jnp.float32)
    ones = (ones.astype(words.dtype), None)
    query = query * (words.dim // words.num_heads) ** -0.5
    step = query.shape[0] // words.tiles

    def turned(x: Array) -> list[Array]:
        found = []
        for slot in range(words.per_tile):
            y = _roll(x, slot * words.lanes) if slot else x
            found += [
                jnp.concatenate([y[tile * step :], y[: tile * step]]) if tile else y
                for tile in range(words.tiles)
            ]
        return found

    # The score of a head stands in each of its lanes.
    scores = [dot(query * key, ones) for key in turned(key)]
    largest = jax.lax.stop_gradient(reduce(jnp.maximum, scores))
    weights = [jnp.exp(score - largest) for score in scores]
    values = [weight * value for weight, value in zip(weights, turned(value), strict=True)]
    return sum(values) / sum(weights)


def _lanes() -> tuple[Array, Array]:
    return tuple(jax.lax.broadcasted_iota(jnp.int32, (LANES, LANES), axis) for axis in range(2))


def _sum_lanes(x: Array, ones: Array) -> Array:
    """Sums lanes in nearly float32: a bfloat16 product for the first digits, one for the next."""
    if ones.dtype == jnp.float32:
        return dot(x, (ones, None))
    first = x.astype(ones.dtype).astype(jnp.float32)
    return dot(first, (ones, None)) + dot(x - first, (ones, None))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _roll(x: Array, shift: int) -> Array:
    return pltpu.roll(x, shift, 1)


_roll.defvjp(
    lambda x, shift: (_roll(x, shift), None),
    lambda shift, _, d_out: (pltpu.roll(d_out, LANES - shift, 1),),
)
