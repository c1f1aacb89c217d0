"""Features of images in a trained classifier of this repository, to compare sets of images in."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from data import pipeline
from training import workdirs
from training.errors import ConfigError, input_errors
from training.generative_metrics import Moments
from training.models import create_model
from training.weights import load_variables

RESIZE = "bicubic"  # with antialiasing, jax.image.resize


@dataclasses.dataclass(frozen=True)
class Embedding:
    """A classifier as a feature space.

    Attributes:
        model: the classifier.
        variables: its weights.
        image_shape: (h, w, c) of the images that it was trained with.
        mean, std: per channel, that it normalises with.
        protocol: what it is, for the record: source, resize, image_size.
    """

    model: nn.Module
    variables: Any
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    protocol: dict[str, Any]

    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns features and class probabilities.

        Args:
            images: float32 [b, h, w, c] in 0..1, of any size. Grey ones serve a classifier of
                colour images.

        Returns:
            features float32 [b, f], what enters the classifier's head (after the last norm and the
            average over the image); probabilities [b, classes].
        """
        height, width, channels = self.image_shape
        if images.shape[1:3] != (height, width):
            shape = (len(images), height, width, images.shape[-1])
            images = jax.image.resize(images, shape, RESIZE, antialias=True)
        if images.shape[-1] == 1 and channels == 3:
            images = jnp.repeat(images, 3, axis=-1)
        images = (images - jnp.asarray(self.mean)) / jnp.asarray(self.std)
        inputs = []

        def keep_head_input(call, args, kwargs, context):
            if context.module.name == "head" and context.method_name == "__call__":
                inputs.append(args[0])
            return call(*args, **kwargs)

        with nn.intercept_methods(keep_head_input):
            logits = self.model.apply(self.variables, images, train=False)
        return inputs[0].astype(jnp.float32), jax.nn.softmax(logits)


def load_embedding(workdir: str, *, num_channels: int, dataset: str) -> Embedding:
    """Reads the classifier of a workdir: its moving average if it has one, else its weights.

    Args:
        workdir: of a classification run of this repository.
        num_channels: of the images to come.
        dataset: their data set, for the message that says how to train a classifier.

    Raises:
        ConfigError: there is none, or it is no classifier of such images.
    """
    folder = Path(workdir)
    if not (folder / "checkpoints" / "latest").is_dir():
        recipe = next((r for r in ("digits", "cifar") if r in dataset), "imagenet")
        raise ConfigError(
            f"config.task.features={workdir!r} holds no trained classifier; train one: python "
            f"train.py --config=configs/{recipe}_nest.py --workdir={workdir}, or leave it empty"
        )
    config = workdirs.read_config(folder).to_dict()
    if config["task"]["name"] != "classification":
        raise ConfigError(
            f"config.task.features={workdir!r} is a run of {config['task']['name']!r}; features "
            "come from a run of 'classification'"
        )
    with input_errors():
        data = pipeline.Data(**config["data"])
        height, width, channels = data.image_shape
        if num_channels not in (1, channels):
            raise ValueError(
                f"config.task.features={workdir!r} takes images of {channels} channel(s), the "
                f"generated ones have {num_channels}"
            )
        model = create_model(**config["model"], num_classes=data.num_classes)
        weights = "ema" if config["task"]["ema_decay"] else "raw"
        variables, report = load_variables(
            folder, model, image_size=data.image_shape, weights=weights, reinit_head="never"
        )
    mean, std = data.statistics
    protocol = {
        "features": f"input of the head, {report.kind}",
        "features_workdir": str(workdir),
        "features_hash": digest(*jax.tree.leaves(variables)),
        "resize": f"{RESIZE} with antialiasing to {height}x{width} where the size differs",
    }
    return Embedding(model, variables, data.image_shape, mean, std, protocol)


def digest(*arrays: np.ndarray) -> str:
    """Returns 12 hexadecimal digits that identify arrays, as float32."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array, np.float32).tobytes())
    return total.hexdigest()[:12]


def save_statistics(path: str | Path, statistics: Moments, protocol: dict[str, Any]) -> None:
    """Writes moments and how they were taken as .npz, to compare other samples with later."""
    with Path(path).open("wb") as file:
        np.savez(
            file,
            mean=statistics.mean,
            covariance=statistics.covariance,
            count=statistics.count,
            protocol=np.array(repr(sorted(protocol.items()))),
        )


def load_statistics(path: str | Path, protocol: dict[str, Any]) -> Moments:
    """Reads moments that `save_statistics` wrote.

    Args:
        path: of the file.
        protocol: that they must have been taken with: numbers by different ones do not compare.

    Raises:
        ConfigError: there is no such file, or it was made with another protocol.
    """
    with input_errors(), np.load(path) as stored:
        expected = repr(sorted(protocol.items()))
        if (found := str(stored["protocol"])) != expected:
            raise ValueError(f"statistics {path} were taken with {found}, not with {expected}")
        return Moments(stored["mean"], stored["covariance"], int(stored["count"]))
