"""The train steps of tools/compile_for.py: a recipe's, a model's, the official code's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from benchmarks import official_nest
from benchmarks.compiled.report import Step
from benchmarks.compiled.targets import Target
from benchmarks.compiled.unread_data import Sizes, UnreadData
from benchmarks.jax_steps import LEARNING_RATE, train_step, without_drop_path
from harness.errors import input_errors
from kernels.target import compiling_for
from parallel import sharding
from tasks.classification import Classification
from tasks.optimizers import create_optimizer
from training import experiment
from zoo.cost_tables import total
from zoo.costs import count_products, model_costs
from zoo.registry import create_model
from zoo.start import FROM_SCRATCH


def recipe_step(
    config: ConfigDict, target: Target, images: int | None, sizes: Sizes | None, name: str
) -> Step:
    """Returns the train step of a recipe, as `experiment.build` makes it.

    Args:
        config: the recipe; its data set need not be there.
        target: what to compile for.
        images: on each device; None: the recipe's global batch.
        sizes: of its data set; None: known by its name.
        name: of the step.

    Raises:
        ConfigError: what the recipe asks for cannot be, on these devices too.
    """
    config = config.copy_and_resolve_references()
    config.init_from = FROM_SCRATCH  # the weights change nothing
    plain = experiment.check_config(config, needs_data=False)
    mesh = sharding.create_mesh(**plain["mesh"], devices=target.devices)
    if images:
        plain["data"]["batch_size"] = images * mesh.size
    batch_sharding, everywhere = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    with input_errors():
        data = UnreadData(
            **plain["data"],
            augment=plain["augment"],
            seed=plain["seed"],
            sharding=batch_sharding,
            sizes=sizes,
        )
        data.layout.check("config.data.batch_size", data.batch_size)
    key = _key(everywhere)
    run = experiment.assemble(plain, mesh, data, key)
    batch = {
        name: jax.ShapeDtypeStruct(
            (data.batch_size, *row.shape), row.dtype, sharding=batch_sharding
        )
        for name, row in data.form.empty.items()
    }
    model = run.task.model
    return Step(
        name=name,
        lower=lambda: run.train_step.lower(run.shapes, batch, key, run.hyperparameters),
        batch_size=data.batch_size,
        num_devices=mesh.size,
        facts={
            "mesh": dict(mesh.shape),
            "model": plain.get("model"),
            "parameters": _count(run.task.parameters(run.shapes)),
            "image_shape": data.image_shape,
            "num_classes": data.num_classes,
        }
        | ({} if model is None else {"multiply_adds": _multiply_adds(model, data.image_shape)}),
    )


def model_step(
    name: str,
    fields: Mapping[str, Any],
    target: Target,
    images: int,
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    products: bool = False,
) -> Step:
    """Returns the train step of a model without a recipe: AdamW, uint8 images, no augmentation.

    Args:
        name, fields: of the model.
        target: what to compile for; each device holds a copy of the state.
        images: on each device.
        image_shape: of an image.
        num_classes: number of logits.
        products: whether to count the multiply-adds of the whole step, with what the backward pass
            computes again, for "products_per_image".
    """
    with input_errors():
        model = without_drop_path(create_model(name, num_classes=num_classes, **fields), fields)
    mesh = sharding.create_mesh(devices=target.devices)
    batch_sharding, everywhere = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    task = Classification(
        model=model,
        optimizer=create_optimizer(
            base_lr=LEARNING_RATE,
            schedule="constant",
            weight_decay=1e-4,  # as in the others' steps, optax's own
            batch_size=images * mesh.size,
            steps_per_epoch=1.0,
            total_steps=1,
        ),
        image_shape=image_shape,
        num_classes=num_classes,
        mean=(0.0,) * image_shape[-1],
        std=(1.0,) * image_shape[-1],
    )
    key = _key(everywhere)
    state = _placed(jax.eval_shape(task.init, key), everywhere)
    batch = _batch(images * mesh.size, image_shape, batch_sharding)
    facts = {"products_per_image": _products(task, image_shape)} if products else {}
    return Step(
        name=name,
        lower=lambda: jax.jit(task.train_step, donate_argnums=0).lower(
            state, batch, key, task.hyperparameters
        ),
        batch_size=images * mesh.size,
        num_devices=mesh.size,
        facts={
            "mesh": dict(mesh.shape),
            "model": {"name": name, **fields},
            "parameters": _count(state.params),
            "image_shape": image_shape,
            "num_classes": num_classes,
            "multiply_adds": _multiply_adds(model, image_shape),
        }
        | facts,
    )


def official_step(
    folder: Path,
    name: str,
    dtype: str,
    target: Target,
    images: int,
    image_shape: tuple[int, int, int],
    num_classes: int,
) -> Step:
    """Returns the official NesT's train step: AdamW, images in its type, no drop path."""
    kind = jnp.dtype(dtype)
    model = official_nest.load_official(folder, name, num_classes, kind)
    mesh = sharding.create_mesh(devices=target.devices)
    batch_sharding, everywhere = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    optimizer = optax.adamw(LEARNING_RATE)

    def init():
        params = official_nest.init_params(model, image_shape)
        return params, {}, optimizer.init(params)

    state = _placed(jax.eval_shape(init), everywhere)
    batch = _batch(images * mesh.size, image_shape, batch_sharding, kind)
    seed = jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere)
    step = train_step(official_nest.logits_of(model), optimizer)
    return Step(
        name=f"official {name}",
        lower=lambda: jax.jit(step, donate_argnums=0).lower(
            state, batch["image"], batch["label"], seed
        ),
        batch_size=images * mesh.size,
        num_devices=mesh.size,
        facts={
            "mesh": dict(mesh.shape),
            "model": {"name": name, "dtype": dtype, "official": True},
            "parameters": _count(state[0]),
        },
    )


def _key(everywhere: jax.sharding.NamedSharding) -> jax.ShapeDtypeStruct:
    return _placed(jax.eval_shape(lambda: jax.random.key(0)), everywhere)


def _batch(
    size: int, image_shape: tuple, place: Any, kind: Any = jnp.uint8, label_shape: tuple = ()
) -> dict[str, Any]:
    return {
        "image": jax.ShapeDtypeStruct((size, *image_shape), kind, sharding=place),
        "label": jax.ShapeDtypeStruct((size, *label_shape), jnp.int32, sharding=place),
    }


def _placed(shapes: Any, place: jax.sharding.NamedSharding) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes
    )


def _count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _multiply_adds(model: Any, image_shape: tuple[int, int, int]) -> int:
    return total(model_costs(model, image_shape)).multiply_adds


def _products(task: Classification, image_shape: tuple[int, int, int]) -> int:
    """Returns the multiply-adds of a train step on one image, what is computed again included."""
    label_shape = (task.num_classes,) if task.multi_label else ()
    key = jax.eval_shape(lambda: jax.random.key(0))
    batch = {
        "image": jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8),
        "label": jax.ShapeDtypeStruct((1, *label_shape), jnp.int32),
    }
    with compiling_for("any"):
        program = jax.make_jaxpr(task.train_step)(
            jax.eval_shape(task.init, key), batch, key, task.hyperparameters
        )
    return sum(cost.multiply_adds for cost in count_products(program.jaxpr).values())
