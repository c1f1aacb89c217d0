"""The kinds of training that a config can name, and how each is made from its sections."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh

from data import pipeline
from data.augment import mixing
from harness.errors import ConfigError
from harness.steps import Steps
from harness.strict_config import check_model_section, check_section, check_subsections
from tasks import classification
from tasks.gan.build import GAN_SECTIONS, build_gan, check_gan
from tasks.optimizers import create_optimizer, trainable_mask
from tasks.protocol import Task
from zoo.registry import create_model

# What config.task.linear_probe freezes.
ALL_BUT_HEAD = ("^(?!head/)",)


def check_classification(config: dict[str, Any]) -> dict[str, Any]:
    """Checks the sections that build_classification reads; returns them with their defaults."""
    task = dict(config["task"])
    name = task.pop("name")
    check_model_section(config["model"], "config.model")
    create_model(**config["model"], num_classes=1)  # a module is a description: costs nothing
    device_augment = check_subsections(
        config["device_augment"], mixing.DEVICE_AUGMENTS, "config.device_augment"
    )
    mixing.create_device_augment(device_augment)  # likewise
    return {
        "model": config["model"],
        "device_augment": device_augment,
        "optimizer": check_section(
            config["optimizer"],
            create_optimizer,
            "config.optimizer",
            provided=("model", "batch_size", "steps_per_epoch", "total_steps", "section"),
        ),
        "task": {"name": name}
        | check_section(
            task,
            classification.Classification,
            "config.task",
            provided=(
                "model",
                "optimizer",
                "schedule",
                "image_shape",
                "num_classes",
                "mean",
                "std",
                "device_augment",
                "trainable",
            ),
        ),
    }


def build_classification(
    config: dict[str, Any], data: pipeline.Data, steps: Steps, mesh: Mesh
) -> Task:
    """Builds the classification task from its sections and the section task."""
    options = {key: value for key, value in config["task"].items() if key != "name"}
    parts = options["accumulation_steps"]
    if parts > 0 and steps.batch_size % (parts * mesh.size):
        raise ConfigError(
            f"config.data.batch_size={steps.batch_size} must be divisible by "
            f"config.task.accumulation_steps={parts} times the number of devices, {mesh.size}"
        )
    model = create_model(**config["model"], num_classes=data.num_classes)
    freeze = config["optimizer"]["freeze"] + (ALL_BUT_HEAD if options["linear_probe"] else ())
    optimizer, schedule = create_optimizer(
        **config["optimizer"] | {"freeze": freeze},
        model=model,
        batch_size=steps.batch_size,
        steps_per_epoch=steps.per_epoch,
        total_steps=steps.total,
    )
    mean, std = data.statistics
    return classification.Classification(
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        image_shape=data.image_shape,
        num_classes=data.num_classes,
        mean=mean,
        std=std,
        device_augment=mixing.create_device_augment(config["device_augment"]),
        trainable=functools.partial(trainable_mask, freeze=freeze),
        **options,
    )


@dataclasses.dataclass(frozen=True)
class TaskBuilder:
    """How a kind of training is made from its config.

    Attributes:
        sections: names of the sections that only this kind has.
        check: checks its sections and `task`, returns them with their defaults.
        build: makes the Task.
        optional: those of its sections that may be absent, as in runs made before there were any:
            empty then.
    """

    sections: tuple[str, ...]
    check: Callable[[dict[str, Any]], dict[str, Any]]
    build: Callable[[dict[str, Any], pipeline.Data, Steps, Mesh], Task]
    optional: tuple[str, ...] = ()


TASKS = {
    "classification": TaskBuilder(
        ("model", "optimizer", "device_augment"),
        check_classification,
        build_classification,
        optional=("device_augment",),
    ),
    "gan": TaskBuilder(GAN_SECTIONS, check_gan, build_gan),
}
