"""Steps of JAX models that are measured without a recipe: ours and the official NesT's.

Needs little beside JAX, Flax and optax, so that it also runs on a bare machine with a GPU.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from benchmarks import official_nest
from benchmarks.model_speed import Contender
from zoo.registry import create_model, default_image_size, model_fields

LEARNING_RATE = 1e-3  # its value changes nothing
Logits = Callable[[Any, Any, jax.Array, jax.Array], tuple[jax.Array, Any]]


@dataclasses.dataclass(frozen=True)
class Work:
    """What all contenders do.

    Attributes:
        kind: "forward" in evaluation; "train": forward, loss, backward, AdamW.
        model: name in zoo/registry.py.
        batch_size: images.
        image_shape: (height, width, channels).
        num_classes: number of logits.
        dtype: what is computed in; parameters are float32.
    """

    kind: Literal["forward", "train"]
    model: str
    batch_size: int
    image_shape: tuple[int, int, int]
    num_classes: int
    dtype: str


def create_measured(work: Work, fields: Mapping[str, Any]) -> nn.Module:
    """Returns the model, without drop path unless the fields have it."""
    name, dtype = work.model, {"dtype": work.dtype}
    model = create_model(name, num_classes=work.num_classes, **dtype | dict(fields))
    return without_drop_path(model, fields)


def without_drop_path(model: nn.Module, fields: Mapping[str, Any]) -> nn.Module:
    """Returns a model without drop path, unless the fields say how much of it there is."""
    has_it = "drop_path_rate" in model_fields(type(model)) and "drop_path_rate" not in fields
    return model.clone(drop_path_rate=0.0) if has_it else model


def image_shape_of(model: str, side: int | None, channels: int = 3) -> tuple[int, int, int]:
    """Returns the shape of the images: of a side, or those that the model is made for."""
    side = side or default_image_size(model)
    return side, side, channels


def train_step(logits_of: Logits, optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    """Returns a train step: forward, loss, backward, optimizer.

    Args:
        logits_of: (params, statistics, images, key) -> (logits, new statistics).
        optimizer: its update.

    Returns:
        (state, images, labels, seed) -> (state, loss), the state being (params, statistics,
        optimizer state).
    """

    def step(state, images, labels, seed):
        params, statistics, opt_state = state

        def loss_of(params):
            logits, new = logits_of(params, statistics, images, jax.random.key(seed))
            logits = logits.astype(jnp.float32)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), new

        (loss, statistics), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), statistics, opt_state), loss

    return step


def ours(work: Work, fields: Mapping[str, Any], name: str = "ours") -> Contender:
    """Returns a model of this codebase as a contender, compiled.

    Raises:
        ValueError: no such model or field.
    """
    model = create_measured(work, fields)

    def init():
        variables = dict(model.init(jax.random.key(0), jnp.zeros((1, *work.image_shape))))
        variables.pop("intermediates", None)
        return variables.pop("params"), variables

    def forward(params, statistics, images):
        return model.apply({"params": params, **statistics}, images, train=False)

    def logits_of(params, statistics, images, key):
        return model.apply(
            {"params": params, **statistics},
            images,
            train=True,
            rngs={"dropout": key},
            mutable=list(statistics),
        )

    return _contender(name, work, init, forward, logits_of)


def official(work: Work, folder: Path) -> Contender:
    """Returns the official NesT as a contender, compiled.

    Raises:
        ConfigError: there is no checkout, or no such model in it.
    """
    dtype = jnp.dtype(work.dtype)
    model = official_nest.load_official(folder, work.model, work.num_classes, dtype)
    forward = official_nest.forward(model)
    return _contender(
        "official",
        work,
        lambda: (official_nest.init_params(model, work.image_shape), {}),
        lambda params, _, images: forward(params, images),
        official_nest.logits_of(model),
    )


def _contender(
    name: str, work: Work, init: Callable, forward: Callable, logits_of: Logits
) -> Contender:
    images = jax.random.normal(jax.random.key(1), (work.batch_size, *work.image_shape))
    params, statistics = jax.jit(init)()
    started = time.perf_counter()
    if work.kind == "forward":
        compiled = jax.jit(forward).lower(params, statistics, images).compile()

        def run(steps: int) -> None:
            for _ in range(steps):
                out = compiled(params, statistics, images)
            jax.block_until_ready(out)

    else:
        labels = jnp.arange(work.batch_size, dtype=jnp.int32) % work.num_classes
        optimizer = optax.adamw(LEARNING_RATE)
        state = params, statistics, optimizer.init(params)
        step = jax.jit(train_step(logits_of, optimizer), donate_argnums=0)
        compiled = step.lower(state, images, labels, jnp.int32(0)).compile()

        def run(steps: int) -> None:
            nonlocal state
            for seed in range(steps):
                state, loss = compiled(state, images, labels, jnp.int32(seed))
            jax.block_until_ready(loss)

    seconds = time.perf_counter() - started
    run(1)
    stats = jax.devices()[0].memory_stats() or {}
    return Contender(
        name=name,
        run=run,
        compile_seconds=seconds,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        memory=planned_memory(compiled),
        facts={"peak_bytes_of_process": stats.get("peak_bytes_in_use")},
    )


def planned_memory(compiled: jax.stages.Compiled) -> dict[str, Any]:
    """Returns the bytes that XLA reserves for a program: arguments, results and temporaries."""
    plan = compiled.memory_analysis()
    new = plan.output_size_in_bytes - plan.alias_size_in_bytes
    size = plan.argument_size_in_bytes + plan.temp_size_in_bytes + new
    return {"bytes": size, "source": "XLA's plan for the step"}
