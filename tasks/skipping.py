"""Updates with a non-finite loss or gradient, left out inside the compiled step.

optax.apply_if_finite is no substitute: it lets the non-finite update through once it has met too
many in a row, batch statistics and averages move all the same, the schedule stands still, and its
counters change the form of the state, so that a run that has met a NaN could not resume with it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

SKIPPED = "skipped_updates"


def skip_update(state: Any) -> Any:
    """Returns a state with a `step` as if its next update had been left out.

    The step, which the randomness follows, and the learning rates' schedules go on; parameters,
    their averages, batch statistics and the optimizer's moments stay.
    """

    def is_schedule(node):
        return isinstance(node, optax.ScaleByScheduleState)

    def gone_on(node):
        return node._replace(count=node.count + 1) if is_schedule(node) else node

    return jax.tree.map(gone_on, state, is_leaf=is_schedule).replace(step=state.step + 1)


def skipping(train_step: Callable, skip: Callable) -> Callable:
    """Returns a train step that leaves out each update whose scalars are not all finite.

    A gradient that is not finite shows in its norm, which is one of the scalars. They are known
    before the update, so that the choice costs no memory.

    Args:
        train_step, skip: of a Task.

    Returns:
        Its scalars have one more: skipped_updates, 0 or 1.
    """

    def step(state, batch, key, hyperparameters):
        updated, scalars = train_step(state, batch, key, hyperparameters)
        inexact = [x for x in scalars.values() if jnp.issubdtype(x.dtype, jnp.inexact)]
        is_finite = jnp.stack([jnp.isfinite(x) for x in inexact]).all()
        state = jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), updated, skip(state))
        return state, scalars | {SKIPPED: 1 - is_finite.astype(jnp.int32)}

    return step
