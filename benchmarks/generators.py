"""The speed of a generator, beside one of the same size that attends to whole images."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from layers.attention import ATTENTIONS
from layers.embeddings import PositionEmbedding
from layers.mlp import Mlp
from nest.aggregation import LAYER_NORM_EPSILON
from nest.gan.deaggregation import DEAGGREGATIONS, pixel_shuffle
from nest.gan.generator import NestGenerator, latent_shape
from zoo.costs import count_products


class FullAttentionLayer(nn.Module):
    """One transformer layer over all tokens: x + attention(norm(x)), then x + mlp(norm(x))."""

    num_heads: int
    mlp_ratio: float
    attention: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [b, n, c] to [b, n, c]."""
        y = nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=self.dtype, name="norm_attention")(x)
        attention = ATTENTIONS[self.attention](self.num_heads, dtype=self.dtype, name="attention")
        x = x + attention(y, deterministic=True)
        y = nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=self.dtype, name="norm_mlp")(x)
        hidden_dim = int(x.shape[-1] * self.mlp_ratio)
        mlp = Mlp(hidden_dim=hidden_dim, gelu="tanh", dtype=self.dtype, name="mlp")
        return x + mlp(y, deterministic=True)


class FullAttentionGenerator(nn.Module):
    """A TransGAN-style generator: at each resolution every token attends to every other.

    It has the widths, depths, heads and de-aggregations (TransGAN's own is pixel shuffle) of a NesT
    generator without classes, hence the same number of parameters.

    Attributes:
        like: the NesT generator.

    Reference:
        Jiang, Chang and Wang, "TransGAN", arXiv 2102.07074, section 3 and figure 1: transformer
        layers on 8x8, 16x16, 32x32, ... tokens, pixel shuffle in between. Its later grid attention
        for large images is left out.
    """

    like: NestGenerator

    @nn.compact
    def __call__(self, noise: Array) -> Array:
        """Maps [b, z] to images, [b, h, w, k]."""
        like, levels = self.like, len(self.like.dims)
        side = like.image_size // (like.patch_size * 2 ** (levels - 1))
        x = nn.Dense(side * side * like.dims[0], dtype=like.dtype, name="latent_projection")(noise)
        x = x.reshape(-1, side * side, like.dims[0])  # [b, n, c]
        for level in range(1, levels + 1):
            x = PositionEmbedding(like.dtype, name=f"level{level}_position")(x)
            for layer in range(1, like.depths[level - 1] + 1):
                x = FullAttentionLayer(
                    num_heads=like.num_heads[level - 1],
                    mlp_ratio=like.mlp_ratio,
                    attention=like.attention,
                    dtype=like.dtype,
                    name=f"level{level}_layer{layer}",
                )(x)
            x = x.reshape(-1, side, side, x.shape[-1])  # [b, h, w, c]
            if level < levels:
                x = DEAGGREGATIONS[like.deaggregation](
                    dim=like.dims[level], dtype=like.dtype, name=f"level{level}_deaggregation"
                )(x)  # [b, 2h, 2w, c of the next level]
                side *= 2
                x = x.reshape(-1, side * side, x.shape[-1])  # [b, 4n, c of the next level]
        x = nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=like.dtype, name="norm")(x)
        x = nn.Dense(like.patch_size**2 * like.num_channels, name="to_pixels")(
            x.astype(jnp.float32)
        )  # [b, h, w, p^2 * k]
        return pixel_shuffle(x, like.patch_size)  # [b, p * h, p * w, k]


def multiply_adds(model: nn.Module, params: Any, noise: Any) -> int:
    """Counts the multiply-adds of one image, as the papers' tables do; nothing is computed."""
    traced = jax.make_jaxpr(model.apply)({"params": params}, noise)
    return sum(cost.multiply_adds for cost in count_products(traced.jaxpr).values())


def speed_of(model: nn.Module, params: Any, noise: Array) -> Callable[[float], float]:
    """Returns a measurement of samples/s, compiled and run once before."""
    generate = jax.jit(model.apply)
    variables = {"params": params}
    jax.block_until_ready(generate(variables, noise))

    def measure(seconds: float) -> float:
        samples, started = 0, time.perf_counter()
        while (passed := time.perf_counter() - started) < seconds or not samples:
            jax.block_until_ready(generate(variables, noise))
            samples += len(noise)
        return samples / passed

    return measure


def run(
    generator: NestGenerator,
    *,
    batch_size: int,
    seconds: float,
    rounds: int,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Measures a generator and its full-attention twin, in turns.

    Args:
        generator: the generator, without classes.
        batch_size: images at a time, of both.
        seconds: length of a measurement; one batch at least.
        rounds: measurements of each; the median counts.
        say: prints a line.

    Returns:
        For each of the two its name, parameters, multiply-adds an image, the samples/s of each
        round and their median.
    """
    device = jax.devices()[0].device_kind
    size, dtype = generator.image_size, jnp.dtype(generator.dtype).name
    say(f"{size} x {size} pixels, batches of {batch_size}, {dtype}, {device}")
    noise = jax.random.normal(jax.random.key(0), latent_shape(generator, batch_size))
    results, measures = [], []
    for name, model in (
        ("attention inside blocks: transposed NesT", generator),
        ("attention over the image: TransGAN-style", FullAttentionGenerator(generator)),
    ):
        params = _made_params(model, noise[:1])
        result = {
            "generator": name,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
            "multiply_adds": multiply_adds(model, params, noise[:1]),
            "rounds": [],
        }
        results.append(result)
        measures.append(speed_of(model, params, noise))
    for _ in range(rounds):
        for result, measure in zip(results, measures, strict=True):
            result["rounds"].append(measure(seconds))
    for result in results:
        speeds = result["rounds"]
        result["samples_per_second"] = statistics.median(speeds)
        say(
            f"{result['samples_per_second']:10,.2f} samples/s "
            f"({min(speeds):,.2f} to {max(speeds):,.2f})  "
            f"{result['multiply_adds'] / 1e9:8.3f} GMAC/sample  "
            f"{result['parameters'] / 1e6:6.2f}M parameters  {result['generator']}"
        )
    ours, theirs = (result["samples_per_second"] for result in results)
    say(f"{ours / theirs:.1f} times as many samples")
    return results


def _made_params(model: nn.Module, noise: Array) -> Any:
    """Fills a model's parameters with noise: initialising takes longer than measuring."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), noise)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.02 * rng.standard_normal(leaf.shape, np.float32)), shapes
    )
