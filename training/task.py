"""What a kind of training has to offer to the loop.

A new kind of training (a GAN, distillation, ...) is a new Task, never a new loop: train.py calls
these functions and never looks inside the state.
"""

from typing import Any, Protocol

import jax

State = Any  # any pytree of arrays
Batch = dict[str, jax.Array]
Scalars = dict[str, jax.Array]


class Task(Protocol):
    """Pure functions of a kind of training. init and the steps are traced by jax.jit."""

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

    def eval_step(self, state: State, batch: Batch) -> Any:
        """Returns a pytree of sums over the batch's unmasked examples; the caller adds them up."""

    def summarize(self, sums: Any) -> dict[str, float]:
        """Returns the metrics for the sums over a whole split."""

    def metric_names(self) -> tuple[str, ...]:
        """Returns the names in `summarize`'s result."""

    def parameters(self, state: State) -> Any:
        """Returns the part of the state that a person calls the parameters."""

    def trainable(self, state: State) -> Any:
        """Returns a tree like `parameters` of bools: False for what stays as it is."""

    def with_variables(self, state: State, variables: Any) -> State:
        """Returns the state with other variables of the model: to evaluate or to start from them.

        Args:
            state: of step 0.
            variables: {"params": tree} and the model's other collections, such as "batch_stats".
        """
