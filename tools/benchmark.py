"""Measures speed.

    python tools/benchmark.py data --config=configs/imagenet_nest.py:tiny
    python tools/benchmark.py data --config=configs/cifar_nest.py:tiny --config.data.num_workers=2
    python tools/benchmark.py data --config=... --data=own --config.data.name=folder:/images

data: images/s of the input pipeline alone, stage by stage, on JPEGs (or 32 x 32 images, for
recipes of that size) that it makes, or with --data=own on the recipe's data set. With TensorFlow
installed, tf.data runs beside it.

Every figure is the median over --rounds; the stages take turns, so that a slow minute of the
machine touches all. Prints a table, and JSON lines with --output=FILE.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from absl import flags

from tools import benchmark_data
from training import commandline, experiment
from training.errors import ConfigError, input_errors


def data(args: flags.FlagValues) -> list[dict]:
    """Images/s of the input pipeline, stage by stage."""
    if args.config is None:
        raise ConfigError("--config=FILE.py is needed; see --help")
    if args.data == "made":
        args.config.data.name = "synthetic"  # checked like any other; its place is taken below
        args.config.data.train_split, args.config.data.eval_split = "train", "test"
    plain = experiment.check_config(args.config)
    with input_errors():
        return benchmark_data.run(
            plain,
            made=args.data == "made",
            seconds=args.seconds,
            rounds=args.rounds,
            say=print,
        )


COMMANDS = {"data": data}


def define_flags() -> None:
    commandline.define_config_flag()
    flags.DEFINE_enum("data", "made", ["made", "own"], "Made-up images, or the recipe's own.")
    flags.DEFINE_float("seconds", 3.0, "Length of one measurement.", lower_bound=0.01)
    flags.DEFINE_integer("rounds", 3, "Measurements of each stage.", lower_bound=1)
    flags.DEFINE_string("output", None, "File that gets the results as JSON lines, too.")


def main(args: flags.FlagValues, command: str) -> None:
    results = commandline.choose_command(command, COMMANDS)(args)
    if args.output:
        with input_errors():
            Path(args.output).write_text("".join(json.dumps(result) + "\n" for result in results))


if __name__ == "__main__":
    commandline.run(define_flags, main, arguments=("command",))
