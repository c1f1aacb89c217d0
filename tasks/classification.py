"""Supervised image classification: one Task, for every classifier of the repository."""

import dataclasses
from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from harness.arguments import check_range, problem
from harness.trees import select
from tasks.ema import ParameterEma
from tasks.losses import Loss, loss_of, targets_of
from tasks.metrics import FewClassesMetrics, MultiLabelMetrics, classification_metrics, is_first
from tasks.optimizers import Optimizer, trainable_mask
from tasks.protocol import Evaluation, Task
from tasks.schedules import Schedule
from tasks.skipping import skip_update


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
    """Maps uint8 images [b, h, w, c] to float32: (image / 255 - mean) / std."""
    images = images.astype(jnp.float32) / 255.0
    return (images - jnp.asarray(mean)) / jnp.asarray(std)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Classification(Task):
    """Cross entropy with smoothed labels; the config's section `task` is the keyword arguments.

    Attributes:
        model: `model.apply(variables, images, train=...)` gives logits [b, num_classes].
        optimizer: from create_optimizer.
        image_shape: (h, w, c) of an image.
        num_classes: of the targets.
        multi_label: whether an image has several labels: a batch's is then [b, num_classes] of 0
            and 1, the target of softmax the share 1 / k of each of an image's k classes, and the
            metrics are those of MultiLabelMetrics.
        answers: labels that occur in the evaluation's data, None for all. Its metrics then compare
            the logits of these classes alone, as is the custom for ImageNet-A and -R, which have
            200 of the 1,000 classes; "among_all_" metrics compare those of all.
        mean, std: per channel, in units of 0..1.
        device_augment: `augment(key, images, targets, normalize) -> (images, targets)` in training
            steps, of uint8 images and smoothed targets; None: off. It returns the images
            normalised. It gets the global batch, before accumulation splits it, so that the pairs
            that are mixed do not depend on the parts; as float32, the batch is small compared with
            the activations of one part. The training accuracy then counts the class with the
            largest share of the mixed target: an image's own class often has the smaller share, and
            would make a correct model look wrong.
        freeze: see create_optimizer; frozen parameters keep their bits, in the average as well.
        loss: see losses.loss_of. "sigmoid" asks of each class by itself whether the image has it.
        label_smoothing: weight of the uniform distribution in the target.
        ema_decay, ema_warmup: see ParameterEma. Batch statistics are not averaged: the average is
            evaluated with the newest.
        accumulation_steps: the batch is processed in this many parts, one after the other, and
            their gradients are averaged: a large batch in little memory.
        linear_probe: train the head alone, on the features of a network that runs as in evaluation:
            no dropout, no drop path, batch norm with its stored statistics, which stay.
    """

    model: nn.Module = dataclasses.field()  # required, though Task's default is None
    optimizer: Optimizer
    image_shape: tuple[int, int, int]
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    multi_label: bool = False
    answers: tuple[int, ...] | None = None
    device_augment: Callable | None = None
    freeze: tuple[str, ...] = ()
    loss: Loss = "softmax"
    label_smoothing: float = 0.0
    ema_decay: float | None = None
    ema_warmup: bool = False
    accumulation_steps: int = 1
    linear_probe: bool = False

    def __post_init__(self):
        check_range("config.task.label_smoothing", self.label_smoothing, 0, below=1)
        check_range("config.task.accumulation_steps", self.accumulation_steps, 1)
        if self.ema_warmup and not self.ema.decay:
            raise ValueError(problem("config.task.ema_warmup", True, "needs config.task.ema_decay"))

    def metrics(self, num_compared: int) -> type[FewClassesMetrics | MultiLabelMetrics]:
        """Returns the metrics of an evaluation that compares the logits of so many classes."""
        return MultiLabelMetrics if self.multi_label else classification_metrics(num_compared)

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
        images = jnp.zeros((1, *self.image_shape), jnp.float32)
        model_state = dict(self.model.init(key, images, train=False))
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

    def eval_step(self, state: TrainState, batch, key: jax.Array):
        images, sums = self._normalize(batch["image"]), {}
        weights = {"raw": state.params} | ({"ema": state.ema} if self.ema.decay else {})
        for name, params in weights.items():
            variables = {"params": params, **state.model_state}
            logits = self.model.apply(variables, images, train=False)
            chex.assert_shape(logits, (None, self.num_classes))
            compared = {name: (logits, self.num_classes)}
            if self.answers is not None:
                is_answer = jnp.isin(jnp.arange(self.num_classes), jnp.asarray(self.answers))
                compared = {
                    name: (jnp.where(is_answer, logits, -jnp.inf), len(self.answers)),
                    f"{name}_among_all": (logits, self.num_classes),
                }
            for key, (values, count) in compared.items():
                kind = self.metrics(count)
                sums[key] = kind.of(values, batch["label"], batch["mask"], self.loss)
        return sums, ()

    def summarize(self, sums, rows) -> Evaluation:
        metrics = sums["raw"].summary()
        for key in sorted(sums.keys() - {"raw"}):
            prefix = f"{key}_".removeprefix("raw_")  # "ema_", "ema_among_all_", "among_all_"
            summary = sums[key].summary()
            del summary["num_examples"]
            metrics |= {f"{prefix}{name}": value for name, value in summary.items()}
        return Evaluation(metrics)

    def metric_names(self) -> tuple[str, ...]:
        names = tuple(self.metrics(len(self.answers or range(self.num_classes))).__annotations__)
        return names + tuple(f"ema_{name}" for name in names if self.ema.decay)

    def parameters(self, state: TrainState):
        return state.params

    def trainable(self, state: TrainState):
        return trainable_mask(state.params, self.freeze)

    def with_variables(self, state: TrainState, variables) -> TrainState:
        model_state = {name: variables[name] for name in state.model_state}
        params = variables["params"]
        return state.replace(params=params, model_state=model_state, ema=self.ema.init(params))

    def _normalize(self, images: jax.Array) -> jax.Array:
        chex.assert_shape(images, (None, *self.image_shape))
        return normalize(images, self.mean, self.std)

    def _inputs(self, batch) -> tuple[jax.Array, jax.Array]:
        """Returns normalised images and smoothed targets; an augmented batch brings its own."""
        if "target" in batch:
            return batch["image"], batch["target"]
        return self._normalize(batch["image"]), self._targets(batch)

    def _targets(self, batch) -> jax.Array:
        targets = targets_of(batch["label"], self.num_classes, self.loss)
        return optax.smooth_labels(targets, self.label_smoothing)

    def augmented(self, batch, step: jax.Array | int, key: jax.Array):
        """Returns the batch as training step `step` sees it, and the key of the step's dropout.

        Args:
            batch: from the loader.
            step: number of updates made before this one.
            key: of the run.

        Returns:
            The batch; with device_augment its images are normalised, erased and mixed, float32, and
            it has "target" [b, num_classes].
        """
        key = jax.random.fold_in(key, step)
        if self.device_augment is None:
            return batch, key
        key, augment_key = jax.random.split(key)
        images, targets = self.device_augment(
            augment_key, batch["image"], self._targets(batch), self._normalize
        )
        labels = jnp.argmax(targets, axis=-1).astype(batch["label"].dtype)
        if self.multi_label:  # all that have the largest share, up to rounding
            largest = targets.max(axis=-1, keepdims=True)
            labels = (targets > largest - 1e-5).astype(batch["label"].dtype)
        return {**batch, "image": images, "target": targets, "label": labels}, key

    def _loss(self, params, model_state, batch, key):
        # Without the gradients of frozen parameters: they cost time and would enter the norm.
        params = select(trainable_mask(params, self.freeze), params, jax.lax.stop_gradient(params))
        images, targets = self._inputs(batch)
        logits, model_state = self.model.apply(
            {"params": params, **model_state},
            images,
            train=not self.linear_probe,
            rngs={"dropout": key},
            mutable=list(model_state),
        )
        chex.assert_equal_shape([logits, targets])  # [b, num_classes]
        loss = loss_of(logits, targets, self.loss).mean()
        accuracy = is_first(logits, batch["label"]).mean(dtype=jnp.float32)
        return loss, (dict(model_state), {"loss": loss, "top1_accuracy": accuracy})

    def _accumulated_gradients(self, state: TrainState, batch, key: jax.Array):
        """Returns the mean gradient and metrics over the parts of the batch."""
        gradients = jax.grad(self._loss, has_aux=True)
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
