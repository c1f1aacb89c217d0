"""The flags that name a trained model, each defined once, and what loads the model they name."""

import sys
from pathlib import Path
from typing import Any, get_args

from absl import flags
from flax import linen as nn

from harness.arguments import as_field
from harness.errors import ConfigError, input_errors
from harness.files import check_writable, local_path, run_path
from inference.predictor import Predictor
from preview.recipe_flag import define_config_flag
from training.trained_run import checkpoint_folder, note_differences
from workdirs.config_file import stored_config
from zoo.find import CHECKPOINTS, weights_path
from zoo.fit import Resize
from zoo.load import Report, load_variables
from zoo.registry import create_model, default_image_size

# Flags of a model by name, with their defaults: with --workdir its config says all that.
_SAID_BY_WORKDIR = {"model": None, "fields": [], "num_classes": 1000, "image_size": None}
_SAID_BY_WORKDIR |= {"channels": 3, "input": None, "resize": None, "ignore_fields": []}


def define_run_flags() -> None:
    """Defines --workdir and --checkpoint."""
    flags.DEFINE_string("workdir", None, "Folder of a run whose checkpoint to use.")
    flags.DEFINE_enum("checkpoint", "latest", CHECKPOINTS, "Which of the run's.")


def _define_ema_flag() -> None:
    flags.DEFINE_bool("ema", False, "Use the moving average of the weights.")


def define_recipe_flags() -> None:
    """Defines --workdir, or --config with --weights; see `check_recipe_flags`.

    --config.section.key=value beside --workdir alone changes the run's own config.
    """
    define_run_flags()
    define_config_flag(or_stored=True)
    flags.DEFINE_string(
        "weights", None, "Weights instead of a run's: a path, or a name (tools.weights list)."
    )
    _define_ema_flag()


def define_predictor_flags() -> None:
    """Defines the flags that `load_predictor` reads."""
    define_recipe_flags()
    flags.DEFINE_string(
        "classes", None, "File with one class name per line; None: the names that are known."
    )


def define_image_flags() -> None:
    """Defines --image_size and --channels."""
    flags.DEFINE_list("image_size", None, "Side or height,width in pixels; None: the model's.")
    flags.DEFINE_integer("channels", 3, "Channels of an image.", lower_bound=1)


def define_model_flags() -> None:
    """Defines the flags that `load_model` reads."""
    define_run_flags()
    _define_ema_flag()
    flags.DEFINE_string("input", None, "Weights: a file, a folder, a workdir or a name.")
    flags.DEFINE_string("model", None, "Variant, e.g. nest_base_s196_224 (zoo/registry.py).")
    flags.DEFINE_multi_string(
        "fields", [], "Field of the model that differs from the variant's, e.g. gelu=exact."
    )
    flags.DEFINE_integer("num_classes", 1000, "Classes of the model.")
    define_image_flags()
    flags.DEFINE_enum(
        "resize",
        None,
        get_args(Resize),
        "How position tables of another image size are resized; None: the model's own way.",
    )
    flags.DEFINE_list(
        "ignore_fields", [], "Fields that may differ from what the weights were made with."
    )


def define_output_flags(what: str) -> None:
    """Defines --output, described by `what`, and --overwrite; see `check_output`."""
    flags.DEFINE_string("output", None, what)
    flags.DEFINE_bool("overwrite", False, "Replace the output if it exists.")


def check_recipe_flags(args: flags.FlagValues) -> None:
    """Raises ConfigError unless --workdir, or --weights and --config, say what to use."""
    if (args.workdir is None) == (args.weights is None):
        raise ConfigError("give one of --workdir=FOLDER and --weights=PATH; see --help")
    if args.weights is not None and args.config is None:
        raise ConfigError("--weights needs --config=FILE.py: it names model and data")


def load_predictor(args: flags.FlagValues) -> Predictor:
    """Builds the predictor of the flags; notes on stderr what differs from its training.

    Raises:
        ConfigError: a flag is missing or wrong, or the weights do not fit.
    """
    check_recipe_flags(args)
    if args.workdir is None:
        options = {"checkpoint": args.checkpoint, "ema": args.ema, "classes_file": args.classes}
        weights = weights_path("--weights", args.weights)
        predictor = Predictor.load(weights, args.config, **options)
    else:
        predictor = _of_workdir(args, args.config, args.classes)
    if predictor.report.resized or predictor.report.notes:
        print(predictor.report, file=sys.stderr)
    return predictor


def _of_workdir(args, config=None, classes: str | None = None) -> Predictor:
    workdir = run_path("--workdir", args.workdir)
    trained = stored_config(workdir)
    checkpoint_folder(workdir, args.checkpoint)  # says so if there is none
    if config is not None:
        note_differences(workdir, config)
    options = {"checkpoint": args.checkpoint, "ema": args.ema, "classes_file": classes}
    return Predictor.load(workdir, config or trained, **options)


def load_model(
    args: flags.FlagValues,
) -> tuple[nn.Module, dict[str, Any], Report, tuple[int, int, int]]:
    """Builds the model of the flags and reads its weights.

    Returns:
        The module, its variables, what loading them took, and (height, width, channels) of its
        images.

    Raises:
        ConfigError: a flag is missing or wrong, or the weights do not fit.
    """
    if args.workdir:
        for name, default in _SAID_BY_WORKDIR.items():
            if getattr(args, name) != default:
                raise ConfigError(f"--{name} does not go with --workdir, whose config says it")
        run = _of_workdir(args)
        return run.model, dict(run.variables), run.report, run.image_shape
    for name in ("model", "input"):
        if not getattr(args, name):
            raise ConfigError(f"--{name} is missing; see --help")
    with input_errors():
        fields = dict(map(as_field, args.fields))
        model = create_model(args.model, num_classes=args.num_classes, **fields)
        image_shape = (*as_image_size(args.image_size, args.model), args.channels)
        variables, report = load_variables(
            weights_path("--input", args.input),
            model,
            image_size=image_shape,
            weights="ema" if args.ema else "raw",
            checkpoint=args.checkpoint,
            resize=args.resize,
            reinit_head="never",  # a head of zeros is of no use here
            ignore_fields=args.ignore_fields,
        )
    return model, variables, report, image_shape


def as_image_size(sides: list[str] | None, model: str) -> tuple[int, int]:
    """Returns height and width of a flag --image_size; None: those of the model.

    Raises:
        ValueError: for anything but one or two sides.
    """
    if sides is None:
        return (default_image_size(model),) * 2
    if len(sides) not in (1, 2) or not all(side.isdigit() and int(side) for side in sides):
        raise ValueError(f"--image_size={','.join(sides)}: looks like 224 or 224,320")
    return int(sides[0]), int(sides[-1])


def check_output(path: str | None, suffixes: tuple[str, ...], overwrite: bool) -> Path:
    """Returns the path of a file to write.

    Raises:
        ConfigError: it is missing, has another suffix, cannot be written there, or exists.
    """
    if not path:
        raise ConfigError("--output is missing; see --help")
    file = local_path("--output", path)
    check_writable("--output", file, suffixes)
    if file.exists() and not overwrite:
        raise ConfigError(f"--output={path} exists already; --overwrite replaces it")
    return file
