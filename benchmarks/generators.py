"""The speed of a NesT generator and of one of the same size that attends to whole images."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from baselines.full_attention_generator import FullAttentionGenerator
from kernels.target import compiling_for
from layers.shared_fields import shared_fields
from nest.gan.generator import NestGenerator, latent_shape
from zoo.costs import count_products


def multiply_adds(model: nn.Module, params: Any, noise: Any) -> int:
    """Counts the multiply-adds per image, as the papers' tables do; nothing is computed."""
    with compiling_for("any"):
        traced = jax.make_jaxpr(model.apply)({"params": params}, noise)
    return sum(cost.multiply_adds for cost in count_products(traced.jaxpr).values())


def speed_of(model: nn.Module, params: Any, noise: Array) -> Callable[[float], float]:
    """Returns a function that measures samples/s for some seconds, already compiled."""
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
    """Measures a generator and its full-attention counterpart, in turns, with kernels="plain".

    Args:
        generator: the generator, without classes.
        batch_size: images per call, for both.
        seconds: length of a measurement, which takes at least one batch.
        rounds: measurements per generator; the median counts.
        say: prints a line.

    Returns:
        Per generator: its name, parameters, multiply-adds per image, the samples/s of each round
        and their median.
    """
    device = jax.devices()[0].device_kind
    size, dtype = generator.image_size, jnp.dtype(generator.dtype).name
    say(f"{size} x {size} pixels, batches of {batch_size}, {dtype}, {device}")
    noise = jax.random.normal(jax.random.key(0), latent_shape(generator, batch_size))
    # The plain forms on both sides: what the designs cost, not what kernels/ saves of either.
    generator = generator.clone(kernels="plain")
    full_attention = FullAttentionGenerator(**shared_fields(generator, FullAttentionGenerator))
    results, measures = [], []
    for name, model in (
        ("attention inside blocks: transposed NesT", generator),
        ("attention over the image: TransGAN-style", full_attention),
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
