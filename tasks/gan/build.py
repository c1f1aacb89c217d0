"""The task `gan` from its sections: generator, discriminator, an optimizer of each, and task."""

import functools
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from data import pipeline
from harness.errors import ConfigError
from harness.sharding import batch_sharding
from harness.steps import Steps
from harness.strict_config import check_model_section, check_section
from nest.gan.generator import latent_shape
from tasks.gan.task import Gan
from tasks.optimizers import create_optimizer, trainable_mask
from tasks.protocol import Task
from zoo.registry import create_discriminator, create_generator
from zoo.start import FROM_SCRATCH, INIT_PROVIDED, read_init_from

# Networks, with their fields that follow from other sections.
NETWORKS = {
    "generator": ("image_size", "num_channels", "num_classes"),
    "discriminator": ("num_classes",),
}
GAN_SECTIONS = (*NETWORKS, *(f"{network}_optimizer" for network in NETWORKS))

_FROM_LOOP = ("model", "batch_size", "steps_per_epoch", "total_steps", "section")
_FROM_PARTS = (
    "generator",
    "discriminator",
    "latent_shape",
    "generator_optimizer",
    "discriminator_optimizer",
    "generator_schedule",
    "discriminator_schedule",
    "image_shape",
    "num_classes",
    "dataset",
    "trainable",
    "batch_sharding",
)


def check_gan(config: dict[str, Any]) -> dict[str, Any]:
    """Checks the sections that build_gan reads; returns them with their defaults."""
    if config["init_from"] not in (None, FROM_SCRATCH):
        raise ConfigError(
            f"config.init_from={config['init_from']!r}: a GAN starts from scratch or goes on in "
            "its own workdir"
        )
    _check_unread(config)
    for key, provided in NETWORKS.items():
        check_model_section(config[key], f"config.{key}", provided=provided)
    if not isinstance(size := config["data"]["image_size"], int):
        raise ConfigError(f"config.data.image_size={size!r} must be one number: images are square")
    create_generator(**config["generator"], image_size=size, num_channels=1, num_classes=None)
    create_discriminator(**config["discriminator"], num_classes=None)
    task = dict(config["task"])
    name = task.pop("name")
    checked = {
        key: check_section(config[key], create_optimizer, f"config.{key}", provided=_FROM_LOOP)
        for key in GAN_SECTIONS[2:]
    }
    for key, section in checked.items():
        if section["layer_decay"]:
            raise ConfigError(
                f"config.{key}.layer_decay={section['layer_decay']}: there are no rules for the "
                "networks of a GAN; 0: off"
            )
    task = check_section(task, Gan, "config.task", provided=_FROM_PARTS)
    for key in ("features", "statistics"):  # runs go on from anywhere
        if task[key]:
            task[key] = str(Path(task[key]).expanduser().absolute())
    return checked | {key: config[key] for key in NETWORKS} | {"task": {"name": name} | task}


def build_gan(config: dict[str, Any], data: pipeline.Data, steps: Steps, mesh: Mesh) -> Task:
    """Builds the task of a GAN from its sections.

    Raises:
        ConfigError, ValueError: the parts do not fit each other or the data.
    """
    options = {key: value for key, value in config["task"].items() if key != "name"}
    num_classes = data.num_classes if options["conditional"] else None
    height, _, channels = data.image_shape
    generator = create_generator(
        **config["generator"], image_size=height, num_channels=channels, num_classes=num_classes
    )
    discriminator = create_discriminator(**config["discriminator"], num_classes=num_classes)
    parts = {"generator": generator, "discriminator": discriminator}
    for key in NETWORKS:
        parts[f"{key}_optimizer"], parts[f"{key}_schedule"] = create_optimizer(
            **config[f"{key}_optimizer"],
            batch_size=steps.batch_size,
            steps_per_epoch=steps.per_epoch,
            total_steps=steps.total,
            section=f"config.{key}_optimizer",
        )
    task = Gan(
        **parts,
        latent_shape=latent_shape(generator, 1)[1:],
        image_shape=data.image_shape,
        num_classes=data.num_classes,
        dataset=config["data"]["name"],
        trainable=functools.partial(_trainable, config),
        batch_sharding=batch_sharding(mesh),
        **options,
    )
    _check_batches(task, data)
    task.compare_with(data)
    return task


def _check_unread(config: dict[str, Any]) -> None:
    """Raises ConfigError for a value of what classification reads and a GAN does not."""
    defaults = check_section({}, read_init_from, "config.init", provided=INIT_PROVIDED)
    for key, value in config["init"].items():
        if value != defaults[key]:
            raise ConfigError(f"config.init.{key}={value!r}: a GAN starts from no weights")
    for key in ("mean", "std"):
        if (value := config["data"][key]) is not None:
            raise ConfigError(f"config.data.{key}={value!r}: images of a GAN are in -1..1")


def _trainable(config: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """Returns trees of bools for the parameters of both networks: False for what is frozen."""
    sections = {key: f"{key}_optimizer" for key in NETWORKS}
    return {
        key: trainable_mask(params[key], config[section]["freeze"], f"config.{section}")
        for key, section in sections.items()
    }


def _check_batches(task: Gan, data: pipeline.Data) -> None:
    """Raises ConfigError if the discriminator does not take the batches, of whatever size."""
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    for key, size in (
        ("batch_size", data.batch_size),
        ("eval_batch_size", data.layout.round_up(data.eval_batch_size)),
    ):
        images = jax.ShapeDtypeStruct((size, *data.image_shape), "float32")
        labels = jax.ShapeDtypeStruct((size,), "int32") if task.conditional else None
        try:
            variables = {"params": shapes.discriminator}
            jax.eval_shape(task.networks.discriminator.apply, variables, images, labels)
        except ValueError as error:
            raise ConfigError(f"config.data.{key}={size}: {error}") from error
