"""Measures a model in turns with timm's and the official code's, for tools/benchmark.py."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import jax_steps, model_speed, timm_models
from benchmarks.jax_steps import Work
from benchmarks.model_speed import Contender
from zoo.cost_tables import total
from zoo.costs import model_costs

PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "timm")
AGAINST = ("plain", "timm", "official")


def run(
    work: Work,
    fields: Mapping[str, Any],
    *,
    against: Sequence[str],
    official: Path | None,
    seconds: float,
    rounds: int,
    say: Callable[[str], None],
    recipe: tuple[Any, Contender] | None = None,
) -> list[dict[str, Any]]:
    """Measures ours and what it is compared with.

    Args:
        work: what all do.
        fields: of our model, over the variant's.
        against: of AGAINST: "plain" is ours with kernels="plain".
        official: folder of the official NesT's checkout.
        seconds, rounds: see model_speed.measure.
        say: prints a line.
        recipe: a run and its step, which takes the place of ours.

    Returns:
        Records ready for JSON, ours first.

    Raises:
        ConfigError, ValueError: a model or a field is unknown, or the others are not installed.
    """
    if recipe:
        model, contenders = recipe[0].task.model, [recipe[1]]
    else:
        model = jax_steps.create_measured(work, fields)
        contenders = [jax_steps.ours(work, fields)]
    contenders += _others(work, fields, against, official)
    facts = {
        "model": work.model,
        "fields": dict(fields),
        "image_shape": work.image_shape,
        "dtype": work.dtype,
        "num_devices": recipe[0].mesh.size if recipe else 1,
        "threads": timm_models.num_threads() if jax.default_backend() == "cpu" else None,
        "versions": model_speed.versions(*PACKAGES),
    }
    multiply_adds = total(model_costs(model, work.image_shape)).multiply_adds if model else None
    device = jax.devices()[0].device_kind
    threads = f", {facts['threads']} threads" if facts["threads"] else ""
    height, width, _ = work.image_shape
    say(
        f"{work.kind} of {work.model}, {height} x {width} pixels, batches of {work.batch_size}, "
        f"{work.dtype}, {device}{threads}"
    )
    say(", ".join(f"{name} {version}" for name, version in facts["versions"].items()))
    if multiply_adds:
        say(f"{multiply_adds / 1e9:.2f} G multiply-adds an image forward")
    records = model_speed.measure(
        contenders,
        kind=work.kind,
        batch_size=work.batch_size,
        multiply_adds=multiply_adds,
        seconds=seconds,
        rounds=rounds,
        facts=facts,
    )
    for record in records:
        say(model_speed.as_text(record))
    if ratio := model_speed.ratio_text(records):
        say(ratio)
    return records


def _others(
    work: Work, fields: Mapping[str, Any], against: Sequence[str], official: Path | None
) -> Iterator[Contender]:
    if "plain" in against:
        yield jax_steps.ours(work, {**fields, "kernels": "plain"}, "ours, plain")
    if "official" in against:
        yield jax_steps.official(work, official)
    if "timm" in against:
        yield from timm_models.contenders(work)


@contextlib.contextmanager
def of_recipe(
    config: Any, kind: str, *, made: bool
) -> Iterator[tuple[Work, dict[str, Any], tuple[Any, Contender] | None]]:
    """Yields what a recipe asks for: the work, the model's fields and, to train, its run and step.

    In evaluation a data set that does not ship with the code counts as 1000 classes in colour.

    Raises:
        ConfigError: the recipe is wrong, or has no model.
    """
    from benchmarks.recipe_speed import open_recipe
    from data.datasets import BUILT_IN
    from harness.arguments import as_height_width, problem
    from harness.errors import ConfigError
    from training.experiment import check_config

    plain = check_config(config, needs_data=kind == "train" and not made)
    if "model" not in plain:
        name = plain["task"]["name"]
        raise ConfigError(problem("config.task.name", name, "has no config.model to measure"))
    fields = dict(plain["model"])
    size = as_height_width("config.data.image_size", plain["data"]["image_size"])
    ships = BUILT_IN.get(plain["data"]["name"])
    channels, num_classes = (ships().num_channels, ships().num_classes) if ships else (3, 1000)
    work = Work(
        kind=kind,
        model=fields.pop("name"),
        batch_size=plain["data"]["batch_size"],
        image_shape=(*size, channels),
        num_classes=num_classes,
        dtype=fields.pop("dtype", "float32"),
    )
    if kind == "forward":
        yield work, fields, None
        return
    with open_recipe(config, made=made) as (run_, contender):
        data = run_.data
        shape, num_classes = data.image_shape, data.num_classes
        work = dataclasses.replace(work, image_shape=shape, num_classes=num_classes)
        yield work, fields, (run_, contender)
