"""A trained classifier from Python: what an image shows, its features, and what speaks for a class.

    predictor = Predictor.load("runs/digits_nest")
    for prediction in predictor.predict("photos/"):
        print(prediction.path, prediction.name, prediction.probability)
    predictor.features(images)  # [n, c]
    predictor.explain(images, classes=3)

tools/predict.py, tools/export.py and the pictures use the same object. Images are prepared as in
the recipe's evaluation. The recipe's data set need not be there: the numbers of classes and
channels are those of the weights.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from data.pipeline import Data
from harness.arguments import problem, unknown
from inference.explain import Method, auto_method, check_method, create_explainer
from inference.given_images import Given, Row, as_images, compute_rows
from inference.loading import load_fields
from inference.prediction import Explanation, Prediction
from layers.intermediates import as_classes
from nest.gradcat import gradcat
from parallel import sharding
from tasks.losses import PROBABILITIES, Loss
from tasks.supervised import normalize
from zoo.load import Report


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """A model with its weights, and how its images are prepared; make it with `Predictor.load`.

    Images are given as paths of files or folders and as uint8 arrays [h, w, c] or [n, h, w, c],
    one or a list of them; see `given_images.as_images`. All methods take `batch_size`, how many go
    through the model at once at most. Fewer images are padded to a power of two, so that any number
    of images takes few compiled programs; these are kept as long as the predictor.

    Attributes:
        model: without parameters.
        variables: its parameters and batch statistics.
        data: the recipe's; its data set may be missing.
        num_channels: of an image.
        mean, std: per channel, in units of 0..1.
        class_names: in the order of the labels, if known.
        report: what loading the weights did.
        loss: that the model was trained with, see tasks/losses.py: it says what a probability is.
    """

    model: nn.Module
    variables: Mapping[str, Any]
    data: Data
    num_channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] | None
    report: Report
    loss: Loss = "softmax"

    @classmethod
    def load(
        cls,
        weights: str | os.PathLike,
        config: ConfigDict | str | os.PathLike | None = None,
        *,
        checkpoint: str = "latest",
        ema: bool = False,
        classes_file: str | os.PathLike | None = None,
    ) -> "Predictor":
        """Loads a model for prediction.

        Args:
            weights: workdir, or anything else that zoo.load.load_variables reads.
            config: the recipe, as a config or by its name, "configs/imagenet_nest.py:tiny"; of its
                data set only the names of the classes are of use. None: the workdir's own.
            checkpoint: "latest" or "best", of a workdir.
            ema: take the moving average of the weights.
            classes_file: file with one class name per line. None: the first list whose length is
                the number of classes, of the names stored with the weights, those of the data set
                and, for a recipe of ImageNet, ImageNet's.

        Raises:
            ConfigError: the config, the weights or the names are wrong.
        """
        options = {"checkpoint": checkpoint, "ema": ema, "classes_file": classes_file}
        return cls(**load_fields(weights, config, **options))

    def logits(self, variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
        """Maps uint8 images [b, h, w, c], cropped, to logits [b, num_classes], as eval_step."""
        return self.model.apply(variables, normalize(images, self.mean, self.std), train=False)

    def probabilities(self, variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
        """Maps uint8 images [b, h, w, c], cropped, to probabilities [b, num_classes]."""
        return PROBABILITIES[self.loss](self.logits(variables, images))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of an image."""
        return (*self.data.height_and_width, self.num_channels)

    def predict(self, images: Given | Sequence[Given], **options: Any) -> list[Prediction]:
        """Returns what the model says about each image, in their order; see `iterate`."""
        return list(self.iterate(images, **options))

    def iterate(
        self,
        images: Given | Sequence[Given],
        *,
        batch_size: int = 32,
        explain: Method | None = None,
    ) -> Iterator[Prediction]:
        """Yields what the model says about each image, in their order, as soon as it is known.

        Args:
            images: of which those that are missing, empty or broken get a `problem`.
            batch_size: see Predictor.
            explain: also explain each image's likeliest class by this method.

        Raises:
            ValueError: the method does not fit the model, or something is given that is no image.
        """
        if explain is not None:
            check_method(explain, self.model, self.data.height_and_width)
        rows = self._rows(as_images(images), batch_size, what="probabilities", method=explain)
        return map(functools.partial(self._prediction, explain), rows)

    def features(
        self,
        images: Given | Sequence[Given],
        *,
        layer: str = "pre_logits",
        batch_size: int = 32,
    ) -> np.ndarray:
        """Returns a map inside the model for each image, float32 [n, ...].

        Args:
            images: see Predictor.
            layer: one of `layers`; "pre_logits" is what the head reads, [n, c].
            batch_size: see Predictor.

        Raises:
            ValueError: there is no such layer, or an image cannot be read.
        """
        if layer not in self.layers:
            raise ValueError(problem("layer", layer, unknown(layer, self.layers)))
        rows = self._readable(as_images(images), batch_size, what="features", layer=layer)
        found = [row.outputs["features"] for row in rows]
        return np.stack(found) if found else np.zeros((0, *self.layers[layer]), np.float32)

    @functools.cached_property
    def layers(self) -> dict[str, tuple[int, ...]]:
        """Names of the maps that `features` gives, and their shape for one image."""
        image = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)
        _, state = jax.eval_shape(
            functools.partial(self.model.apply, mutable=["intermediates"]), self.variables, image
        )
        maps = state["intermediates"]
        return {name: maps[name][0].shape[1:] for name in maps if isinstance(maps[name], tuple)}

    def explain(
        self,
        images: Given | Sequence[Given],
        *,
        method: Method | None = None,
        classes: int | str | Sequence[int | str] | None = None,
        batch_size: int = 32,
    ) -> list[Explanation]:
        """Returns which pixels speak for a class, for each image.

        Args:
            images: see Predictor.
            method: one of inference.explain.METHODS; None: GradCAT for NesT, Grad-CAM for others.
            classes: labels or names, one for all images or one for each; None: the likeliest.
            batch_size: see Predictor.

        Raises:
            ValueError: the method does not fit the model, there is no such class, or an image
                cannot be read.
        """
        images = as_images(images)
        method = method or auto_method(self.model, self.data.height_and_width)
        check_method(method, self.model, self.data.height_and_width)
        labels = None if classes is None or not images else self._labels(classes, len(images))
        options = {"what": "explanation", "method": method, "labels": labels}
        rows = self._readable(images, batch_size, **options)
        return [self._explanation(method, row) for row in rows]

    def _labels(self, classes: int | str | Sequence[int | str], count: int) -> np.ndarray:
        """Returns the labels of classes, int32 [count]."""
        given = [classes] * count if np.ndim(classes) == 0 else list(classes)
        names = list(self.class_names or ())
        if unknown_names := [one for one in given if isinstance(one, str) and one not in names]:
            raise ValueError(problem("classes", unknown_names[0], unknown(unknown_names[0], names)))
        labels = [names.index(one) if isinstance(one, str) else one for one in given]
        return np.asarray(as_classes(np.asarray(labels), count, self.model.num_classes))

    def _prediction(self, method: Method | None, row: Row) -> Prediction:
        explanation = self._explanation(method, row) if method and not row.problem else None
        return Prediction.of_row(row, self.class_names, explanation)

    def _explanation(self, method: Method, row: Row) -> Explanation:
        label = int(row.outputs["label"])
        name = self.class_names[label] if self.class_names else None
        boxes = row.outputs.get("boxes")
        return Explanation(method, row.image, row.outputs["saliency"], label, name, boxes)

    def _readable(self, images: list, batch_size: int, **options: Any) -> Iterator[Row]:
        """Yields the rows of images; raises ValueError at the first that cannot be read."""
        for row in self._rows(images, batch_size, **options):
            if row.problem:
                raise ValueError(f"{row.given}: {row.problem}")
            yield row

    def _rows(
        self, images: list, batch_size: int, *, labels: np.ndarray | None = None, **options: Any
    ) -> Iterator[Row]:
        if not images:
            return iter(())
        size = min(batch_size, 1 << (len(images) - 1).bit_length())
        size = -(-size // self._mesh.size) * self._mesh.size  # devices share a batch

        def compute(pixels: jax.Array, first: int):
            own = None
            if labels is not None:
                own = np.zeros(len(pixels), np.int32)
                given = labels[first : first + len(pixels)]
                own[: len(given)] = given
            return self._compiled(self._on_devices, pixels, own, **options)

        return compute_rows(
            images,
            compute,
            data=self.data,
            num_channels=self.num_channels,
            batch_size=size,
            images_sharding=sharding.batch_sharding(self._mesh),
        )

    @functools.cached_property
    def _mesh(self) -> jax.sharding.Mesh:
        return sharding.create_mesh(data=-1, fsdp=1)

    @functools.cached_property
    def _on_devices(self) -> Mapping[str, Any]:
        return jax.device_put(self.variables, sharding.replicated(self._mesh))

    @functools.cached_property
    def _compiled(self):
        return jax.jit(
            self._outputs,
            static_argnames=("what", "method", "layer"),
            out_shardings=sharding.replicated(self._mesh),
        )

    def _outputs(
        self, variables, images, labels, *, what: str, method: Method | None = None, layer: str = ""
    ) -> dict[str, jax.Array]:
        """Computes "probabilities", "features" or what explains the classes in `labels`."""
        if what == "features":
            inputs = normalize(images, self.mean, self.std)
            _, state = self.model.apply(variables, inputs, mutable=["intermediates"])
            return {"features": state["intermediates"][layer][0].astype(jnp.float32)}
        outputs = {}
        if what == "probabilities" or labels is None:
            logits = self.logits(variables, images)
            labels = jnp.argmax(logits, axis=-1) if labels is None else labels
            outputs["probabilities"] = PROBABILITIES[self.loss](logits)
        if method is None:
            return outputs
        outputs["label"] = labels
        inputs = normalize(images, self.mean, self.std)
        if method == "gradcat":  # the way itself, rather than its map alone
            way = gradcat(self.model, variables, inputs, labels)
            saliency = way.saliency(self.data.height_and_width)
            return outputs | {"saliency": saliency, "boxes": way.boxes}
        explainer = create_explainer(method, self.model, self.image_shape)
        return outputs | {"saliency": explainer(variables, inputs, labels)}
