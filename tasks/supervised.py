"""What every supervised kind of training shares: one model, one optimizer, a loss of a batch."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from harness.arguments import check_range, problem
from harness.errors import ConfigError
from harness.steps import Steps
from harness.strict_config import check_model_section, check_section, field_errors
from harness.trees import merged, select
from parallel.sharding import num_batch_parts
from tasks.ema import ParameterEma
from tasks.optimizers import PROVIDED, Optimizer, create_optimizer
from tasks.parameter_masks import trainable_mask
from tasks.protocol import Batch, Scalars, Task
from tasks.schedules import Schedule
from tasks.skipping import skip_update
from zoo.registry import create_model


@flax.struct.dataclass
class TrainState:
    """State of a supervised run.

    Attributes:
        step: number of updates made, int32.
        params: parameters, float32.
        model_state: other variables of the model (batch statistics), {} if it has none.
        opt_state: the optimizer's.
        ema: exponential moving average of params, None when off.
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    ema: Any


def normalize(images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """Maps uint8 images [b, h, w, c] to float32: (image / 255 - mean) / std."""
    images = images.astype(jnp.float32) / 255.0
    return (images - jnp.asarray(mean)) / jnp.asarray(std)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Supervised(Task):
    """Updates along the gradient of a loss, whose kind a subclass says.

    Attributes:
        model: of which `initial_variables` and `batch_loss` are.
        optimizer: from create_optimizer.
        freeze: see create_optimizer; frozen parameters keep their bits, in the average as well.
        ema_decay, ema_warmup: see ParameterEma. Batch statistics are not averaged: the average is
            evaluated with the newest.
        accumulation_steps: the batch is processed in this many parts, one after the other, and
            their gradients are averaged: a large batch in little memory.
    """

    model: nn.Module = dataclasses.field()  # required, though Task's default is None
    optimizer: Optimizer
    freeze: tuple[str, ...] = ()
    ema_decay: float | None = None
    ema_warmup: bool = False
    accumulation_steps: int = 1

    def __post_init__(self):
        check_range("config.task.accumulation_steps", self.accumulation_steps, 1)
        if self.ema_warmup and not self.ema.decay:
            raise ValueError(problem("config.task.ema_warmup", True, "needs config.task.ema_decay"))

    @abc.abstractmethod
    def initial_variables(self, key: jax.Array) -> dict[str, Any]:
        """Returns the variables of the untrained model: "params" and other collections."""

    @abc.abstractmethod
    def batch_loss(
        self, params: Any, model_state: Any, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Any, Scalars]]:
        """Returns the mean loss of a part of a batch, the next model_state, scalars to log.

        Args:
            params, model_state: as in TrainState.
            batch: from `augmented`, or the rows of one of accumulation_steps parts.
            key: of the step's dropout.
        """

    def augmented(
        self, batch: Batch, step: jax.Array | int, key: jax.Array
    ) -> tuple[Batch, jax.Array]:
        """Returns the batch as training step `step` sees it, and the key of the step's dropout.

        Args:
            batch: from the loader: all of it, before it is split into accumulation_steps parts.
            step: number of updates made before this one.
            key: of the run.
        """
        return batch, jax.random.fold_in(key, step)

    @property
    def ema(self) -> ParameterEma:
        return ParameterEma(self.ema_decay, self.ema_warmup)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.hyperparameters, "ema": self.ema.hyperparameters}

    @property
    def schedules(self) -> dict[str, Schedule]:
        return {"config.optimizer": self.optimizer.schedule}

    @property
    def notes(self) -> tuple[str, ...]:
        return self.optimizer.notes

    def init(self, key: jax.Array) -> TrainState:
        model_state = dict(self.initial_variables(key))
        params = model_state.pop("params")
        model_state.pop("intermediates", None)  # sown features are outputs, not state
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            model_state=model_state,
            opt_state=self.optimizer.init(params),
            ema=self.ema.init(params),
        )

    def train_step(self, state: TrainState, batch, key: jax.Array, hyperparameters):
        batch, key = self.augmented(batch, state.step, key)
        grads, model_state, metrics = self._accumulated_gradients(state, batch, key)
        of_optimizer = hyperparameters["optimizer"]
        updates, opt_state = self.optimizer.update(
            grads, state.opt_state, state.params, of_optimizer
        )
        trained = self.trainable(state)
        params = select(trained, optax.apply_updates(state.params, updates), state.params)
        metrics |= {
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": self.optimizer.learning_rate(state.step, of_optimizer),
        }
        state = TrainState(
            step=state.step + 1,
            params=params,
            model_state=model_state,
            opt_state=opt_state,
            ema=self.ema.update(state.ema, params, state.step, trained, hyperparameters["ema"]),
        )
        return state, metrics

    def skip(self, state: TrainState) -> TrainState:
        return skip_update(state)

    def evaluated(self, state: TrainState) -> dict[str, Any]:
        """Returns what is evaluated: "raw", and "ema" where it is on -> variables of the model."""
        weights = {"raw": state.params} | ({"ema": state.ema} if self.ema.decay else {})
        return {name: {"params": params, **state.model_state} for name, params in weights.items()}

    def parameters(self, state: TrainState):
        return state.params

    def trainable(self, state: TrainState):
        return trainable_mask(state.params, self.freeze)

    def with_variables(self, state: TrainState, variables) -> TrainState:
        own = {"params": state.params, **state.model_state}
        model_state = merged(own, variables)  # weights of a classifier lack those of the heads
        params = model_state.pop("params")
        return state.replace(params=params, model_state=model_state, ema=self.ema.init(params))

    def _loss_of_trained(self, params, *others):
        # Without the gradients of frozen parameters: they cost time and would enter the norm.
        params = select(trainable_mask(params, self.freeze), params, jax.lax.stop_gradient(params))
        return self.batch_loss(params, *others)

    def _accumulated_gradients(self, state: TrainState, batch, key: jax.Array):
        """Returns the mean gradient and metrics over the parts of the batch."""
        gradients = jax.grad(self._loss_of_trained, has_aux=True)
        parts = self.accumulation_steps
        if parts == 1:
            grads, (model_state, metrics) = gradients(state.params, state.model_state, batch, key)
            return grads, model_state, metrics

        def split(x):  # each part has rows of every device: no data moves between devices
            x = x.reshape(x.shape[0] // parts, parts, *x.shape[1:])  # [b / parts, parts, ...]
            return jnp.swapaxes(x, 0, 1)  # [parts, b / parts, ...]

        def add_part(carry, part):
            total, model_state = carry
            index, batch_part = part
            part_key = jax.random.fold_in(key, index)
            grads, (model_state, metrics) = gradients(
                state.params, model_state, batch_part, part_key
            )
            return (jax.tree.map(jnp.add, total, grads), model_state), metrics

        start = (jax.tree.map(jnp.zeros_like, state.params), state.model_state)
        (total, model_state), metrics = jax.lax.scan(
            add_part, start, (jnp.arange(parts), jax.tree.map(split, batch))
        )
        mean_grads = jax.tree.map(lambda x: x / parts, total)
        return mean_grads, model_state, jax.tree.map(jnp.mean, metrics)


def check_on_maps(
    config: dict[str, Any],
    section: str,
    create: Callable[..., nn.Module],
    task: Callable[..., Supervised],
    from_parts: tuple[str, ...],
) -> dict[str, Any]:
    """Checks the sections of a task on a classifier's maps; returns them with their defaults.

    Args:
        config: of the run.
        section: the one whose keys are the arguments of `create`.
        create: makes the model, given the classifier and the number of classes.
        task: whose arguments are the keys of the section `task`, without `from_parts`.
        from_parts: arguments that the code gives.
    """
    model = check_model_section(config["model"], "config.model", create_model, num_classes=1)
    above = check_section(config[section], create, f"config.{section}")
    with field_errors(f"config.{section}"):
        create(create_model(**model, num_classes=1), 1, **above)
    return {
        "model": model,
        section: above,
        "optimizer": check_section(
            config["optimizer"], create_optimizer, "config.optimizer", provided=PROVIDED
        ),
        "task": check_section(config["task"], task, "config.task", provided=from_parts),
    }


def build_optimizer(
    config: dict[str, Any],
    model: nn.Module,
    steps: Steps,
    mesh: Mesh,
    freeze: tuple[str, ...],
) -> Optimizer:
    """Builds the optimizer of the section `optimizer`, for batches that split as `task` says.

    Args:
        config: with checked sections `optimizer` and `task`.
        model: whose parameters are trained.
        steps: of the run.
        mesh: of the run.
        freeze: instead of the section's.
    """
    parts, devices = config["task"]["accumulation_steps"], num_batch_parts(mesh)
    if parts > 0 and steps.batch_size % (parts * devices):
        what = (
            f"does not split into config.task.accumulation_steps={parts} parts "
            f"on {devices} device(s)"
        )
        allowed = f"multiples of {parts * devices}"
        raise ConfigError(problem("config.data.batch_size", steps.batch_size, what, allowed))
    return create_optimizer(
        **config["optimizer"] | {"freeze": freeze},
        model=model,
        batch_size=steps.batch_size,
        steps_per_epoch=steps.per_epoch,
        total_steps=steps.total,
    )
