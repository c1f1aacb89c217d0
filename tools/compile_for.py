"""Compiles a train step for a GPU or a TPU slice on a machine without it, and says what it takes.

    python tools/compile_for.py --topology=v5e:4x4 --config=configs/imagenet_nest.py:tiny \
        --config.model.dtype=bfloat16
    python tools/compile_for.py --topology=h100 --model=nest_tiny_s196_224 --batch_size=64
    python tools/compile_for.py --topology=v5e:4x4 --model=tnt_s_patch16_224 --batch_size=64 \
        --max_batch
    python tools/compile_for.py --topology=h100 --model=nest_tiny_s196_224 --batch_size=64 \
        --against=plain,official --official=/src/nested-transformer

--config compiles a recipe as train.py would run it, with its mesh, sharding, type, device
augmentation and moving average; its data set need not be there. --model compiles a model's own
step: uint8 images, loss, gradient, AdamW, in bfloat16, without drop path; --fields=NAME=VALUE sets
its fields. --batch_size is the number of images on each device; a recipe has its own.

Printed, for one device: memory and whether it fits; the bytes that kernels read and write for an
image (benchmarks/compiled/hlo.py says how they are counted); operations; what memory and arithmetic
allow at most; the collectives; the heaviest kernels, those of equal layers together. --against adds
the same with kernels="plain", or of the official NesT. --max_batch searches the largest batch that
fits.

Needs an environment of its own: pip install -r requirements-compile.txt
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

import process.first  # noqa: F401

# isort: split

from benchmarks.compiled import targets

targets.prepare_environment()  # before jax is imported

import json
from collections.abc import Callable

from absl import flags

from benchmarks.compiled import report
from benchmarks.compiled import steps as steps_of
from benchmarks.compiled.unread_data import Sizes
from benchmarks.official_nest import SOURCE
from harness import commandline
from harness.arguments import as_field, problem
from harness.errors import ConfigError, input_errors
from harness.files import check_writable, local_path
from inference.flags import as_image_size
from preview.recipe_flag import define_config_flag
from zoo.cost_tables import default_num_classes


def define_flags() -> None:
    define_config_flag()
    flags.DEFINE_string("topology", None, "h100, or a TPU slice such as v5e:4x4.")
    flags.DEFINE_string("model", None, "A model without a recipe.")
    flags.DEFINE_multi_string("fields", [], "Field of --model, e.g. remat=dots.")
    flags.DEFINE_list("image_size", None, "Of --model: side, or height,width.")
    batch_help = "Images on each device; where --max_batch begins its search."
    flags.DEFINE_integer("batch_size", None, batch_help, lower_bound=1)
    flags.DEFINE_bool("products", False, "Of --model: count what a step computes, also again.")
    flags.DEFINE_bool("max_batch", False, "Search the largest batch that fits.")
    flags.DEFINE_integer("granularity", 8, "Images, of --max_batch.", lower_bound=1)
    flags.DEFINE_list("against", [], "plain, official or both.")
    flags.DEFINE_string("official", None, "Folder of a checkout of the official NesT.")
    flags.DEFINE_integer("num_examples", None, "Images of a training split that is not known.")
    flags.DEFINE_integer("num_classes", None, "Of a data set that is not known, or of --model.")
    flags.DEFINE_integer("channels", 3, "Likewise.", lower_bound=1)
    flags.DEFINE_integer("top", 12, "How many kernels to list.", lower_bound=0)
    flags.DEFINE_string("hlo", None, "File to write the compiled program to.")
    flags.DEFINE_string("output", None, "File to append the results to as JSON lines.")


def main(args: flags.FlagValues) -> None:
    if args.topology is None:
        raise ConfigError(f"--topology is missing; allowed: {targets.ALLOWED}")
    if (args.config is None) == (args.model is None):
        raise ConfigError("either --config=FILE.py or --model=NAME is needed; see --help")
    if unknown := [name for name in args.against if name not in ("plain", "official")]:
        raise ConfigError(problem("--against", unknown[0], "unknown", "plain, official"))
    if args.model and not (args.batch_size or args.max_batch):
        raise ConfigError("--batch_size is missing: images on each device")
    files = {name: getattr(args, name) for name in ("hlo", "output")}
    files = {name: path and local_path(f"--{name}", path) for name, path in files.items()}
    for name, path in files.items():
        if path:
            check_writable(f"--{name}", path)  # before it takes minutes
    target = targets.open_target(args.topology)
    for code, step_of in steps(args, target).items():
        if args.max_batch:
            print(f"{code}: the largest batch for {args.topology}", flush=True)
            record = report.largest_batch(
                step_of,
                target,
                granularity=args.granularity,
                first=args.batch_size,
                say=lambda line: print(line, flush=True),
            )
        else:
            hlo = files["hlo"] if code == "ours" else None
            record = report.measure(step_of(args.batch_size), target, top=args.top, hlo_path=hlo)
        record = {"code": code, **record}
        print(f"{code}: {report.as_text(record)}\n", flush=True)
        if files["output"]:
            with input_errors(), files["output"].open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


def steps(args: flags.FlagValues, target: targets.Target) -> dict[str, Callable]:
    """Returns whose code -> (images on each device, None for a recipe's -> its step)."""
    ours = recipe_steps(args, target) if args.config else model_steps(args, target)
    made = {"ours": ours("auto")}
    if "plain" in args.against:
        made["plain"] = ours("plain")
    if "official" in args.against:
        if not args.official:
            raise ConfigError(f"--against=official needs --official=FOLDER, from {SOURCE}")

        def official(images: int | None) -> report.Step:
            step = made["ours"](images)
            model = step.facts["model"] or {}
            return steps_of.official_step(
                local_path("--official", args.official),
                model.get("name", step.name),
                model.get("dtype", "float32"),
                target,
                step.batch_size // step.num_devices,
                step.facts["image_shape"],
                step.facts["num_classes"],
            )

        made["official"] = official
    return made


def recipe_steps(args: flags.FlagValues, target: targets.Target) -> Callable:
    """Returns kernels -> (images -> the step of --config)."""
    sizes = None
    if args.num_classes and args.num_examples:
        sizes = Sizes(args.num_classes, args.channels, {"train": args.num_examples})
    if wrong := [name for name in ("fields", "image_size") if getattr(args, name)]:
        raise ConfigError(f"--{wrong[0]} is for --model; a recipe has --config.model.NAME=VALUE")

    def of(kernels: str) -> Callable:
        config = args.config.copy_and_resolve_references()
        if kernels == "plain":
            if "model" not in config:
                raise ConfigError("--against=plain: this recipe has no config.model")
            config.model.kernels = kernels
        name = flags.FLAGS["config"].recipe
        return lambda images: steps_of.recipe_step(config, target, images, sizes, name)

    return of


def model_steps(args: flags.FlagValues, target: targets.Target) -> Callable:
    """Returns kernels -> (images -> the step of --model)."""
    with input_errors():
        fields = dict(map(as_field, args.fields))
        height, width = as_image_size(args.image_size, args.model)
    shape = (height, width, args.channels)
    num_classes = args.num_classes or default_num_classes(max(height, width))

    def of(kernels: str) -> Callable:
        chosen = (
            {"dtype": "bfloat16"} | fields | ({} if kernels == "auto" else {"kernels": kernels})
        )
        return lambda images: steps_of.model_step(
            args.model, chosen, target, images, shape, num_classes, products=args.products
        )

    return of


if __name__ == "__main__":
    commandline.run(define_flags, main)
