"""What a kind of training has to offer to the loop.

A new kind of training (a GAN, distillation, ...) is a new Task, never a new loop: train.py calls
these functions and never looks inside the state.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, Protocol

import flax.linen as nn
import jax
import numpy as np

State = Any  # any pytree of arrays
Batch = dict[str, jax.Array]
Scalars = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        metrics: name -> number.
        pictures: name -> uint8 [h, w, c] to look at.
        protocol: what the numbers were taken with, where they depend on more than model and data;
            stands beside them wherever they are written.
    """

    metrics: dict[str, float]
    pictures: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    protocol: dict[str, Any] = dataclasses.field(default_factory=dict)


class Task(Protocol):
    """Pure functions of a kind of training. init and the steps are traced by jax.jit.

    Attributes:
        model: whose weights files `with_variables` takes; None: there are no such files.
    """

    model: nn.Module | None

    def init(self, key: jax.Array) -> State:
        """Returns the state of step 0."""

    def train_step(self, state: State, batch: Batch, key: jax.Array) -> tuple[State, Scalars]:
        """Returns the next state and the scalars to log.

        Args:
            state: the state, donated.
            batch: arrays with the global batch as leading axis.
            key: the run's key, the same at each step; the task folds its step counter in, so that
                the randomness of a step needs no storage and resuming is exact.
        """

    def check(self, scalars: dict[str, float], step: int) -> None:
        """Raises NonFiniteError if the run can't go on.

        Args:
            scalars: of train_step, averaged over the steps since the last log line; integers, which
                are counts, of the last step.
            step: number of updates made.
        """

    def is_good(self, state: State) -> jax.Array:
        """Returns whether a run may resume from the state, a bool; traced by jax.jit.

        False keeps the state out of the checkpoints, and the run goes on. States that are not
        finite are kept out in any case.
        """

    def eval_batches(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """Returns what eval_step goes through: the batches of the split, and more if it needs."""

    def eval_step(self, state: State, batch: Batch, key: jax.Array) -> tuple[Any, Any]:
        """Evaluates a batch.

        Args:
            state: the state.
            batch: one of eval_batches.
            key: the run's key: the same in every evaluation.

        Returns:
            sums: a pytree of sums over the batch's unmasked examples, which the caller adds up.
            rows: a pytree of what has to be kept of each example, collected on the host.
        """

    def summarize(self, sums: Any, rows: list[Any]) -> Evaluation:
        """Returns the metrics for the sums and the rows (one entry a batch) of a whole split."""

    def metric_names(self) -> tuple[str, ...]:
        """Returns the names in the metrics of `summarize`."""

    def parameters(self, state: State) -> Any:
        """Returns the part of the state that a person calls the parameters."""

    def trainable(self, state: State) -> Any:
        """Returns a tree like `parameters` of bools: False for what stays as it is."""

    def with_variables(self, state: State, variables: Any) -> State:
        """Returns the state with other variables of the model: to evaluate or to start from them.

        A task without a model does not need it.

        Args:
            state: of step 0.
            variables: {"params": tree} and the model's other collections, such as "batch_stats".
        """
