"""A trained classifier that is asked what it looks at: logits, maps and paths of uint8 images."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from data.class_names import imagenet_names, is_imagenet
from data.datasets import Dataset
from data.pipeline import Data
from harness.class_lists import assumed_order, check_order
from harness.errors import input_errors
from inference.explain import create_explainer
from nest.gradcat import gradcat
from parallel import sharding
from tasks.losses import PROBABILITIES
from tasks.supervised import normalize
from training.experiment import Experiment
from workdirs.class_file import read_classes
from zoo.load import Report

# Images uint8 [b, h, w, c] and classes [b] -> an array with b rows.
Look = Callable[[np.ndarray, np.ndarray], jax.Array]
_BATCH = 64  # images at a time: gradients take more memory than evaluation does


@dataclasses.dataclass(frozen=True)
class TrainedClassifier:
    """A trained classifier and the images that it is asked about.

    Attributes:
        model: without parameters.
        variables: its parameters and batch statistics.
        data: prepares the images as in evaluation.
        mean, std: per channel, in units of 0..1.
        answers: classes that an answer can be, None for all.
        probabilities: of logits [b, num_classes]: the task's softmax or sigmoid.
        mesh: of the devices that share a batch.
        weights: "raw" or "ema", for the protocol; "" if nobody says.
    """

    model: nn.Module
    variables: Mapping[str, Any]
    data: Data
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mesh: Mesh
    answers: tuple[int, ...] | None = None
    probabilities: Callable[[jax.Array], jax.Array] = jax.nn.softmax
    weights: str = ""

    @classmethod
    def of_run(cls, run: Experiment, state: Any, *, ema: bool = False) -> "TrainedClassifier":
        """Takes the model of a classification run and the weights of its state."""
        params = state.ema if ema and state.ema is not None else state.params
        variables = {"params": params, **state.model_state}
        return cls(
            model=run.task.model,
            variables=jax.device_put(variables, sharding.replicated(run.mesh)),
            data=run.data,
            mean=run.task.mean,
            std=run.task.std,
            mesh=run.mesh,
            answers=run.task.answers,
            probabilities=PROBABILITIES[run.task.loss],
            weights="raw" if params is state.params else "ema",
        )

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.data.height_and_width

    @property
    def batch_size(self) -> int:
        """Questions at a time, a multiple of the number of devices."""
        return -(-min(_BATCH, self.data.eval_batch_size) // self.mesh.size) * self.mesh.size

    def on_devices(self, *arrays: np.ndarray) -> list[jax.Array]:
        """Puts arrays on the devices, which share them."""
        return [jax.device_put(array, sharding.batch_sharding(self.mesh)) for array in arrays]

    def look(self, explain: Callable[..., jax.Array]) -> Look:
        """Makes a function of uint8 images and classes from one of variables and normalised ones.

        Args:
            explain: variables, images [b, h, w, c], classes [b] -> an array with b rows.
        """
        compiled = jax.jit(
            lambda variables, images, classes: explain(
                variables, normalize(images, self.mean, self.std), classes
            )
        )
        return lambda images, classes: compiled(
            self.variables, *self.on_devices(images, classes.astype(np.int32))
        )

    def logits(self, images: np.ndarray) -> jax.Array:
        """Returns the logits [b, num_classes] of uint8 images; -inf for what is no answer."""
        return self._logits(images, np.zeros(len(images)))

    @functools.cached_property
    def _logits(self) -> Look:
        def logits(variables, images, classes):
            found = self.model.apply(variables, images, train=False)
            if self.answers is None:
                return found
            is_answer = jnp.isin(jnp.arange(found.shape[-1]), jnp.asarray(self.answers))
            return jnp.where(is_answer, found, -jnp.inf)

        return self.look(logits)

    def maps(self, method: str) -> Look:
        """Returns what makes the maps of a method; raises ValueError if it does not fit."""
        shape = (*self.image_size, len(self.mean))
        return self.look(create_explainer(method, self.model, shape))

    def path(self, **options: Any) -> Look:
        """Returns what makes the boxes of GradCAT's path, [b, steps, 4], with its options."""
        return self.look(
            lambda variables, images, classes: (
                gradcat(self.model, variables, images, classes, **options).boxes
            )
        )


def classes_in_file(file: str | Path, known: tuple[str, ...] | None) -> tuple[str, ...]:
    """Returns the class names in a file that --classes names.

    Args:
        file: with a name per line.
        known: names that the model has anyway.

    Raises:
        ConfigError: it cannot be read, or has other names.
    """
    with input_errors():
        names = tuple(read_classes(file))
        check_order(file, names, known)
    return names


def classes_of_weights(
    file: str | Path | None, report: Report, num_classes: int, dataset: Dataset
) -> tuple[str, ...] | None:
    """Returns the names of the weights' classes in their order, None where nobody gives them.

    Args:
        file: that --classes names, if one is given.
        report: of the weights that were loaded.
        num_classes: that the weights have.
        dataset: to be evaluated on.

    Raises:
        ConfigError, ValueError: the file cannot be read, or has other names.
    """
    names, here = report.class_names, dataset.class_names
    if file is not None:
        names = classes_in_file(file, report.class_names)
    elif names is None and is_imagenet(num_classes, here):
        names = tuple(imagenet_names())  # also of a part of it, such as ImageNet-A
    if names is not None and len(names) != num_classes:
        raise ValueError(
            f"{file or report.path} names {len(names)} classes, the weights have {num_classes}"
        )
    if names is None and here is not None:
        print(f"note: {assumed_order(here)}", file=sys.stderr)
    return names
