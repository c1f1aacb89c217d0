"""The task `classification` from its sections: model, optimizer, device_augment and task."""

from typing import Any

from jax.sharding import Mesh

from data import pipeline
from data.augment import mixing
from harness.steps import Steps
from harness.strict_config import check_model_section, check_section, check_subsections
from tasks.classification import Classification
from tasks.optimizers import PROVIDED, create_optimizer
from tasks.protocol import Task
from tasks.supervised import build_optimizer
from zoo.registry import create_model

ALL_BUT_HEAD = ("^(?!head/)",)  # what config.task.linear_probe freezes
# Arguments of Classification that the code gives, not the config.
FROM_PARTS = (
    *("model", "optimizer", "freeze", "device_augment"),
    *("image_shape", "num_classes", "multi_label", "answers", "mean", "std"),
)


def check_classification(config: dict[str, Any]) -> dict[str, Any]:
    """Checks the sections that build_classification reads; returns them with their defaults."""
    model = check_model_section(config["model"], "config.model", create_model, num_classes=1)
    device_augment = check_subsections(
        config["device_augment"], mixing.DEVICE_AUGMENTS, "config.device_augment"
    )
    mixing.create_device_augment(device_augment)
    return {
        "model": model,
        "device_augment": device_augment,
        "optimizer": check_section(
            config["optimizer"], create_optimizer, "config.optimizer", provided=PROVIDED
        ),
        "task": check_section(config["task"], Classification, "config.task", provided=FROM_PARTS),
    }


def build_classification(
    config: dict[str, Any], data: pipeline.Data, steps: Steps, mesh: Mesh
) -> Task:
    """Builds the task of a classification from its sections."""
    task, freeze = config["task"], config["optimizer"]["freeze"]
    model = create_model(**config["model"], num_classes=data.num_classes)
    freeze += ALL_BUT_HEAD if task["linear_probe"] else ()
    optimizer = build_optimizer(config, model, steps, mesh, freeze)
    mean, std = data.statistics
    return Classification(
        model=model,
        optimizer=optimizer,
        image_shape=data.image_shape,
        num_classes=data.num_classes,
        multi_label=data.dataset.multi_label,
        answers=data.answers,
        mean=mean,
        std=std,
        device_augment=mixing.create_device_augment(config["device_augment"], steps.batch_size),
        freeze=freeze,
        **task,
    )
