"""Detection: objects of an image, their boxes and classes, by DETR on any classifier's maps."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from data import pipeline
from data.annotations import average_precision as ap
from detection.detr import Detr, check_pool, create_detector
from detection.losses import Classes, box_losses, class_loss
from detection.matching import match, matching_costs
from detection.results import results_of
from harness.arguments import check_range, problem
from harness.errors import BadImage, ConfigError
from harness.steps import Steps
from harness.strict_config import field_errors
from tasks.protocol import Evaluation, Task
from tasks.supervised import Supervised, TrainState, build_optimizer, check_on_maps, normalize
from zoo.registry import create_model

# Arguments of Detection that the code gives, not the config.
FROM_PARTS = (
    *("model", "optimizer", "freeze", "classes"),
    *("image_shape", "class_names", "mean", "std"),
)
_KINDS = ("class_loss", "l1_loss", "giou_loss")
_COST_OF_PADDING = 1e5  # more than any other, and finite, as the assignment needs it


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Detection(Supervised):
    """Each object is assigned to one prediction; the section `task` is the keyword arguments.

    Every decoder layer's predictions are assigned and have losses of their own. Crowds are no
    objects here; in evaluation they count as COCO counts them.

    Attributes:
        classes: how classes are compared, see losses.class_loss.
        image_shape: (h, w, c) of an image with its padding.
        class_names: of the objects; those that nobody named are numbered.
        mean, std: per channel, in units of 0..1.
        class_weight, l1_weight, giou_weight: of the losses of class and box.
        class_cost, l1_cost, giou_cost: weights of the same in the assignment.
        no_object_weight: of the classes of predictions without an object, with "softmax".
        proposal_repeats: predictions that each object is assigned to among the places of the map,
            where these propose the queries (H-DETR, arXiv 2207.13080).

    Reference:
        The defaults are DETR's (arXiv 2005.12872, A.4, and main.py of the official code).
    """

    classes: Classes
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_weight: float = 1.0
    l1_weight: float = 5.0
    giou_weight: float = 2.0
    class_cost: float = 1.0
    l1_cost: float = 5.0
    giou_cost: float = 2.0
    no_object_weight: float = 0.1
    proposal_repeats: int = 1

    def __post_init__(self):
        super().__post_init__()
        check_range("config.task.proposal_repeats", self.proposal_repeats, 1)
        for key in ("class", "l1", "giou"):
            for name in (f"{key}_weight", f"{key}_cost"):
                check_range(f"config.task.{name}", getattr(self, name), 0)
        check_range("config.task.no_object_weight", self.no_object_weight, 0)

    def initial_variables(self, key: jax.Array) -> dict[str, Any]:
        return dict(self.model.init(key, jnp.zeros((1, *self.image_shape), jnp.float32)))

    def augmented(self, batch, step: jax.Array | int, key: jax.Array):
        """Returns the batch with its mean number of objects, which all its parts divide by."""
        labels = jnp.where(batch["is_crowd"], -1, batch["labels"])
        mean = jnp.maximum((labels >= 0).sum(), 1) / len(labels)
        batch = {**batch, "labels": labels, "mean_objects": jnp.full(len(labels), mean)}
        return super().augmented(batch, step, key)

    def batch_loss(self, params, model_state, batch, key: jax.Array):
        predictions, model_state = self.model.apply(
            {"params": params, **model_state},
            *self._inputs(batch),
            train=True,
            rngs={"dropout": key},
            mutable=list(model_state),
        )
        targets = batch["labels"], batch["boxes"]
        each_layer = jax.vmap(self._losses, in_axes=(0, 0, None, None, None, None))
        losses = each_layer(
            *(predictions.logits, predictions.boxes, *targets, batch["mean_objects"]),
            predictions.is_query,
        )  # [l, 3]
        scalars = dict(zip(_KINDS, losses[-1], strict=True))  # of the last layer, unweighted
        weights = jnp.stack([self.class_weight, self.l1_weight, self.giou_weight])
        loss = (losses @ weights).sum()
        if predictions.proposals is not None:
            repeats = self.proposal_repeats
            targets = (jnp.repeat(x, repeats, axis=1) for x in targets)
            of_proposals = self._losses(
                *(*predictions.proposals, *targets, repeats * batch["mean_objects"]),
                predictions.is_place,
            )
            loss += of_proposals @ weights
        return loss, (dict(model_state), {"loss": loss, **scalars})

    def _losses(
        self, logits, boxes, labels, target_boxes, mean_objects, is_place=None
    ) -> jax.Array:
        """Returns the losses of a set of predictions, [3]: class, L1 and generalised IoU.

        Predictions of places in the padding, where `is_place` [b, q] is False, count for nothing.
        """
        if is_place is None:
            is_place = jnp.ones(logits.shape[:2], bool)
        costs = matching_costs(
            *(logits, boxes, labels, target_boxes),
            classes=self.classes,
            weights={"class": self.class_cost, "l1": self.l1_cost, "giou": self.giou_cost},
        )
        costs = jnp.where(is_place[..., None], costs, _COST_OF_PADDING)
        assigned = match(jax.lax.stop_gradient(costs), labels >= 0)
        # Of more objects than places, those that are left over are not learned from.
        labels = jnp.where(jnp.take_along_axis(is_place, assigned, axis=1), labels, -1)
        l1, giou, overlaps = box_losses(boxes, assigned, labels, target_boxes)
        of_classes = class_loss(
            *(logits, assigned, labels, overlaps, is_place),
            classes=self.classes,
            no_object_weight=self.no_object_weight,
        )
        objects = mean_objects.sum()
        compared = objects
        if self.classes == "softmax":  # a weighted mean over all predictions
            others = is_place.sum() - objects
            compared = objects + self.no_object_weight * others
        return jnp.stack([of_classes / compared, l1 / objects, giou / objects])

    def predict(self, variables, batch) -> dict[str, jax.Array]:
        """Returns what is found in each image: the fields of results.Results."""
        predictions = self.model.apply(variables, *self._inputs(batch), train=False)
        found = results_of(
            *(predictions.logits[-1], predictions.boxes[-1], batch["size"], predictions.is_query),
            classes=self.classes,
        )
        return found._asdict()

    def eval_step(self, state: TrainState, batch, key: jax.Array):
        names = ("boxes", "labels", "area", "is_crowd", "size", "mask")
        rows = {"truth": {name: batch[name] for name in names}}
        for name, variables in self.evaluated(state).items():
            rows[name] = self.predict(variables, batch)
        return {}, rows

    def summarize(self, sums, rows) -> Evaluation:
        rows = jax.tree.map(lambda *parts: np.concatenate(parts), *rows)
        truth = rows.pop("truth")
        real = np.flatnonzero(truth.pop("mask"))
        if not real.size:
            raise BadImage("no image was evaluated: none of the split's could be read")
        objects = [ap.objects_of_row({key: x[row] for key, x in truth.items()}) for row in real]
        metrics = {}
        for name, found in rows.items():
            answers = [ap.Detections(**{key: x[row] for key, x in found.items()}) for row in real]
            prefix = f"{name}_".removeprefix("raw_")
            measures = ap.average_precision(objects, answers, self.class_names)
            metrics |= {f"{prefix}{key}": value for key, value in measures.items()}
        return Evaluation(metrics | {"num_examples": len(real)})

    def metric_names(self) -> tuple[str, ...]:
        return ap.METRICS + tuple(f"ema_{name}" for name in ap.METRICS if self.ema.decay)

    def _inputs(self, batch) -> tuple[jax.Array, jax.Array]:
        """Returns the images normalised, with the mean colour where they are padded, and masks."""
        images = normalize(batch["image"], self.mean, self.std)
        return jnp.where(batch["image_mask"][..., None], images, 0), batch["image_mask"]


def check_detection(config: dict[str, Any]) -> dict[str, Any]:
    """Checks the sections that build_detection reads; returns them with their defaults."""
    return check_on_maps(config, "detector", create_detector, Detection, FROM_PARTS)


def build_detection(config: dict[str, Any], data: pipeline.Data, steps: Steps, mesh: Mesh) -> Task:
    """Builds the task of a detection from its sections."""
    classifier = create_model(**config["model"], num_classes=1)
    model: Detr = create_detector(classifier, data.num_classes, **config["detector"])
    _check_counts(model, data, config["task"]["proposal_repeats"])
    freeze = config["optimizer"]["freeze"]
    mean, std = data.statistics
    return Detection(
        model=model,
        optimizer=build_optimizer(config, model, steps, mesh, freeze),
        classes=config["detector"]["classes"],
        image_shape=data.image_shape,
        class_names=data.dataset.class_names or tuple(map(str, range(data.num_classes))),
        mean=mean,
        std=std,
        freeze=freeze,
        **config["task"],
    )


def _check_counts(model: Detr, data: pipeline.Data, repeats: int) -> None:
    """Raises ConfigError unless there are as many predictions as objects to assign to them."""
    objects, num_queries = data.max_objects, model.num_queries
    if num_queries < objects:
        what = f"fewer than config.data.max_objects={objects}"
        raise ConfigError(problem("config.detector.num_queries", num_queries, what))
    height, width = model.backbone.sides(data.image_shape[:2])[-1]
    with field_errors("config.detector"):
        check_pool(model.pool, (height, width))
    if model.queries == "learned":
        return
    places = height * width // model.pool**2
    counts = {"config.detector.num_queries": (num_queries, num_queries)}
    counts["config.task.proposal_repeats"] = (repeats, repeats * objects)
    for key, (value, needed) in counts.items():
        if needed > places:
            what = f"needs {needed} places of the map, which has {places}"
            raise ConfigError(problem(key, value, what))
