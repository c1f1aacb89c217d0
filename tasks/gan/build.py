"""The task `gan` from its sections: generator, discriminator, an optimizer for each, and task."""

import sys
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from data import pipeline
from harness.arguments import problem
from harness.errors import ConfigError
from harness.files import local_path
from harness.steps import Steps
from harness.strict_config import check_model_section, check_section, field_errors
from nest.gan.generator import latent_shape
from parallel.sharding import batch_sharding
from tasks.gan.embedding import load_embedding
from tasks.gan.evaluation import GanEvaluator
from tasks.gan.feature_statistics import (
    FeatureStatistics,
    check_count,
    load_statistics,
    real_images,
)
from tasks.gan.networks import GanNetworks
from tasks.gan.options import GanOptions
from tasks.gan.task import Gan
from tasks.optimizers import PROVIDED, create_optimizer
from tasks.protocol import Task
from zoo.registry import create_discriminator, create_generator
from zoo.start import FROM_SCRATCH, INIT_PROVIDED, read_init_from

NETWORKS = ("generator", "discriminator")
GAN_SECTIONS = (*NETWORKS, *(f"{network}_optimizer" for network in NETWORKS))


def check_gan(config: dict[str, Any]) -> dict[str, Any]:
    """Checks the sections that build_gan reads; returns them with their defaults."""
    if config["init_from"] not in (None, FROM_SCRATCH):
        what = "a GAN starts from scratch or continues in its own workdir"
        raise ConfigError(problem("config.init_from", config["init_from"], what))
    _check_unread(config)
    size = config["data"]["image_size"]
    if not isinstance(size, int):
        what = "the images of a GAN are square"
        raise ConfigError(problem("config.data.image_size", size, what, "one number"))
    checked = {
        key: check_model_section(config[key], f"config.{key}", create, num_classes=None, **provided)
        for key, create, provided in (
            ("generator", create_generator, {"image_size": size, "num_channels": 1}),
            ("discriminator", create_discriminator, {}),
        )
    }
    optimizers = {
        key: check_section(config[key], create_optimizer, f"config.{key}", provided=PROVIDED)
        for key in GAN_SECTIONS[2:]
    }
    for key, section in optimizers.items():
        if value := section["layer_decay"]:
            what = "there are no rules for the networks of a GAN"
            raise ConfigError(problem(f"config.{key}.layer_decay", value, what, "0 or None"))
    task = check_section(config["task"], GanOptions, "config.task")
    GanOptions(**task)  # checks the values
    for key in ("features", "statistics"):  # a run may be resumed from another folder
        if task[key]:
            task[key] = str(local_path(f"config.task.{key}", task[key]))
    checkpoint = config["checkpoint"]
    if checkpoint["best_metric"] is None:
        best_metric = "frechet_distance" if task["features"] else ""
        checkpoint = checkpoint | {"best_metric": best_metric}
    return checked | optimizers | {"task": task, "checkpoint": checkpoint}


def build_gan(config: dict[str, Any], data: pipeline.Data, steps: Steps, mesh: Mesh) -> Task:
    """Builds the task of a GAN from its sections.

    Raises:
        ConfigError, ValueError: the parts do not fit each other or the data.
    """
    options = GanOptions(**config["task"])
    if options.conditional and data.dataset.multi_label:
        what = f"images of {data.name!r} have several classes each"
        raise ConfigError(problem("config.task.conditional", True, what, "False"))
    num_classes = data.num_classes if options.conditional else None
    height, _, channels = data.image_shape
    generator = create_generator(
        **config["generator"], image_size=height, num_channels=channels, num_classes=num_classes
    )
    networks = GanNetworks(
        generator=generator,
        discriminator=create_discriminator(**config["discriminator"], num_classes=num_classes),
        latent_shape=latent_shape(generator, 1)[1:],
        image_shape=data.image_shape,
        num_classes=num_classes,
    )
    optimizers = {
        key: create_optimizer(
            **config[f"{key}_optimizer"],
            batch_size=steps.batch_size,
            steps_per_epoch=steps.per_epoch,
            total_steps=steps.total,
            section=f"config.{key}_optimizer",
        )
        for key in NETWORKS
    }
    task = Gan(
        options=options,
        networks=networks,
        optimizers=optimizers,
        evaluator=_create_evaluator(options, networks, data, batch_sharding(mesh)),
        freeze={key: config[f"{key}_optimizer"]["freeze"] for key in NETWORKS},
    )
    _check_batches(task, data)
    return task


def _create_evaluator(
    options: GanOptions, networks: GanNetworks, data: pipeline.Data, sharding: NamedSharding
) -> GanEvaluator:
    """Reads the features and the statistics that `options` name."""
    embedding = statistics = None
    expected = real_images(data)
    key, value, count = "config.data.eval_split", data.eval_split, len(data.eval_source)
    if options.features:
        embedding = load_embedding(
            options.features, num_channels=data.image_shape[-1], dataset=data.name
        )
    if options.statistics:
        if embedding is None:
            what = "needs config.task.features"
            raise ConfigError(problem("config.task.statistics", options.statistics, what))
        statistics = load_statistics(options.statistics, embedding.protocol, embedding.width)
        key, value = "config.task.statistics", options.statistics
        count = statistics.moments.count
        _note_other_images(value, statistics, expected)
    if embedding and not (statistics and statistics.features is None):
        check_count(key, value, count, options.neighbors)
    return GanEvaluator(options, networks, expected, embedding, statistics, sharding)


def _note_other_images(file: str, statistics: FeatureStatistics, expected: dict) -> None:
    """Prints a note if the statistics are not of the evaluation split's images, or may not be."""
    there = statistics.protocol
    other = [
        f"{key} {there.get(key)!r}, not {value!r}"
        for key, value in expected.items()
        if there and there.get(key) != value
    ]
    if (there and not other) or jax.process_index():
        return
    found = ", ".join(other) or "the file does not say of which images"
    note = problem("config.task.statistics", file, f"stands in for the split: {found}")
    print(f"note: {note}", file=sys.stderr)


def _check_unread(config: dict[str, Any]) -> None:
    """Raises ConfigError for values that classification reads and a GAN does not."""
    defaults = check_section({}, read_init_from, "config.init", provided=INIT_PROVIDED)
    for key, value in config["init"].items():
        if value != defaults[key]:
            raise ConfigError(problem(f"config.init.{key}", value, "a GAN starts from no weights"))
    for key in ("mean", "std"):
        if (value := config["data"][key]) is not None:
            what = "images of a GAN are in -1..1"
            raise ConfigError(problem(f"config.data.{key}", value, what, "None"))


def _check_batches(task: Gan, data: pipeline.Data) -> None:
    """Raises ConfigError if the discriminator does not take the batches of either size."""
    with field_errors("config.data"):  # of the image that a network does not take
        shapes = jax.eval_shape(task.init, jax.random.key(0))
    for key, size in (
        ("batch_size", data.batch_size),
        ("eval_batch_size", data.layout.round_up(data.eval_batch_size)),
    ):
        images = jax.ShapeDtypeStruct((size, *data.image_shape), "float32")
        labels = jax.ShapeDtypeStruct((size,), "int32") if task.networks.num_classes else None
        try:
            variables = {"params": shapes.discriminator}
            jax.eval_shape(task.networks.discriminator.apply, variables, images, labels)
        except ValueError as error:
            raise ConfigError(problem(f"config.data.{key}", size, str(error))) from error
