"""Flags that name a model and its weights, for the tools that convert, export or run one."""

import ast
import dataclasses
import re
from pathlib import Path
from typing import Any

from absl import flags
from flax import linen as nn

from harness.errors import ConfigError, input_errors
from harness.workdirs import read_config
from inference.predict import build_predictor
from zoo.load import Report, load_variables
from zoo.registry import create_model


@dataclasses.dataclass(frozen=True)
class NamedModel:
    """A model, its weights and the images that it takes.

    Attributes:
        model: the module.
        variables: {"params": tree} and other collections.
        report: what loading them took.
        image_shape: (height, width, channels).
    """

    model: nn.Module
    variables: dict[str, Any]
    report: Report
    image_shape: tuple[int, int, int]


# What a run's config tells: flag -> its default
_TOLD_BY_WORKDIR = {"model": None, "fields": [], "num_classes": 1000, "image_size": None}
_TOLD_BY_WORKDIR |= {"channels": 3, "input": None, "resize": None, "ignore_fields": []}


def define_model_flags() -> None:
    """Defines --model and what else its shape depends on, --input and how to read it."""
    flags.DEFINE_string(
        "workdir", None, "Folder of a run, whose config tells model, image size, classes, channels."
    )
    flags.DEFINE_string("model", None, "Variant, e.g. nest_base_s196_224 (zoo/registry.py).")
    flags.DEFINE_multi_string(
        "fields", [], "Field of the model that differs from the variant's, e.g. gelu=exact."
    )
    flags.DEFINE_integer("num_classes", 1000, "Classes of the model.")
    flags.DEFINE_list("image_size", None, "Side or height,width in pixels; None: the model's.")
    flags.DEFINE_integer("channels", 3, "Channels of an image.", lower_bound=1)
    flags.DEFINE_string("input", None, "Weights: a file, a folder or a workdir.")
    flags.DEFINE_bool("ema", False, "Use the moving average of the weights.")
    flags.DEFINE_enum("checkpoint", "latest", ["latest", "best"], "Which of a workdir's.")
    flags.DEFINE_enum(
        "resize",
        None,
        ["linear", "bicubic", "linear_in_blocks"],
        "How position tables of another image size are resized; None: the model's own way.",
    )
    flags.DEFINE_list(
        "ignore_fields", [], "Fields that may differ from what the weights were made with."
    )


def load_named_model(args: flags.FlagValues) -> NamedModel:
    """Builds the model of the flags and reads its weights.

    Raises:
        ConfigError: a flag is missing or wrong, or the weights do not fit.
    """
    if args.workdir:
        return _of_workdir(args)
    for name in ("model", "input"):
        if not getattr(args, name):
            raise ConfigError(f"--{name} is missing; see --help")
    with input_errors():
        model = create_model(
            args.model, num_classes=args.num_classes, **dict(map(_field, args.fields))
        )
        image_shape = (*as_image_size(args.image_size, args.model), args.channels)
        variables, report = load_variables(
            args.input,
            model,
            image_size=image_shape,
            weights="ema" if args.ema else "raw",
            checkpoint=args.checkpoint,
            resize=args.resize,
            reinit_head="never",  # a head of zeros is of no use here
            ignore_fields=args.ignore_fields,
        )
    return NamedModel(model, variables, report, image_shape)


def _of_workdir(args: flags.FlagValues) -> NamedModel:
    for name, default in _TOLD_BY_WORKDIR.items():
        if getattr(args, name) != default:
            raise ConfigError(f"--{name} does not go with --workdir, whose config tells it")
    workdir = Path(args.workdir).expanduser()
    run = build_predictor(read_config(workdir), workdir, checkpoint=args.checkpoint, ema=args.ema)
    return NamedModel(run.model, dict(run.variables), run.report, run.image_shape)


def _field(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--fields={text}: looks like --fields=gelu=exact")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value  # a word


def default_size(name: str) -> int:
    """Returns the side of the images that a variant is made for: most names end with it."""
    number = re.search(r"_(\d+)$", name)
    if name.startswith("wrn"):
        return 32
    return int(number[1]) if number else 224


def as_image_size(sides: list[str] | None, name: str) -> tuple[int, int]:
    """Returns the height and the width of a flag --image_size, of the model's name without one.

    Raises:
        ValueError: for anything but one or two sides.
    """
    if sides is None:
        return (default_size(name),) * 2
    if len(sides) not in (1, 2) or not all(side.isdigit() and int(side) for side in sides):
        raise ValueError(f"--image_size={','.join(sides)}: looks like 224 or 224,320")
    return int(sides[0]), int(sides[-1])


def check_output(path: str | None, suffixes: tuple[str, ...], overwrite: bool) -> Path:
    """Returns the path of a file to write.

    Raises:
        ConfigError: it is missing, has another suffix, its folder does not exist, or it exists.
    """
    if not path:
        raise ConfigError("--output is missing; see --help")
    file = Path(path).expanduser()
    if file.suffix not in suffixes:
        raise ConfigError(f"--output={path}: the name must end with {' or '.join(suffixes)}")
    if not file.parent.is_dir():
        raise ConfigError(f"--output={path}: the folder {file.parent} does not exist")
    if file.exists() and not overwrite:
        raise ConfigError(f"--output={path} exists already; --overwrite replaces it")
    return file
