"""A trained classifier as the feature space in which sets of images are compared."""

import dataclasses
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from data import pipeline
from harness.arguments import problem
from harness.errors import ConfigError, input_errors
from harness.files import local_path
from tasks.gan.hashes import arrays_hash
from workdirs.config_file import read_config
from zoo import inception
from zoo.load import load_variables
from zoo.registry import create_model

_KEY = "config.task.features"  # for messages
INCEPTION_SIZE = 299
INCEPTION_CHUNK = 32  # images at once on a device: 0.3 GB on a CPU; 512 took 4.2 GB


@dataclasses.dataclass(frozen=True, eq=False)  # compared by identity: it holds arrays
class Embedding:
    """A classifier as a feature space.

    Attributes:
        model: the classifier.
        variables: its weights.
        image_shape: (h, w, c) of the images that it was trained on.
        mean, std: per channel, of its normalisation.
        protocol: what it is, for the record: source, hash, resize.
        resize: method of jax.image.resize.
        antialias: of the resize, where it shrinks images.
        head: name of the layer that the features enter.
        chunk: images at once on each device, of a larger batch; None: all.
    """

    model: nn.Module
    variables: Any
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    protocol: dict[str, Any]
    resize: str = "bicubic"
    antialias: bool = True
    head: str = "head"
    chunk: int | None = None

    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns features and class probabilities.

        Args:
            images: float32 [b, h, w, c] in 0..1, of any size. Grey images are repeated for a
                classifier of colour images.

        Returns:
            features float32 [b, f], the input of the classifier's head (after the last norm and the
            average over the image); probabilities [b, num_classes].
        """
        count = len(images)
        at_once = count if self.chunk is None else self.chunk * jax.device_count()
        if count <= at_once:
            return self._embed(images)
        parts = -(-count // at_once)
        size = -(-count // parts)
        images = jnp.pad(images, ((0, parts * size - count), (0, 0), (0, 0), (0, 0)))
        # A part is every parts-th image, so that it lies over the devices as the batch does.
        images = images.reshape(size, parts, *images.shape[1:]).swapaxes(0, 1)
        embedded = jax.lax.map(self._embed, images)  # [parts, size, ...] each
        return jax.tree.map(
            lambda x: x.swapaxes(0, 1).reshape(parts * size, *x.shape[2:])[:count], embedded
        )

    @property
    def width(self) -> int:
        """Number of features."""
        images = jax.ShapeDtypeStruct((1, *self.image_shape), "float32")
        return jax.eval_shape(self._embed, images)[0].shape[-1]

    def _embed(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        height, width, channels = self.image_shape
        if images.shape[1:3] != (height, width):
            shape = (len(images), height, width, images.shape[-1])
            images = jax.image.resize(images, shape, self.resize, antialias=self.antialias)
        if images.shape[-1] == 1 and channels == 3:
            images = jnp.repeat(images, 3, axis=-1)
        images = (images - jnp.asarray(self.mean)) / jnp.asarray(self.std)
        inputs = []

        def keep_head_input(call, args, kwargs, context):
            if context.module.name == self.head and context.method_name == "__call__":
                inputs.append(args[0])
            return call(*args, **kwargs)

        with nn.intercept_methods(keep_head_input):
            logits = self.model.apply(self.variables, images, train=False)
        return inputs[0].astype(jnp.float32), jax.nn.softmax(logits)


def load_embedding(path: str, *, num_channels: int, dataset: str) -> Embedding:
    """Reads a feature space: a classifier of this repository, or Inception-v3.

    Args:
        path: workdir of a classification run of this repository, whose moving average counts if it
            has one; or a file of Inception-v3's weights, see read_inception.
        num_channels: of the images to come.
        dataset: their data set, for the message that says how to train a classifier.

    Raises:
        ConfigError: there is none, or it is no classifier of such images.
    """
    location = local_path(_KEY, path)
    if location.is_file() or location.suffix in inception.SUFFIXES:
        embedding = load_inception(location)
    else:
        embedding = _load_classifier(location, dataset)
    if num_channels not in (1, channels := embedding.image_shape[-1]):
        what = f"takes images of {channels} channel(s), the generated ones have {num_channels}"
        raise ConfigError(problem(_KEY, path, what))
    return embedding


def load_inception(file: Path) -> Embedding:
    """Reads Inception-v3 as pytorch-fid uses it: its resize and its inputs, in -1..1.

    Raises:
        ConfigError: the file is missing, damaged, or of another network.
    """
    try:
        model, variables, source = inception.read_inception(file)
    except (ValueError, OSError) as error:
        raise ConfigError(problem(_KEY, str(file), str(error))) from error
    protocol = {
        "features": f"pool3 of Inception-v3, {source}",
        "features_file": str(file),
        "features_hash": arrays_hash(*jax.tree.leaves(variables)),
        "resize": "bilinear without antialiasing, corners not aligned, of float images, to "
        f"{INCEPTION_SIZE}x{INCEPTION_SIZE}, as pytorch-fid (clean-fid: bicubic with antialiasing)",
        "classes": f"{model.num_classes} of Inception-v3",
    }
    half = (0.5, 0.5, 0.5)
    return Embedding(
        model,
        variables,
        (INCEPTION_SIZE, INCEPTION_SIZE, 3),
        half,
        half,
        protocol,
        resize="bilinear",
        antialias=False,
        head="fc",
        chunk=INCEPTION_CHUNK,
    )


def _load_classifier(folder: Path, dataset: str) -> Embedding:
    if not (folder / "checkpoints" / "latest").is_dir():
        recipe = next((r for r in ("digits", "cifar") if r in dataset), "imagenet")
        what = (
            f"holds no trained classifier; train one: python train.py --config=configs/{recipe}"
            f"_nest.py --workdir={folder}, or give a file of Inception-v3's weights, or leave it "
            "empty"
        )
        raise ConfigError(problem(_KEY, str(folder), what))
    config = read_config(folder).to_dict()
    if config["task"]["name"] != "classification":
        what = f"a run of task {config['task']['name']!r}"
        raise ConfigError(problem(_KEY, str(folder), what, "a run of task 'classification'"))
    with input_errors():
        data = pipeline.Data(**config["data"])
        model = create_model(**config["model"], num_classes=data.num_classes)
        weights = "ema" if config["task"]["ema_decay"] else "raw"
        variables, report = load_variables(
            folder, model, image_size=data.image_shape, weights=weights, reinit_head="never"
        )
    mean, std = data.statistics
    height, width, _ = data.image_shape
    protocol = {
        "features": f"input of the head, {report.kind}",
        "features_workdir": str(folder),
        "features_hash": arrays_hash(*jax.tree.leaves(variables)),
        "resize": f"bicubic with antialiasing to {height}x{width} where the size differs",
        "classes": f"{data.num_classes} of {config['data']['name']}",
    }
    return Embedding(model, variables, data.image_shape, mean, std, protocol)
