"""Measures speed.

    python tools/benchmark.py data --config=configs/imagenet_nest.py:tiny
    python tools/benchmark.py data --config=configs/cifar_nest.py:tiny --config.data.num_workers=2
    python tools/benchmark.py data --config=... --data=own --config.data.name=folder:/images
    python tools/benchmark.py generate --generator=nest_generator_base_s64_64 --batch_size=64

data: images/s of the input pipeline alone, stage by stage, on JPEGs (or 32 x 32 images, for
recipes of that size) that it makes, or with --data=own on the recipe's data set. With TensorFlow
installed, tf.data is measured for comparison; with --against=official --official=FOLDER (a
checkout of the official NesT) its whole ImageNet pipeline as well.

generate: samples/s and multiply-adds of a generator, compared with a TransGAN-style one of the same
widths, depths, heads and parameters, whose attention covers the whole image at every resolution.

Every figure is the median over --rounds; measurements take turns, so that a slow minute of the
machine affects all of them. Prints a table, and writes JSON lines with --output=FILE.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from absl import flags

from benchmarks import generators, input_pipeline
from harness import commandline
from harness.errors import ConfigError, input_errors
from harness.files import local_path, write_text
from training import experiment
from zoo.registry import DTYPES, create_generator


def data(args: flags.FlagValues) -> list[dict]:
    """Images/s of the input pipeline, stage by stage."""
    if args.config is None:
        raise ConfigError("--config=FILE.py is needed; see --help")
    if args.data == "made":
        made = {"name": "synthetic", "train_split": "train", "eval_split": "test"}
        with args.config.data.ignore_type():
            args.config.data.update(made)  # checked like any other, then replaced
    plain = experiment.check_config(args.config)
    if "official" in args.against and not args.official:
        raise ConfigError("--against=official needs --official=FOLDER, a checkout of its code")
    official = args.official if "official" in args.against else None
    with input_errors():
        return input_pipeline.run(
            plain,
            made=args.data == "made",
            seconds=args.seconds,
            rounds=args.rounds,
            say=print,
            official=official and local_path("--official", official),
        )


def generate(args: flags.FlagValues) -> list[dict]:
    """Samples/s of a generator, compared with a TransGAN-style one of the same size."""
    with input_errors():
        generator = create_generator(
            args.generator,
            image_size=args.image_size,
            num_channels=3,
            num_classes=None,
            dtype=args.dtype,
        )
    return generators.run(
        generator,
        batch_size=args.batch_size,
        seconds=args.seconds,
        rounds=args.rounds,
        say=print,
    )


COMMANDS = {"data": data, "generate": generate}


def define_flags() -> None:
    commandline.define_config_flag()
    flags.DEFINE_enum("data", "made", ["made", "own"], "Made-up images, or the recipe's own.")
    flags.DEFINE_string("generator", "nest_generator_base_s64_64", "Name of the generator.")
    flags.DEFINE_integer("image_size", 64, "Side of the generated images.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 4, "Images generated at a time.", lower_bound=1)
    flags.DEFINE_enum("dtype", "float32", list(DTYPES), "Type that the generators compute in.")
    flags.DEFINE_float("seconds", 3.0, "Length of one measurement.", lower_bound=0.01)
    flags.DEFINE_integer("rounds", 3, "Measurements of each; the median counts.", lower_bound=1)
    flags.DEFINE_list("against", [], "What to compare with: official.")
    flags.DEFINE_string("official", None, "Folder of a checkout of the official NesT.")
    flags.DEFINE_string("output", None, "File to write the results to as JSON lines.")


def main(args: flags.FlagValues, command: str) -> None:
    measure = commandline.choose_command(command, COMMANDS)
    output = args.output and local_path("--output", args.output)
    if output and not output.parent.is_dir():  # before it takes minutes
        raise ConfigError(f"--output={args.output}: there is no such folder")
    results = measure(args)
    if output:
        with input_errors():
            write_text(output, "".join(json.dumps(r) + "\n" for r in results))


if __name__ == "__main__":
    commandline.run(define_flags, main, arguments=("command",))
