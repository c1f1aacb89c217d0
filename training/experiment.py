"""From a config to the objects of a run. train.py, evaluate.py and the tools build here."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data import mixing, pipeline, transforms
from training import classification, sharding
from training.checkpoints import Checkpoints
from training.errors import ConfigError, input_errors
from training.models import create_model
from training.optimizers import create_optimizer
from training.sections import check_keys, check_section, check_subsections, unknown_name
from training.task import Task


@dataclasses.dataclass(frozen=True)
class Steps:
    """How long a run is and how often it does what, in steps (updates)."""

    batch_size: int
    per_epoch: float
    total: int
    log: int
    evaluate: int
    save: int

    def due(self, interval: int, step: int) -> bool:
        """True at each multiple of `interval` and at the last step."""
        return step > 0 and (step % interval == 0 or step == self.total)


def plan_steps(
    *,
    num_epochs: float,
    log_every_steps: int,
    evaluate_every_epochs: float,
    save_every_epochs: float,
    num_examples: int,
    batch_size: int,
) -> Steps:
    """Converts epochs to steps; the config's section `loop` are the first four arguments.

    Args:
        num_epochs: passes over the training split; a fraction is fine.
        log_every_steps: steps between two lines of training metrics.
        evaluate_every_epochs: epochs between evaluations; the last step is always evaluated.
        save_every_epochs: epochs between checkpoints; the last step is always saved.
        num_examples: in the training split.
        batch_size: global batch.
    """
    per_epoch = num_examples / batch_size
    for name, value in {
        "num_epochs": num_epochs,
        "log_every_steps": log_every_steps,
        "evaluate_every_epochs": evaluate_every_epochs,
        "save_every_epochs": save_every_epochs,
    }.items():
        if not 0 < value < math.inf:
            raise ConfigError(f"config.loop.{name}={value} must be positive and finite")
    return Steps(
        batch_size=batch_size,
        per_epoch=per_epoch,
        total=max(1, round(num_epochs * per_epoch)),
        log=log_every_steps,
        evaluate=max(1, round(evaluate_every_epochs * per_epoch)),
        save=max(1, round(save_every_epochs * per_epoch)),
    )


@dataclasses.dataclass(frozen=True)
class Experiment:
    """All that a run consists of, before any parameter exists."""

    mesh: Mesh
    data: pipeline.Data
    task: Task
    steps: Steps
    shapes: Any  # pytree of jax.ShapeDtypeStruct, each with its sharding
    train_step: Callable  # jitted, the state is donated
    eval_step: Callable  # jitted
    key: jax.Array  # of the run, replicated

    @property
    def shardings(self) -> Any:
        """Where each array of the state lives."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.shapes)

    def init(self) -> Any:
        """Creates the state of step 0, each array on the devices where it belongs."""
        return jax.jit(self.task.init, out_shardings=self.shardings)(self.key)


def check_classification(config: dict[str, Any]) -> dict[str, Any]:
    """Checks the sections that build_classification reads; returns them with their defaults."""
    task = dict(config["task"])
    name = task.pop("name")
    if "name" not in config["model"]:
        raise ConfigError("config.model lacks name")
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
            provided=("batch_size", "steps_per_epoch", "total_steps"),
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
    optimizer, schedule = create_optimizer(
        **config["optimizer"],
        batch_size=steps.batch_size,
        steps_per_epoch=steps.per_epoch,
        total_steps=steps.total,
    )
    mean, std = data.statistics
    return classification.Classification(
        model=create_model(**config["model"], num_classes=data.num_classes),
        optimizer=optimizer,
        schedule=schedule,
        image_shape=data.image_shape,
        num_classes=data.num_classes,
        mean=mean,
        std=std,
        device_augment=mixing.create_device_augment(config["device_augment"]),
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
}
COMMON_SECTIONS = ("seed", "task", "data", "augment", "mesh", "loop", "checkpoint")


def check_config(config: ConfigDict, *, needs_data: bool = True) -> dict[str, Any]:
    """Checks a whole config without touching a device.

    Args:
        config: the recipe.
        needs_data: whether its data set has to be there.

    Returns:
        The config as plain nested dicts, with the defaults of what it leaves out.

    Raises:
        ConfigError: names the key, the value and what is allowed.
    """
    plain = config.to_dict()
    if "name" not in plain.setdefault("task", {}):
        raise ConfigError("config.task lacks name")
    name = plain["task"]["name"]
    if name not in TASKS:
        raise ConfigError(unknown_name(f"config.task.name={name!r}", str(name), TASKS))
    sections = (*COMMON_SECTIONS, *TASKS[name].sections)
    check_keys(plain, sections, "config")
    plain = {key: {} for key in TASKS[name].optional} | plain
    if missing := [key for key in sections if key not in plain]:
        raise ConfigError(f"config lacks {', '.join(missing)}")
    for key in sections:
        if key != "seed" and not isinstance(plain[key], dict):
            raise ConfigError(f"config.{key}={plain[key]!r} must be a section of keys")
    if type(plain["seed"]) is not int or not 0 <= plain["seed"] < 2**31:
        raise ConfigError(f"config.seed={plain['seed']!r} must be an integer in [0, 2**31)")
    for key, function, provided in (
        ("mesh", sharding.create_mesh, ()),
        ("loop", plan_steps, ("num_examples", "batch_size")),
        ("checkpoint", Checkpoints, ("workdir", "read_only")),
        ("data", pipeline.Data, ("augment", "seed", "sharding", "process_index", "process_count")),
    ):
        plain[key] = check_section(plain[key], function, f"config.{key}", provided=provided)
    plain["augment"] = check_subsections(
        plain["augment"], transforms.TRANSFORMS, "config.augment", provided=("image_size",)
    )
    if plain["checkpoint"]["keep_last"] < 1:
        raise ConfigError(f"config.checkpoint.keep_last={plain['checkpoint']['keep_last']} < 1")
    with input_errors():
        plain |= TASKS[name].check(plain)
        data = pipeline.Data(**plain["data"], augment=plain["augment"])  # checks, reads nothing
        if needs_data:
            data.check_there()
    return plain


def build(config: ConfigDict) -> Experiment:
    """Builds a run from its config: mesh, data, task, then the shapes and shardings of its state.

    Raises:
        ConfigError: anything in the config or the input that can't work.
    """
    plain = check_config(config)
    with input_errors():
        mesh = sharding.create_mesh(**plain["mesh"])
        batch_sharding = sharding.batch_sharding(mesh)
        data = pipeline.Data(
            **plain["data"], augment=plain["augment"], seed=plain["seed"], sharding=batch_sharding
        ).open()
        steps = plan_steps(
            **plain["loop"],
            num_examples=data.num_train_examples,
            batch_size=plain["data"]["batch_size"],
        )
        task = TASKS[plain["task"]["name"]].build(plain, data, steps, mesh)
        best_metric = plain["checkpoint"]["best_metric"]
        if best_metric and best_metric not in task.metric_names():
            raise ConfigError(
                f"config.checkpoint.best_metric={best_metric!r} is none of "
                f"{', '.join(task.metric_names())}; an empty name keeps no best checkpoint"
            )
        # Made on the devices: with several processes none can put it on the others' devices.
        key = jax.jit(jax.random.key, out_shardings=sharding.replicated(mesh))(plain["seed"])
        shapes = jax.eval_shape(task.init, key)
    shardings = sharding.state_shardings(shapes, mesh)
    shapes = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        shardings,
    )
    everywhere = sharding.replicated(mesh)
    return Experiment(
        mesh=mesh,
        data=data,
        task=task,
        steps=steps,
        shapes=shapes,
        train_step=jax.jit(
            task.train_step,
            donate_argnums=0,
            in_shardings=(shardings, batch_sharding, everywhere),
            out_shardings=(shardings, everywhere),
        ),
        eval_step=jax.jit(
            task.eval_step,
            in_shardings=(shardings, batch_sharding),
            out_shardings=everywhere,
        ),
        key=key,
    )
