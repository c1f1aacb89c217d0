"""Draws what a recipe does.

    python tools/visualize.py batch --config=configs/imagenet_nest.py:tiny
    python tools/visualize.py batch --config=configs/cifar_nest.py --config.data.name=folder:/images
    python tools/visualize.py batch --workdir=runs/mine --step=1234
    python tools/visualize.py operations --config=configs/imagenet_nest.py:tiny --image=photo.jpg

batch: an augmented training batch as the model sees it, with its labels; --step=N is exactly what
step N of a run saw. Below each label stands the record's number in the training split.
operations: each operation of the recipe's RandAugment at its magnitudes.
Writes a PNG, --output. Without the recipe's data set: --config.data.name=synthetic.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

import process.first  # noqa: F401

# isort: split

from absl import flags
from matplotlib.figure import Figure

from data.images import decode_image
from harness import commandline
from harness.arguments import problem
from harness.errors import ConfigError, NoSuchData, input_errors
from harness.files import check_writable, local_path, replacing, run_path
from preview.recipe_flag import define_config_flag
from training import batch_pictures, experiment
from workdirs.class_file import own_classes
from workdirs.config_file import stored_config


def batch(args: flags.FlagValues) -> Figure:
    """An augmented training batch as the model sees it."""
    if args.step is not None and args.batch is not None:
        raise ConfigError("--batch counts from 0, --step from 1; give one of them")
    start = args.batch or 0 if args.step is None else args.step - 1
    classes = own_classes(run_path("--workdir", args.workdir)) if args.workdir else None
    with input_errors():
        try:
            run = experiment.build(_config(args), class_names=classes)
        except ConfigError as error:
            if not isinstance(error.__cause__, NoSuchData):
                raise
            others = "--config.data.name=folder:IMAGES or --config.data.name=synthetic"
            raise ConfigError(f"{error}; or see it on other images: {others}") from error
        if start >= run.steps.total:  # also of --batch
            name, value = ("batch", start) if args.step is None else ("step", args.step)
            last = run.steps.total - (args.step is None)
            allowed = f"to {last}, the run's last"
            raise ConfigError(problem(f"--{name}", value, "out of range", allowed))
        for note in run.data.dataset.notes:
            print(f"note: {note}")
        records = run.records_of(start + 1)
        shown = records[: args.num_images]
        which = "" if len(shown) == len(records) else f", the first {len(shown)}"
        print(f"step {start + 1}, {len(records)} records{which}: {' '.join(map(str, shown))}")
        return batch_pictures.draw_batch(run, num_images=args.num_images, start=start)


def operations(args: flags.FlagValues) -> Figure:
    """Each operation of the recipe's RandAugment at its magnitudes."""
    with input_errors():
        plain = experiment.check_config(_config(args), needs_data=False)
        options = plain["augment"].get("randaugment")
        if options is None:
            raise ConfigError(problem("config.augment.randaugment", None, "nothing to draw"))
        image = None
        if args.image:
            exif_orientation = plain["data"]["exif_orientation"]
            encoded = local_path("--image", args.image).read_bytes()
            image = decode_image(encoded, exif_orientation=exif_orientation)
        return batch_pictures.draw_operations(options, plain["data"]["image_size"], image)


def _config(args: flags.FlagValues):
    if args.config is None and args.workdir is None:
        raise ConfigError("--config=FILE.py or --workdir=FOLDER is needed; see --help")
    if args.config is not None:
        return args.config
    workdir = run_path("--workdir", args.workdir)
    # This machine, not the one it was trained on.
    return stored_config(workdir, mesh={"data": 1, "fsdp": 1})


COMMANDS = {"batch": batch, "operations": operations}


def define_flags() -> None:
    define_config_flag(or_stored=True)
    flags.DEFINE_string("output", None, "PNG to write; None: named after the command.")
    flags.DEFINE_integer("num_images", 32, "Images of the batch to draw.", lower_bound=1)
    flags.DEFINE_string("workdir", None, "Folder of a run, whose config counts without --config.")
    flags.DEFINE_integer("step", None, "Step whose training batch to draw, from 1.", lower_bound=1)
    flags.DEFINE_integer("batch", None, "The same, counted from 0; None: 0.", lower_bound=0)
    flags.DEFINE_string("image", None, "Image for operations; None: one of scikit-learn's.")


def main(args: flags.FlagValues, command: str) -> None:
    draw = commandline.choose_command(command, COMMANDS)
    shown = args.output or f"{command}.png"
    output = local_path("--output", shown)
    check_writable("--output", output, (".png",))
    figure = draw(args)
    with input_errors(), replacing(output) as temporary:
        figure.savefig(temporary, dpi=100, format="png")
    print(f"wrote {shown}")


if __name__ == "__main__":
    commandline.run(define_flags, main, arguments=("|".join(COMMANDS),))
