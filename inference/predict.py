"""Predicts the classes of images, which are prepared as in the recipe's evaluation.

`build_predictor` is the front door. The recipe's data set need not be there: the numbers of classes
and channels are those of the weights.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from data import datasets
from data.class_names import imagenet_names, readable
from data.pipeline import Data
from data.pixel_statistics import default_statistics
from harness.arguments import problem
from harness.class_lists import assumed_order, check_order, two_orders
from harness.errors import ConfigError, input_errors
from harness.files import local_path
from inference.explain import Method, check_method, create_explainer
from inference.prediction import Prediction, predict_files
from nest.gradcat import gradcat
from parallel import sharding
from tasks.classification import normalize
from tasks.losses import PROBABILITIES, Loss
from training.experiment import check_config
from workdirs.class_file import read_classes
from zoo.load import Report, load_with_own_head
from zoo.registry import create_model

NUM_IMAGENET_CLASSES = 1000


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A model with its weights, and how its images are prepared; make it with `build_predictor`.

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

    def predict(
        self, paths: Sequence[Path], batch_size: int, explain: Method | None = None
    ) -> Iterator[Prediction]:
        """Predicts image files, in their order.

        Args:
            paths: of the files. Those that are missing, empty or broken have a `problem`.
            batch_size: how many go through the model at once at most (rounded up to a multiple of
                the number of devices, which share a batch as in training).
            explain: also explain each image's likeliest class by this method.

        Raises:
            ValueError: the method does not fit the model.
        """
        mesh = sharding.create_mesh(data=-1, fsdp=1)
        everywhere = sharding.replicated(mesh)
        variables = jax.device_put(self.variables, everywhere)
        if explain is not None:
            check_method(explain, self.model, self.data.height_and_width)
        outputs = jax.jit(functools.partial(self._outputs, explain), out_shardings=everywhere)
        return predict_files(
            paths,
            lambda images: outputs(variables, images),
            explain=explain,
            data=self.data,
            num_channels=self.num_channels,
            batch_size=max(1, min(batch_size, len(paths))),
            images_sharding=sharding.batch_sharding(mesh),
        )

    def _outputs(self, explain: Method | None, variables, images: jax.Array) -> dict:
        outputs = {"probabilities": self.probabilities(variables, images)}
        if explain is None:
            return outputs
        inputs = normalize(images, self.mean, self.std)
        if explain == "gradcat":  # the way itself, rather than its map alone
            way = gradcat(self.model, variables, inputs)
            return outputs | {
                "saliency": way.saliency(self.data.height_and_width),
                "boxes": way.boxes,
            }
        explainer = create_explainer(explain, self.model, self.image_shape)
        return outputs | {"saliency": explainer(variables, inputs, None)}


def build_predictor(
    config: ConfigDict,
    weights: str | Path,
    *,
    checkpoint: str = "latest",
    ema: bool = False,
    classes_file: str | Path | None = None,
) -> Predictor:
    """Loads a model for prediction.

    Args:
        config: the recipe; of its data set only the names of the classes are of use.
        weights: workdir, or anything else that zoo.load.load_variables reads.
        checkpoint: "latest" or "best", of a workdir.
        ema: take the moving average of the weights.
        classes_file: file with one class name per line. None: the first list whose length is the
            number of classes, of the names stored with the weights, those of the data set and, for
            a recipe of ImageNet, ImageNet's.

    Raises:
        ConfigError: the config, the weights or the names are wrong.
    """
    plain = check_config(config, needs_data=False)
    if plain["task"]["name"] != "classification":
        name = plain["task"]["name"]
        raise ConfigError(
            problem("config.task.name", name, "no classes to predict", "classification")
        )
    with input_errors():
        data = Data(**plain["data"], augment=plain["augment"], seed=plain["seed"])
        dataset = _dataset(data)
        channels = dataset.num_channels if dataset else data.channels or 3
        load = functools.partial(
            load_with_own_head,
            weights,
            functools.partial(create_model, **plain["model"]),
            num_classes=dataset.num_classes if dataset else NUM_IMAGENET_CLASSES,
            checkpoint=checkpoint,
            weights="ema" if ema else "raw",
        )
        model, variables, report = load(image_size=(*data.height_and_width, channels))
        if report.rechannelled and not dataset and data.channels is None:
            channels = 1  # missing arrays may have been grey, as MNIST's are
            model, variables, report = load(image_size=(*data.height_and_width, channels))
        statistics = default_statistics(data.name, channels)
        if dataset:
            statistics = dataset.mean, dataset.std
        names, notes = _class_names(classes_file, report, data.name, dataset, model.num_classes)
        report = dataclasses.replace(report, notes=(*report.notes, *notes))
    return Predictor(
        model=model,
        variables=variables,
        data=data,
        num_channels=channels,
        mean=tuple(data.mean or statistics[0]),
        std=tuple(data.std or statistics[1]),
        class_names=names,
        report=report,
        loss=plain["task"]["loss"],
    )


def _dataset(data: Data) -> datasets.Dataset | None:
    """Returns the recipe's data set if it is there and readable."""
    try:
        return data.dataset
    except (ValueError, OSError):
        return None


def _class_names(
    file: str | Path | None,
    report: Report,
    name: str,
    dataset: datasets.Dataset | None,
    num_classes: int,
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Returns the first list of names whose length is num_classes; see `build_predictor`.

    Also returns notes: what a person should know about them.
    """
    if file is not None:
        names = read_classes(local_path("--classes", file))
        if len(names) != num_classes:
            raise ValueError(f"{file} names {len(names)} classes, the weights have {num_classes}")
        check_order(file, names, report.class_names)
        return readable(names), ()
    of_data = dataset and dataset.class_names
    lists = [report.class_names, of_data]
    if "imagenet2012" in name or (name.startswith("folder:") and "imagenet" in name.lower()):
        lists.append(imagenet_names().values())  # other ImageNets have other orders
    names = next((names for names in lists if names and len(names) == num_classes), None)
    if names is None:
        return None, ()
    # Only folders named by numbers have two orders in use.
    is_doubtful = report.class_names is None and names is of_data and two_orders(names)
    return readable(names), (assumed_order(names),) if is_doubtful else ()
