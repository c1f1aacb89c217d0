"""What a kind of training offers to the loop.

A new kind of training (a GAN, distillation, ...) is a new Task, never a new loop: train.py calls
these methods and never looks inside the state.
"""

import abc
import dataclasses
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from clu.metrics import Collection, Metric

from tasks.metrics import check_finite
from tasks.schedules import Schedule

State = Any  # any pytree of arrays
Batch = dict[str, jax.Array]
Scalars = dict[str, jax.Array]
Sums = dict[str, Collection | Metric]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        metrics: name -> number.
        pictures: name -> uint8 [h, w, c] to look at.
        protocol: what the numbers depend on besides model and data; written wherever they are.
    """

    metrics: dict[str, float]
    pictures: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    protocol: dict[str, Any] = dataclasses.field(default_factory=dict)


class Task(abc.ABC):
    """A kind of training. jax.jit traces init, the steps and is_good: they are pure functions.

    Attributes:
        model: whose weights files `with_variables` takes; None: there are no such files.
        hyperparameters: pytree of NumPy scalars that train_step gets, as values rather than
            constants of the compiled program: others of the same form need no new one.
        schedules: section of the config -> the learning rate that it asks for.
        notes: what a person should know when the run starts.
    """

    model: nn.Module | None = None
    hyperparameters: Any = ()
    schedules: Mapping[str, Schedule] = MappingProxyType({})
    notes: tuple[str, ...] = ()

    @abc.abstractmethod
    def init(self, key: jax.Array) -> State:
        """Returns the state of step 0."""

    @abc.abstractmethod
    def train_step(
        self, state: State, batch: Batch, key: jax.Array, hyperparameters: Any
    ) -> tuple[State, Scalars]:
        """Returns the next state and the scalars to log.

        A loss and the gradient's norm belong to the scalars: if they are not finite, the run stops
        or leaves the update out.

        Args:
            state: the state, donated.
            batch: arrays with the global batch as leading axis.
            key: the run's key, the same at each step; the task folds its step counter in, so that
                the randomness of a step needs no storage and resuming is exact.
            hyperparameters: the task's, on the devices.
        """

    @abc.abstractmethod
    def eval_step(self, state: State, batch: Batch, key: jax.Array) -> tuple[Sums, Any]:
        """Evaluates a batch.

        Args:
            state: the state.
            batch: one of eval_batches.
            key: the run's key: the same in every evaluation.

        Returns:
            sums: name -> clu.metrics over the unmasked examples of the batch, which the
                caller merges over batches; {}: none.
            rows: a pytree of arrays that must be kept per example; the caller collects them on the
                host.
        """

    @abc.abstractmethod
    def summarize(self, sums: Sums, rows: list[Any]) -> Evaluation:
        """Returns the metrics for the sums and the rows (one entry per batch) of a whole split."""

    @abc.abstractmethod
    def metric_names(self) -> tuple[str, ...]:
        """Returns the names of the metrics that a run can select its best checkpoint by."""

    @abc.abstractmethod
    def parameters(self, state: State) -> Any:
        """Returns the part of the state that a person calls the parameters."""

    def check(self, scalars: dict[str, float], step: int) -> None:
        """Raises NonFiniteError if the run can't go on.

        Args:
            scalars: of train_step, averaged over the steps since the last log line; integers, which
                are counts, of the last step.
            step: number of updates made.
        """
        check_finite(scalars, step)

    def skip(self, state: State) -> State:
        """Returns the state as if the next update had been left out: only its step goes on.

        Raises:
            NotImplementedError: the task can leave out none (config.faults.max_skipped_updates).
        """
        raise NotImplementedError(f"{type(self).__name__} cannot leave out updates")

    def is_good(self, state: State) -> jax.Array | bool:
        """Returns whether a run may resume from the state.

        False keeps the state out of the checkpoints, and the run goes on. States that are not
        finite are kept out in any case.
        """
        return True

    def eval_batches(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """Returns what eval_step goes through: the batches of the split, and more if it needs."""
        return batches

    def trainable(self, state: State) -> Any:
        """Returns a tree like `parameters` of bools: False for what stays as it is."""
        return jax.tree.map(lambda _: True, self.parameters(state))

    def with_variables(self, state: State, variables: Any) -> State:
        """Returns the state with other variables of the model: to evaluate or to start from them.

        Args:
            state: of step 0.
            variables: {"params": tree} and the model's other collections, such as "batch_stats".

        Raises:
            NotImplementedError: the task has no `model`.
        """
        raise NotImplementedError(f"{type(self).__name__} takes no weights files")
