"""Evaluation of a state on a whole split: each example exactly once."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp


def evaluate(
    eval_step: Callable,
    summarize: Callable,
    state: Any,
    batches: Iterable,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Runs `eval_step` over `batches` and adds its sums up on the device.

    Args:
        eval_step: jitted Task.eval_step.
        summarize: Task.summarize.
        state: the task's state.
        batches: padded and masked device batches.
        stop: asked before each batch; True abandons the evaluation.

    Returns:
        The metrics, or None when it was abandoned.
    """
    total = None
    for batch in batches:
        if stop():
            return None
        sums = eval_step(state, batch)
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
    return summarize(jax.device_get(total))
