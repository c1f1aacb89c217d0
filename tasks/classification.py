"""Supervised image classification: one Task, for every classifier of the repository."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from harness.trees import select
from tasks.metrics import check_finite, classification_summary, classification_sums, label_rank
from tasks.moving_average import average_rate
from tasks.protocol import Evaluation


@flax.struct.dataclass
class TrainState:
    """State of a classification run.

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
    """Maps uint8 images [b, h, w, c] to float32: in 0..1, less `mean`, divided by `std`."""
    images = images.astype(jnp.float32) / 255.0
    return (images - jnp.asarray(mean)) / jnp.asarray(std)


class Classification:
    """Cross entropy with label smoothing; the config's section `task` are keyword arguments.

    Args:
        model: `model.apply(variables, images, train=...)` gives logits [b, num_classes].
        optimizer, schedule: from create_optimizer.
        image_shape: (h, w, c) of an image.
        num_classes: of the targets.
        mean, std: per channel, in units of 0..1.
        device_augment: `augment(key, images, targets) -> (images, targets)` in training steps, of
            normalised images and smoothed targets; None: off. It gets the global batch, before
            accumulation splits it, so that who is mixed with whom does not depend on the parts;
            the batch as float32 is small beside the activations of one part. The training accuracy
            then counts the class with the largest share of the mixed target: an image's own class
            is often the smaller share, and would make a model that is right look wrong.
        trainable: `trainable(params)` gives a tree of bools, False for parameters that stay as they
            are, bit for bit, and their average with them; None: all are trained.
        label_smoothing: weight of the uniform distribution in the target.
        ema_decay: decay of the moving average of the parameters per step; 0 or None: no average.
            Batch statistics are not averaged: both are evaluated with the newest.
        ema_warmup: start with a shorter memory, decay min(ema_decay, (1 + step) / (10 + step)), so
            that the average does not hold on to the initial values for 1 / (1 - ema_decay) steps.
        accumulation_steps: the batch is worked through in this many parts, one after the other,
            whose gradients are averaged: a large batch in little memory.
        linear_probe: train the head alone, on the features of a network that runs as in evaluation:
            no dropout, no drop path, batch norm with its stored statistics, which stay.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: optax.GradientTransformation,
        schedule: optax.Schedule,
        image_shape: tuple[int, int, int],
        num_classes: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device_augment: Callable | None = None,
        trainable: Callable | None = None,
        label_smoothing: float = 0.0,
        ema_decay: float | None = None,
        ema_warmup: bool = False,
        accumulation_steps: int = 1,
        linear_probe: bool = False,
    ):
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"config.task.label_smoothing={label_smoothing} is not in [0, 1)")
        if ema_decay and not 0 < ema_decay < 1:
            raise ValueError(f"config.task.ema_decay={ema_decay} is not in [0, 1); 0: off")
        if ema_warmup and not ema_decay:
            raise ValueError("config.task.ema_warmup=True needs config.task.ema_decay")
        if accumulation_steps < 1:
            raise ValueError(f"config.task.accumulation_steps={accumulation_steps} is below 1")
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.image_shape = image_shape
        self.num_classes = num_classes
        self.mean, self.std = mean, std
        self.device_augment = device_augment
        self.label_smoothing = label_smoothing
        self.ema_decay = ema_decay
        self.ema_warmup = ema_warmup
        self.accumulation_steps = accumulation_steps
        self.linear_probe = linear_probe
        self._trainable = trainable or (lambda params: jax.tree.map(lambda _: True, params))

    def init(self, key: jax.Array) -> TrainState:
        images = jnp.zeros((1, *self.image_shape), jnp.float32)
        model_state = dict(self.model.init(key, images, train=False))
        params = model_state.pop("params")
        model_state.pop("intermediates", None)  # sown features are outputs, not state
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            model_state=model_state,
            opt_state=self.optimizer.init(params),
            ema=jax.tree.map(jnp.copy, params) if self.ema_decay else None,
        )

    def train_step(self, state: TrainState, batch, key: jax.Array):
        batch, key = self.augmented(batch, state.step, key)
        grads, model_state, metrics = self._accumulated_gradients(state, batch, key)
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        params = self._where_trained(optax.apply_updates(state.params, updates), state.params)
        ema = None
        if self.ema_decay:
            rate = average_rate(state.step, self.ema_decay, warmup=self.ema_warmup)
            ema = optax.incremental_update(params, state.ema, rate)
            ema = self._where_trained(ema, state.ema)
        metrics |= {
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": self.schedule(state.step),
        }
        state = TrainState(
            step=state.step + 1,
            params=params,
            model_state=model_state,
            opt_state=opt_state,
            ema=ema,
        )
        return state, metrics

    def check(self, scalars: dict[str, float], step: int) -> None:
        check_finite(scalars, step)

    def is_good(self, state: TrainState):
        return jnp.bool_(True)

    def eval_batches(self, batches):
        return batches

    def eval_step(self, state: TrainState, batch, key: jax.Array):
        def sums(params):
            variables = {"params": params, **state.model_state}
            logits = self.model.apply(variables, self._normalize(batch["image"]), train=False)
            return classification_sums(logits, batch["label"], batch["mask"])

        weights = {"raw": state.params} | ({"ema": state.ema} if self.ema_decay else {})
        return {name: sums(params) for name, params in weights.items()}, ()

    def summarize(self, sums, rows) -> Evaluation:
        summary = classification_summary(sums["raw"])
        if "ema" in sums:
            averaged = classification_summary(sums["ema"])
            del averaged["num_examples"]
            summary |= {f"ema_{name}": value for name, value in averaged.items()}
        return Evaluation(summary)

    def metric_names(self) -> tuple[str, ...]:
        names = ("loss", "top1_accuracy", "top5_accuracy")
        return names + tuple(f"ema_{name}" for name in names if self.ema_decay)

    def parameters(self, state: TrainState):
        return state.params

    def trainable(self, state: TrainState):
        return self._trainable(state.params)

    def with_variables(self, state: TrainState, variables) -> TrainState:
        model_state = {name: variables[name] for name in state.model_state}
        params = variables["params"]
        ema = jax.tree.map(jnp.copy, params) if self.ema_decay else None
        return state.replace(params=params, model_state=model_state, ema=ema)

    def _where_trained(self, new, old):
        """Returns `new` where parameters are trained and `old`, not rounded anew, elsewhere."""
        return select(self._trainable(old), new, old)

    def _normalize(self, images: jax.Array) -> jax.Array:
        return normalize(images, self.mean, self.std)

    def _inputs(self, batch) -> tuple[jax.Array, jax.Array]:
        """Normalised images and smoothed targets; an augmented batch brings its own."""
        if "target" in batch:
            return batch["image"], batch["target"]
        targets = jax.nn.one_hot(batch["label"], self.num_classes)
        return self._normalize(batch["image"]), optax.smooth_labels(targets, self.label_smoothing)

    def augmented(self, batch, step: jax.Array | int, key: jax.Array):
        """Returns the batch as training step `step` sees it, and the key of the step's dropout.

        Args:
            batch: from the loader.
            step: number of updates made before.
            key: of the run.

        Returns:
            The batch; with device_augment its images are normalised, erased and mixed, float32, and
            it has "target" [b, classes].
        """
        key = jax.random.fold_in(key, step)
        if self.device_augment is None:
            return batch, key
        key, augment_key = jax.random.split(key)
        images, targets = self.device_augment(augment_key, *self._inputs(batch))
        labels = jnp.argmax(targets, axis=-1).astype(batch["label"].dtype)
        return {**batch, "image": images, "target": targets, "label": labels}, key

    def _loss(self, params, model_state, batch, key):
        # Cutting the others off here spares their gradients, and keeps them out of the norm.
        params = self._where_trained(params, jax.lax.stop_gradient(params))
        images, targets = self._inputs(batch)
        logits, model_state = self.model.apply(
            {"params": params, **model_state},
            images,
            train=not self.linear_probe,
            rngs={"dropout": key},
            mutable=list(model_state),
        )
        loss = optax.softmax_cross_entropy(logits, targets).mean()
        accuracy = (label_rank(logits, batch["label"]) < 1).mean(dtype=jnp.float32)
        return loss, (dict(model_state), {"loss": loss, "top1_accuracy": accuracy})

    def _accumulated_gradients(self, state: TrainState, batch, key: jax.Array):
        """Returns the mean gradient and metrics over the parts of the batch."""
        gradients = jax.grad(self._loss, has_aux=True)
        parts = self.accumulation_steps
        if parts == 1:
            grads, (model_state, metrics) = gradients(state.params, state.model_state, batch, key)
            return grads, model_state, metrics

        def split(x):  # every part takes from every device's share: no data moves between devices
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
