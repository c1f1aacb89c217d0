"""Flags that name a recipe and its weights, for the tools that run or export a whole predictor."""

import sys
from pathlib import Path

from absl import flags

from harness import commandline, workdirs
from harness.errors import ConfigError
from inference.predict import Predictor, build_predictor
from training.experiment import check_config


def define_predictor_flags() -> None:
    """Defines --workdir, or --config with --weights, and how to read them."""
    commandline.define_config_flag()
    flags.DEFINE_string("workdir", None, "Folder of a run whose checkpoint to use.")
    flags.DEFINE_enum("checkpoint", "latest", ["latest", "best"], "Which of the run's.")
    flags.DEFINE_string("weights", None, "Weights to use instead of a run's checkpoint.")
    flags.DEFINE_bool("ema", False, "Use the moving average of the weights.")
    flags.DEFINE_string("classes", None, "File with a class name a line; None: see above.")


def load_predictor(args: flags.FlagValues) -> Predictor:
    """Builds the predictor of the flags; says on stderr what is not as it was trained.

    Raises:
        ConfigError: a flag is missing or wrong, or the weights do not fit.
    """
    if (args.workdir is None) == (args.weights is None):
        raise ConfigError("give one of --workdir=FOLDER and --weights=PATH; see --help")
    if args.weights is not None and args.config is None:
        raise ConfigError("--weights needs --config=FILE.py: it names model and preprocessing")
    config = args.config
    if args.workdir is not None:
        trained = workdirs.read_config(Path(args.workdir))
        config = config or trained
        configs = (check_config(each, needs_data=False) for each in (trained, config))
        for change in workdirs.config_differences(*configs):
            print(f"note: not as trained: {change}", file=sys.stderr)
    predictor = build_predictor(
        config,
        args.weights or args.workdir,
        checkpoint=args.checkpoint,
        ema=args.ema,
        classes_file=args.classes,
    )
    if predictor.report.resized or predictor.report.notes:
        print(predictor.report, file=sys.stderr)
    return predictor
