"""The kinds of training that a config can name in task.name."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh

from data.annotations.pipeline import BoxData, SegmentData
from data.augment import mixing
from data.pipeline import Data
from detection.detr import create_detector
from harness.steps import Steps
from segmentation.model import create_segmenter
from tasks.build_classification import build_classification, check_classification
from tasks.classification import Classification
from tasks.detection import Detection, build_detection, check_detection
from tasks.gan.build import GAN_SECTIONS, build_gan, check_gan
from tasks.gan.options import GanOptions
from tasks.optimizers import create_optimizer
from tasks.protocol import Task
from tasks.segmentation import Segmentation, build_segmentation, check_segmentation
from zoo.registry import create_discriminator, create_generator, create_model


@dataclasses.dataclass(frozen=True)
class TaskBuilder:
    """How a kind of training is made from its config.

    Attributes:
        sections: names of the sections that only this kind has.
        check: checks its sections and `task` without its name; returns them with their defaults.
        build: makes the Task.
        data: what the section `data` makes: the kind's records and their augmentations.
        functions: section -> what documents its keys: a function or class, or the module that has
            one for each key.
        optional: sections that may be absent, as in runs older than the section: then empty.
    """

    sections: tuple[str, ...]
    check: Callable[[dict[str, Any]], dict[str, Any]]
    build: Callable[[dict[str, Any], Data, Steps, Mesh], Task]
    functions: dict[str, Any]
    data: type[Data] = Data
    optional: tuple[str, ...] = ()


TASKS = {
    "classification": TaskBuilder(
        sections=("model", "optimizer", "device_augment"),
        check=check_classification,
        build=build_classification,
        functions={
            "model": create_model,
            "device_augment": mixing,
            "optimizer": create_optimizer,
            "task": Classification,
        },
        optional=("device_augment",),
    ),
    "segmentation": TaskBuilder(
        sections=("model", "decoder", "optimizer"),
        check=check_segmentation,
        build=build_segmentation,
        data=SegmentData,
        functions={
            "model": create_model,
            "decoder": create_segmenter,
            "optimizer": create_optimizer,
            "task": Segmentation,
        },
    ),
    "detection": TaskBuilder(
        sections=("model", "detector", "optimizer"),
        check=check_detection,
        build=build_detection,
        data=BoxData,
        functions={
            "model": create_model,
            "detector": create_detector,
            "optimizer": create_optimizer,
            "task": Detection,
        },
    ),
    "gan": TaskBuilder(
        sections=GAN_SECTIONS,
        check=check_gan,
        build=build_gan,
        functions={
            "generator": create_generator,
            "discriminator": create_discriminator,
            "generator_optimizer": create_optimizer,
            "discriminator_optimizer": create_optimizer,
            "task": GanOptions,
        },
    ),
}
