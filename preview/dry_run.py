"""What a run would be and take, without running it: `train.py --dry_run`. Writes nothing."""

import os
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from data.class_names import short_name
from data.pipeline import Data
from harness.errors import printable
from kernels.target import compiling_for
from parallel.sharding import num_batch_parts
from training import experiment
from zoo.cost_tables import total
from zoo.costs import count_products, model_costs
from zoo.released.locate import find_cached, is_released
from zoo.released.table import RELEASED

GIB = 2**30
_LABELS = 5  # of the first batch, shown


def dry_run(recipe: str, config: ConfigDict, *, compiled: bool) -> None:
    """Prints what a run of a config would be; process 0 does.

    Args:
        recipe: name of the config.
        config: the config.
        compiled: whether to compile the training step, for what XLA says of its memory.

    Raises:
        ConfigError: what training would say before its first step.
    """
    plain = experiment.check_config(config)
    lines = _lines(recipe, plain, experiment.build(config, plain=plain), compiled)
    for name, text in lines:  # some take a while: each as soon as it is known
        if jax.process_index() == 0:
            print(printable(f"{name:<13}  {text}"), flush=True)


def _lines(recipe, plain, run: experiment.Experiment, compiled: bool) -> Iterator[tuple[str, str]]:
    steps, data = run.steps, run.data
    axes = " x ".join(f"{name} {size}" for name, size in run.mesh.shape.items())
    yield "recipe", recipe
    yield "devices", f"{run.mesh.size} x {run.mesh.devices.flat[0].device_kind}, mesh {axes}"
    yield (
        "steps",
        f"{steps.total:,} of {steps.batch_size:,} images, {steps.per_epoch:,.1f} an epoch; "
        f"logs every {steps.log:,}, evaluates every {steps.evaluate:,}, saves every {steps.save:,}",
    )
    images = f"{data.num_train_examples:,} images of {data.name} {data.train_split}"
    yield "data", f"{images}, {data.num_classes} classes, {_by(data.image_shape)}"
    name = plain["init_from"] or ""
    if is_absent := is_released(name) and find_cached(name) is None:
        size = " and ".join(file.size for file in RELEASED[name].files if file.size)
        size = f" ({size})" if size else ""
        yield "note", f"weights {name} are not here yet: a run downloads them first{size}"
    for note in run.notes(None if is_absent else run.read_weights()):
        yield "note", note.removesuffix("; see parameters.txt")

    parts = num_batch_parts(run.mesh)
    model, kept = run.task.model, 0
    if model is not None:
        micro = parts * getattr(run.task, "accumulation_steps", 1)
        name, count = plain["model"]["name"], steps.batch_size // micro
        cost = total(model_costs(model, data.image_shape, max(count, 1)))
        kept = cost.kept_bytes
        yield "model", f"{name}: {cost.parameters:,} parameters"
        yield "multiply-adds", f"{_count(cost.multiply_adds)} an image, forward"
    yield "memory", _memory(run, kept, parts)

    started = time.perf_counter()
    batches = data.train_batches()
    batch = jax.block_until_ready(next(batches))
    batches.close()
    inputs = run.shapes, batch, run.key, run.hyperparameters
    yield "first batch", f"in {time.perf_counter() - started:.1f} s: {_shapes(batch)}"
    yield "labels", _labels(batch, data)
    if model is None:
        with compiling_for("any"):
            traced = jax.make_jaxpr(run.task.train_step)(*inputs)
        products = sum(cost.multiply_adds for cost in count_products(traced.jaxpr).values())
        count = _count(products / steps.batch_size)
        yield "multiply-adds", f"{count} an image, of a whole step"
    if not compiled:
        yield "compiled", "no; --dry_run=compile does, and says what memory XLA reserves"
        return
    started = time.perf_counter()
    analysis = run.train_step.lower(*inputs).compile().memory_analysis()
    seconds = time.perf_counter() - started
    new = analysis.output_size_in_bytes - analysis.alias_size_in_bytes  # not in donated memory
    arguments, temporaries = analysis.argument_size_in_bytes, analysis.temp_size_in_bytes
    yield (
        "compiled",
        f"in {seconds:.1f} s; {_size(arguments + temporaries + new)} a device{_available()}: "
        f"state and batch {_size(arguments)}, temporaries {_size(temporaries)}, "
        f"results {_size(new)}",
    )


def _memory(run: experiment.Experiment, kept: int, parts: int) -> str:
    """Returns an estimate for one device."""

    def size(leaf: Any) -> int:
        shape = leaf.sharding.shard_shape(leaf.shape)
        return int(np.prod(shape)) * leaf.dtype.itemsize if hasattr(leaf.dtype, "itemsize") else 0

    state = sum(map(size, jax.tree.leaves(run.shapes)))
    gradients = sum(map(size, jax.tree.leaves(run.task.parameters(run.shapes))))
    images = run.steps.batch_size // parts * int(np.prod(run.data.image_shape))
    known = f"state {_size(state)}, gradients {_size(gradients)}, images {_size(images)}"
    if not kept:
        return f"{known} a device; what the backward pass needs is not estimated"
    known += f", kept for the backward pass {_size(kept)} before XLA fuses"
    return f"about {_size(state + gradients + images + kept)} a device{_available()}: {known}"


def _available() -> str:
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is None and device.platform == "cpu":
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return f" (of {_size(limit)} for all)"
    return f" of {_size(limit)}" if limit else ""


def _size(size: float) -> str:
    for unit, name in ((GIB, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{size} bytes"


def _count(number: float) -> str:
    return f"{number / 1e9:,.2f} G" if number >= 1e9 else f"{number / 1e6:,.2f} M"


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _shapes(batch: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value.dtype} {list(value.shape)}" for key, value in batch.items())


def _labels(batch: dict[str, jax.Array], data: Data) -> str:
    """Returns the labels of the first rows, with their names."""
    first = {key: np.asarray(x.addressable_shards[0].data)[:_LABELS] for key, x in batch.items()}
    names = data.dataset.class_names

    def named(label) -> str:
        return short_name(names[label]) if names else str(label)

    rows = ({key: x[i] for key, x in first.items()} for i in range(len(first["image"])))
    classes = (data.form.classes(row) for row in rows)
    return ", ".join(" + ".join(map(named, each)) or "none" for each in classes) + ", ..."
