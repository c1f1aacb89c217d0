"""From a config to the objects of a run. train.py, evaluate.py and the tools build here."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data import pipeline
from harness.arguments import check_range, problem
from harness.errors import ConfigError, input_errors
from harness.files import local_path
from harness.steps import Steps, plan_steps
from harness.strict_config import (
    as_annotated,
    check_keys,
    check_section,
    check_subsections,
    field_errors,
    unknown_name,
)
from parallel import peers, sharding
from saving.checkpoints import Checkpoints
from tasks import by_images
from tasks.protocol import Task
from tasks.skipping import skipping
from tasks.table import TASKS
from training.numeric_faults import NumericFaults
from training.same_everywhere import check_same_everywhere
from zoo.find import weights_path
from zoo.start import FROM_SCRATCH, INIT_PROVIDED, Weights, check_init_from, read_init_from


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
    hyperparameters: Any  # of the task, for train_step
    first_notes: tuple[str, ...]
    read_weights: Callable[[], Weights | None]  # what config.init_from names, see read_init_from

    @property
    def shardings(self) -> Any:
        """Where each array of the state lives."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.shapes)

    def init(self, weights: Weights | None = None) -> Any:
        """Creates the state of step 0, each array on the devices where it belongs.

        Args:
            weights: to start from, as `load_variables` returns them; None: drawn at random.
        """
        state = jax.jit(self.task.init, out_shardings=self.shardings)(self.key)
        if weights is None:
            return state
        return jax.jit(self.task.with_variables, out_shardings=self.shardings)(state, weights[0])

    def records_of(self, step: int) -> list[int]:
        """Returns the numbers, in the training split, of the records in the batch of a step.

        Where an image cannot be read, another one stands in for it.
        """
        size = self.steps.batch_size
        return [int(self.data.train_order[i]) for i in range((step - 1) * size, step * size)]

    def notes(self, weights: Weights | None) -> list[str]:
        """Returns what a person should see when the run starts."""
        sizes = [leaf.size for leaf in jax.tree.leaves(self.task.parameters(self.shapes))]
        trained = jax.tree.leaves(self.task.trainable(self.shapes))
        count = sum(size for size, is_trained in zip(sizes, trained, strict=True) if is_trained)
        parameters = f"{count:,} of {sum(sizes):,} parameters are trained; see parameters.txt"
        loaded = str(weights[1]) if weights else ""
        notes = (*self.task.notes, *self.first_notes, *self.data.dataset.notes)
        return [*([loaded] if loaded else []), parameters, *notes]


# Arguments of pipeline.Data that the code gives rather than the section `data`.
DATA_PROVIDED = (
    *("augment", "seed", "class_names", "among"),
    *("sharding", "process_index", "process_count"),
)
FAULTS_PROVIDED = ("records_of", "workdir", "skipped", "losses")  # the same of NumericFaults
# Section -> the function whose keyword arguments it holds, without those that the code gives.
FUNCTIONS = (
    ("init", read_init_from, INIT_PROVIDED),
    ("mesh", sharding.create_mesh, ("devices",)),
    ("sharding", sharding.state_shardings, ("shapes", "mesh")),
    ("loop", plan_steps, ("num_examples", "batch_size")),
    ("checkpoint", Checkpoints, ("workdir", "is_good", "measured_with", "read_only")),
    ("faults", NumericFaults, FAULTS_PROVIDED),
)
VALUES = {"seed": int, "init_from": str | None}  # the keys that are no sections
SECTIONS = ("init", "task", "data", "augment", "mesh", "sharding", "loop", "checkpoint", "faults")
COMMON_SECTIONS = (*VALUES, *SECTIONS)
# What runs of earlier versions lack.
ADDED = {"init_from": None, "init": {}, "sharding": {}, "faults": {}}


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
    check_keys(plain.setdefault("task", {}), plain["task"], "config.task", required=("name",))
    name = as_annotated(plain["task"].pop("name"), str)
    if name not in list(TASKS):  # a list, because the name may be anything, also unhashable
        raise ConfigError(unknown_name(f"config.task.name={name!r}", name, TASKS))
    sections = (*COMMON_SECTIONS, *TASKS[name].sections)
    plain = ADDED | {key: {} for key in TASKS[name].optional} | plain
    check_keys(plain, sections, "config", required=sections)
    for key, expected in VALUES.items():
        plain[key] = as_annotated(plain[key], expected)
    if type(plain["seed"]) is not int or not 0 <= plain["seed"] < 2**31:
        raise ConfigError(problem("config.seed", plain["seed"], "wrong", "an integer in [0, 2^31)"))
    check_init_from(plain["init_from"])
    for key, function, provided in FUNCTIONS:
        plain[key] = check_section(plain[key], function, f"config.{key}", provided=provided)
    kind = TASKS[name].data
    plain["data"] = check_section(plain["data"], kind, "config.data", provided=DATA_PROVIDED)
    plain["augment"] = check_subsections(
        plain["augment"], kind.augmentations, "config.augment", provided=("image_size",)
    )
    if plain["init_from"] not in (None, "", FROM_SCRATCH):
        plain["init_from"] = str(weights_path("config.init_from", plain["init_from"]))
    with input_errors():
        check_range("config.checkpoint.keep_last", plain["checkpoint"]["keep_last"], 1)
        NumericFaults(**plain["faults"], records_of=lambda step: [], workdir=Path())
        plain["data"]["name"] = kind.catalogue.absolute_name(plain["data"]["name"])
        if plain["data"]["data_dir"]:
            data_dir = local_path("config.data.data_dir", plain["data"]["data_dir"])
            plain["data"]["data_dir"] = str(data_dir)
        plain |= TASKS[name].check(plain)
        plain = by_images.complete(plain, kind, needs_data=needs_data)
        plain["task"] = {"name": name} | plain["task"]
        data = kind(**plain["data"], augment=plain["augment"])  # checks, reads nothing
        if needs_data:
            data.check_there()
    return plain


def build(
    config: ConfigDict,
    *,
    plain: dict[str, Any] | None = None,
    training: bool = True,
    class_names: tuple[str, ...] | None = None,
    among: pipeline.Among = "named",
) -> Experiment:
    """Builds a run from its config: mesh, data, task, then the shapes and shardings of its state.

    Args:
        config: the recipe.
        plain: of check_config(config), where that is known: it may walk through all images.
        training: whether the training split has to be there; without it there is nothing to plan,
            and `steps` are of one batch per epoch.
        class_names: of a trained model, in whose order the labels are put, by name.
        among: which classes an answer in evaluation can be, see pipeline.Data.

    Raises:
        ConfigError: anything in the config or the input that can't work.
    """
    plain = check_config(config) if plain is None else plain
    with input_errors():
        mesh = sharding.create_mesh(**plain["mesh"])
        data = (
            TASKS[plain["task"]["name"]]
            .data(
                **plain["data"],
                augment=plain["augment"],
                seed=plain["seed"],
                class_names=class_names,
                among=among,
                sharding=sharding.batch_sharding(mesh),
            )
            .open(training=training)
        )
    check_same_everywhere(plain, data, training=training)
    data.bad.deferred = peers.current() is not None
    # Made on the devices: with several processes none can put it on the others' devices.
    key = jax.jit(jax.random.key, out_shardings=sharding.replicated(mesh))(plain["seed"])
    run = assemble(plain, mesh, data, key, training=training)
    notes = by_images.chosen(config.to_dict(), plain, data.num_train_examples) if training else ()
    on_devices = jax.jit(lambda x: x, out_shardings=sharding.replicated(mesh))
    return dataclasses.replace(
        run,
        first_notes=(*notes, *run.first_notes),
        hyperparameters=on_devices(run.hyperparameters),
    )


def assemble(
    plain: dict[str, Any],
    mesh: Mesh,
    data: pipeline.Data,
    key: jax.Array | jax.ShapeDtypeStruct,
    *,
    training: bool = True,
) -> Experiment:
    """Puts a run together from its parts; nothing is read, and nothing runs on a device.

    Args:
        plain: from check_config.
        mesh: from create_mesh.
        data: with a sharding on the mesh.
        key: of the run; its shape, dtype and sharding suffice to compile.
        training: as in build.

    Raises:
        ConfigError: as build.
    """
    batch_sharding = sharding.batch_sharding(mesh)
    plain = plain | {"task": dict(plain["task"])}
    with input_errors():
        steps = plan_steps(
            **plain["loop"],
            num_examples=data.num_train_examples if training else plain["data"]["batch_size"],
            batch_size=plain["data"]["batch_size"],
        )
        task = TASKS[plain["task"].pop("name")].build(plain, data, steps, mesh)
        best_metric = plain["checkpoint"]["best_metric"]
        if best_metric and best_metric not in task.metric_names():
            what = f"config.checkpoint.best_metric={best_metric!r}"
            hint = "an empty name keeps no best checkpoint"
            raise ConfigError(f"{unknown_name(what, best_metric, task.metric_names())}; {hint}")
        with field_errors("config.data"):  # of the image that the model does not take
            shapes = jax.eval_shape(task.init, key)
    shardings = sharding.state_shardings(shapes, mesh, **plain["sharding"])
    notes = sharding.left_whole(task.parameters(shapes), mesh, **plain["sharding"])
    shapes = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        shardings,
    )
    everywhere = sharding.replicated(mesh)
    train_step = task.train_step
    if plain["faults"]["max_skipped_updates"]:
        train_step = skipping(task.train_step, task.skip)
    return Experiment(
        mesh=mesh,
        data=data,
        task=task,
        steps=steps,
        shapes=shapes,
        train_step=jax.jit(
            train_step,
            donate_argnums=0,
            in_shardings=(shardings, batch_sharding, everywhere, everywhere),
            out_shardings=(shardings, everywhere),
        ),
        eval_step=jax.jit(
            task.eval_step,
            in_shardings=(shardings, batch_sharding, everywhere),
            out_shardings=everywhere,
        ),
        key=key,
        hyperparameters=task.hyperparameters,
        first_notes=tuple(notes),
        read_weights=functools.partial(
            read_init_from,
            plain["init_from"],
            task.model,
            **plain["init"],
            image_shape=data.image_shape,
            class_names=data.dataset.class_names,
            seed=plain["seed"],
        ),
    )
