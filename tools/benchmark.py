"""Measures speed.

    python tools/benchmark.py data --config=configs/imagenet_nest.py:tiny
    python tools/benchmark.py data --config=configs/cifar_nest.py:tiny --config.data.num_workers=2
    python tools/benchmark.py data --config=... --data=own --config.data.name=folder:/images
    python tools/benchmark.py generate --generator=nest_generator_base_s64_64 --batch_size=64
    python tools/benchmark.py train --model=nest_tiny_s196_224 --batch_size=8 --against=plain,timm
    python tools/benchmark.py forward --model=tnt_s_patch16_224 --dtype=bfloat16 --batch_size=256
    python tools/benchmark.py train --config=configs/imagenet_nest.py:tiny --data=own
    python tools/benchmark.py scaling --axis=depth
    python tools/benchmark.py restart --config=configs/digits_nest.py

data: images/s of the input pipeline alone, stage by stage, on JPEGs (or 32 x 32 images, for
recipes of that size) that it makes, or with --data=own on the recipe's data set. With TensorFlow
installed, tf.data is measured for comparison; with --against=official --official=FOLDER (a
checkout of the official NesT) its whole ImageNet pipeline as well.

generate: samples/s and multiply-adds of a generator, compared with a TransGAN-style one of the same
widths, depths, heads and parameters, whose attention covers the whole image at every resolution.

forward, train: images/s of a model in evaluation, or of its train step (forward, loss, backward,
AdamW), with compile time, memory, multiply-adds and, on chips whose peak is known
(benchmarks/machine.py), the utilization: images/s x 2 (train: 6) x multiply-adds / peak. The batch
lies on the device; with --config, train is the recipe's own step with its loader, on images made
here or with --data=own on its data set, and the share of time waiting for input is shown. No model
has drop path unless --fields or the recipe say so. --against: plain (kernels="plain"), timm (eager
and compiled), official (with --official=FOLDER, a checkout of the official NesT); float32
parameters, bfloat16 by autocast, all cores of the CPU for each.

scaling: the forward pass on growing images, sequences, depths and batches: the milliseconds of the
quickest of --rounds, and multiply-adds.

restart: seconds from the command of an interrupted run to its first step, with a warm compilation
cache, and what they are spent on.

Other figures are the median over --rounds; measurements take turns, so that a slow minute of the
machine affects all of them. Compiled programs are not taken from the cache. Prints a table, and
writes JSON lines with --output=FILE.
"""

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

import process.first  # noqa: F401

# isort: split

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a GPU is shared with PyTorch

import jax
from absl import flags

from benchmarks import compare_models, jax_steps
from harness import commandline
from harness.arguments import as_field, problem
from harness.errors import ConfigError, input_errors
from harness.files import check_writable, local_path, write_text
from preview.recipe_flag import define_config_flag
from zoo.cost_tables import default_num_classes
from zoo.registry import DTYPES, create_generator


def data(args: flags.FlagValues) -> list[dict]:
    """Images/s of the input pipeline, stage by stage."""
    from benchmarks import input_pipeline  # not on a machine that has little but JAX
    from training import experiment

    if args.config is None:
        raise ConfigError("--config=FILE.py is needed; see --help")
    if args.data == "made":
        made = {"name": "synthetic", "train_split": "train", "eval_split": "test"}
        with args.config.data.ignore_type():
            args.config.data.update(made)  # checked like any other, then replaced
    plain = experiment.check_config(args.config)
    _check_against(args, ["official"])
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
    from benchmarks import generators

    _check_against(args, [])
    with input_errors():
        generator = create_generator(
            args.generator,
            image_size=args.image_size or 64,
            num_channels=3,
            num_classes=None,
            dtype=args.dtype or "float32",
        )
    return generators.run(
        generator,
        batch_size=args.batch_size or 4,
        seconds=args.seconds,
        rounds=args.rounds,
        say=print,
    )


def forward(args: flags.FlagValues) -> list[dict]:
    """Images/s of a model in evaluation."""
    return model(args, "forward")


def train(args: flags.FlagValues) -> list[dict]:
    """Images/s of a train step."""
    return model(args, "train")


def model(args: flags.FlagValues, kind: str) -> list[dict]:
    if (args.config is None) == (args.model is None):
        raise ConfigError("either --model=NAME or --config=FILE.py is needed; see --help")
    _check_against(args, compare_models.AGAINST)
    of_model = ("fields", "dtype", "batch_size", "image_size")
    if args.config and (wrong := [name for name in of_model if getattr(args, name)]):
        raise ConfigError(f"--{wrong[0]} is for --model; a recipe has --config.SECTION.KEY=VALUE")
    with contextlib.ExitStack() as stack, input_errors():
        if args.config is not None:
            made = args.data == "made"
            of_recipe = compare_models.of_recipe(args.config, kind, made=made)
            work, fields, recipe = stack.enter_context(of_recipe)
        else:
            shape = jax_steps.image_shape_of(args.model, args.image_size)
            num_classes, dtype = default_num_classes(shape[0]), args.dtype or "float32"
            work = jax_steps.Work(kind, args.model, args.batch_size or 8, shape, num_classes, dtype)
            fields, recipe = dict(map(as_field, args.fields)), None
        return compare_models.run(
            work,
            fields,
            against=args.against,
            official=args.official and local_path("--official", args.official),
            seconds=args.seconds,
            rounds=args.rounds,
            say=print,
            recipe=recipe,
        )


def scaling(args: flags.FlagValues) -> list[dict]:
    """Cost against image side, sequence length, depth or batch, predicted and measured."""
    from benchmarks import scaling

    _check_against(args, [])
    if unknown := [axis for axis in args.axis if axis not in scaling.AXES]:
        raise ConfigError(problem("--axis", unknown[0], "unknown", ", ".join(scaling.AXES)))
    return scaling.run(args.axis or tuple(scaling.AXES), rounds=args.rounds, say=print)


def restart(args: flags.FlagValues) -> list[dict]:
    """Seconds from the command of an interrupted run to its first step."""
    from benchmarks import restart

    _check_against(args, [])
    if args.config is None:
        raise ConfigError("--config=FILE.py is needed; see --help")
    given = [word for word in sys.argv[1:] if word.lstrip("-").startswith("config")]
    return restart.run(given, rounds=args.rounds, say=print)


def _check_against(args: flags.FlagValues, allowed: Sequence[str]) -> None:
    if unknown := [name for name in args.against if name not in allowed]:
        names = ", ".join(allowed) or "nothing for this command"
        raise ConfigError(problem("--against", unknown[0], "unknown", names))
    if "official" in args.against and not args.official:
        raise ConfigError("--against=official needs --official=FOLDER, a checkout of its code")


COMMANDS = {
    "data": data,
    "generate": generate,
    "forward": forward,
    "train": train,
    "scaling": scaling,
    "restart": restart,
}


def define_flags() -> None:
    define_config_flag()
    flags.DEFINE_enum("data", "made", ["made", "own"], "Made-up images, or the recipe's own.")
    flags.DEFINE_string("generator", "nest_generator_base_s64_64", "Name of the generator.")
    flags.DEFINE_string("model", None, "Name of a model, for forward and train.")
    flags.DEFINE_multi_string("fields", [], "Field of --model, e.g. remat=dots.")
    flags.DEFINE_list("against", [], "Models: plain, timm, official; data: official.")
    flags.DEFINE_string("official", None, "Folder of a checkout of the official NesT.")
    flags.DEFINE_list("axis", [], "Of scaling: image side, sequence length, depth, batch.")
    flags.DEFINE_integer(
        "image_size", None, "Side of the images; None: 64, or the model's.", lower_bound=1
    )
    flags.DEFINE_integer(
        "batch_size", None, "Images; None: 4 generated, 8 for a model.", lower_bound=1
    )
    flags.DEFINE_enum("dtype", None, list(DTYPES), "Type to compute in; None: float32.")
    flags.DEFINE_float("seconds", 3.0, "Length of one measurement.", lower_bound=0.01)
    flags.DEFINE_integer("rounds", 3, "Measurements of each; the median counts.", lower_bound=1)
    flags.DEFINE_string("output", None, "File to write the results to as JSON lines.")


def main(args: flags.FlagValues, command: str) -> None:
    measure = commandline.choose_command(command, COMMANDS)
    output = args.output and local_path("--output", args.output)
    if output:
        check_writable("--output", output)  # before it takes minutes
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are measured
    results = measure(args)
    if output:
        with input_errors():
            write_text(output, "".join(json.dumps(r) + "\n" for r in results))


if __name__ == "__main__":
    commandline.run(define_flags, main, arguments=("|".join(COMMANDS),))
