"""The train step of a recipe with its own loader as a contender: what a run reaches."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
from ml_collections import ConfigDict

from benchmarks.input_pipeline import JPEG_SHAPE, NUM_JPEGS, SMALL, make_arrays, make_jpegs
from benchmarks.jax_steps import planned_memory
from benchmarks.model_speed import Contender
from harness.arguments import as_height_width
from training import experiment
from training.experiment import Experiment
from zoo.start import FROM_SCRATCH


@contextlib.contextmanager
def open_recipe(config: ConfigDict, *, made: bool) -> Iterator[tuple[Experiment, Contender]]:
    """Yields a recipe's run and its train step, compiled, with the loader's batches.

    Args:
        config: the recipe; its initial weights do not count.
        made: whether to use images made here, of two classes, rather than the recipe's data set.

    Raises:
        ConfigError: the recipe or its data are wrong.
    """
    config = config.copy_and_resolve_references()
    config.init_from = FROM_SCRATCH
    with contextlib.ExitStack() as stack:
        if made:
            synthetic = {"name": "synthetic", "train_split": "train", "eval_split": "train"}
            config.data.update(synthetic, classes=None, examples_per_class=None)
            plain = experiment.check_config(config)  # before it takes seconds
            size = max(as_height_width("config.data.image_size", plain["data"]["image_size"]))
            folder = Path(stack.enter_context(TemporaryDirectory()))
            if size > SMALL:
                make_jpegs(folder / "train", NUM_JPEGS, JPEG_SHAPE)
                config.data.name = f"folder:{folder}"
            else:
                config.data.name = f"npz:{make_arrays(folder, 10_000, size)}"
        run = experiment.build(config)
        batches = stack.enter_context(contextlib.closing(run.data.train_batches()))
        state, constant = run.init(), (run.key, run.hyperparameters)
        batch = next(batches)
        started = time.perf_counter()
        compiled = run.train_step.lower(state, batch, *constant).compile()
        seconds = time.perf_counter() - started

        def steps(count: int) -> None:
            nonlocal state
            for _ in range(count):
                state, metrics = compiled(state, next(batches), *constant)
            jax.block_until_ready(metrics)

        yield (
            run,
            Contender(
                name="ours, with its loader",
                run=steps,
                compile_seconds=seconds,
                parameters=_count(run.task.parameters(run.shapes)),
                memory=planned_memory(compiled),
                waited=lambda: batches.seconds_waited,
                facts={"data": "made" if made else run.data.name},
            ),
        )


def _count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
