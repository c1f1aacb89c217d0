"""Supervised image classification: one Task, for every classifier of the repository."""

import dataclasses
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import optax

from harness.arguments import check_range
from tasks.losses import Loss, loss_of, targets_of
from tasks.metrics import FewClassesMetrics, MultiLabelMetrics, classification_metrics, is_first
from tasks.protocol import Evaluation
from tasks.supervised import Supervised, TrainState, normalize


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Classification(Supervised):
    """Cross entropy with smoothed labels; the config's section `task` is the keyword arguments.

    Attributes:
        model: `model.apply(variables, images, train=...)` gives logits [b, num_classes].
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
        loss: see losses.loss_of. "sigmoid" asks of each class by itself whether the image has it.
        label_smoothing: weight of the uniform distribution in the target.
        linear_probe: train the head alone, on the features of a network that runs as in evaluation:
            no dropout, no drop path, batch norm with its stored statistics, which stay.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    multi_label: bool = False
    answers: tuple[int, ...] | None = None
    device_augment: Callable | None = None
    loss: Loss = "softmax"
    label_smoothing: float = 0.0
    linear_probe: bool = False

    def __post_init__(self):
        super().__post_init__()
        check_range("config.task.label_smoothing", self.label_smoothing, 0, below=1)

    def metrics(self, num_compared: int) -> type[FewClassesMetrics | MultiLabelMetrics]:
        """Returns the metrics of an evaluation that compares the logits of so many classes."""
        return MultiLabelMetrics if self.multi_label else classification_metrics(num_compared)

    def initial_variables(self, key: jax.Array):
        return self.model.init(key, jnp.zeros((1, *self.image_shape), jnp.float32), train=False)

    def eval_step(self, state: TrainState, batch, key: jax.Array):
        images, sums = self._normalize(batch["image"]), {}
        for name, variables in self.evaluated(state).items():
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
        """Returns the batch of a training step, and the key of its dropout; see Supervised.

        With device_augment the batch's images are normalised, erased and mixed, float32, and it has
        "target" [b, num_classes].
        """
        batch, key = super().augmented(batch, step, key)
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

    def batch_loss(self, params, model_state, batch, key: jax.Array):
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
