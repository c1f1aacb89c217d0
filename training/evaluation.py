"""Evaluation of a state on a whole split: each example exactly once."""

from collections.abc import Callable, Iterable
from typing import Any

import jax

from tasks.protocol import Evaluation, Task


def evaluate(
    eval_step: Callable,
    task: Task,
    state: Any,
    batches: Iterable,
    *,
    key: jax.Array,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Runs `eval_step` over `batches`, merges its sums on the device and collects its rows.

    Args:
        eval_step: jitted Task.eval_step.
        task: the task.
        state: its state.
        batches: padded and masked device batches of the split.
        key: of the run.
        stop: asked before each batch; True abandons the evaluation.

    Returns:
        Task.summarize of the whole split, or None if abandoned.
    """
    total, rows = {}, []
    for batch in task.eval_batches(batches):
        if stop():
            return None
        sums, row = eval_step(state, batch, key)
        total = {name: total[name].merge(one) for name, one in sums.items()} if total else sums
        # Rows leave the device while it works on the next batch.
        rows[-1:] = [jax.device_get(last) for last in rows[-1:]]
        rows.append(row)
    return task.summarize(*jax.device_get((total, rows)))
