"""Semantic segmentation: a class for every pixel, by Trans2Seg on any classifier's maps."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from data import pipeline
from harness.errors import BadAnnotation, BadImage
from harness.steps import Steps
from segmentation.measures import Confusion, pixel_losses
from segmentation.model import create_segmenter
from tasks.protocol import Batch, Evaluation, Task
from tasks.supervised import Supervised, TrainState, build_optimizer, check_on_maps, normalize
from zoo.registry import create_model

# Arguments of Segmentation that the code gives, not the config.
FROM_PARTS = (
    *("model", "optimizer", "freeze"),
    *("image_shape", "num_classes", "class_names", "mean", "std"),
)
_MEASURES = ("loss", "mean_iou", "pixel_accuracy")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Segmentation(Supervised):
    """Cross entropy of the pixels; the config's section `task` is the keyword arguments.

    Pixels of class IGNORE count for nothing, and so does an image's padding.

    Attributes:
        image_shape: (h, w, c) of an image with its padding.
        num_classes: of pixels.
        class_names: of the classes, None: they are numbered.
        mean, std: per channel, in units of 0..1.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    class_names: tuple[str, ...] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def initial_variables(self, key: jax.Array) -> dict[str, Any]:
        return dict(self.model.init(key, jnp.zeros((1, *self.image_shape), jnp.float32)))

    def batch_loss(self, params, model_state, batch, key):
        logits, model_state = self.model.apply(
            {"params": params, **model_state},
            self._images(batch),
            train=True,
            rngs={"dropout": key},
            mutable=list(model_state),
        )
        losses, counts = pixel_losses(logits, batch["segments"])
        num_pixels = jnp.maximum(counts.sum(), 1)
        loss = losses.sum() / num_pixels
        is_right = (jnp.argmax(logits, axis=-1) == batch["segments"]) & counts
        accuracy = is_right.sum() / num_pixels
        return loss, (dict(model_state), {"loss": loss, "pixel_accuracy": accuracy})

    def eval_step(self, state: TrainState, batch, key: jax.Array):
        images, sums = self._images(batch), {}
        for name, variables in self.evaluated(state).items():
            logits = self.model.apply(variables, images, train=False)
            sums[name] = Confusion.of(logits, batch["segments"], batch["mask"])
        return sums, ()

    def predict(self, variables: Mapping[str, Any], batch: Batch) -> jax.Array:
        """Returns the likeliest class of each pixel, int32 [b, h, w].

        Args:
            variables: of `evaluated`.
            batch: with "image" and "image_mask".
        """
        logits = self.model.apply(variables, self._images(batch), train=False)
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    def summarize(self, sums, rows) -> Evaluation:
        metrics = {}
        for name, confusion in sums.items():
            if not confusion.num_examples:
                raise BadImage("no image was evaluated: none of the split's could be read")
            prefix = f"{name}_".removeprefix("raw_")
            try:
                measures = confusion.compute()
            except ValueError as error:
                raise BadAnnotation(str(error)) from None
            metrics |= {f"{prefix}{key}": float(measures[key]) for key in _MEASURES}
            of_classes = zip(self._names(), measures["iou"].tolist(), strict=True)
            metrics |= {f"{prefix}iou/{of}": iou for of, iou in of_classes if iou == iou}
        return Evaluation(metrics | {"num_examples": int(sums["raw"].num_examples)})

    def metric_names(self) -> tuple[str, ...]:
        return _MEASURES + tuple(f"ema_{name}" for name in _MEASURES if self.ema.decay)

    def _names(self) -> tuple[str, ...]:
        return self.class_names or tuple(map(str, range(self.num_classes)))

    def _images(self, batch) -> jax.Array:
        """Returns the images normalised; what is padded has the mean colour."""
        images = normalize(batch["image"], self.mean, self.std)
        return jnp.where(batch["image_mask"][..., None], images, 0)


def check_segmentation(config: dict[str, Any]) -> dict[str, Any]:
    """Checks the sections that build_segmentation reads; returns them with their defaults."""
    return check_on_maps(config, "decoder", create_segmenter, Segmentation, FROM_PARTS)


def build_segmentation(
    config: dict[str, Any], data: pipeline.Data, steps: Steps, mesh: Mesh
) -> Task:
    """Builds the task of a segmentation from its sections."""
    freeze = config["optimizer"]["freeze"]
    classifier = create_model(**config["model"], num_classes=1)
    model = create_segmenter(classifier, data.num_classes, **config["decoder"])
    mean, std = data.statistics
    return Segmentation(
        model=model,
        optimizer=build_optimizer(config, model, steps, mesh, freeze),
        image_shape=data.image_shape,
        num_classes=data.num_classes,
        class_names=data.dataset.class_names,
        mean=mean,
        std=std,
        freeze=freeze,
        **config["task"],
    )
