"""Draws samples of a trained generator.

    python tools/sample.py --workdir=runs/digits_nest_gan --num=80 --grid=samples.png
    python tools/sample.py --workdir=runs/digits_nest_gan --num=50000 --npz=samples.npz
    python tools/sample.py --workdir=runs/digits_nest_gan --compare
    python tools/sample.py --workdir=runs/cifar_nest_gan --compare \
        --features=pt_inception-2015-12-05-6726825d.pth --statistics=cifar10_test.npz

--grid writes one picture, --npz the array `images`, uint8 [num, h, w, c], and, if the generator has
classes, `labels`. The same --seed gives the same images; 0 gives those of the run's own pictures.
Both need the workdir alone.

--compare also needs the run's data set. It prints how far `task.num_samples` samples are from the
evaluation split in the features that the run was trained with (or --features, a classifier's
workdir or a file of Inception-v3's weights), with two distances to judge it by: that of the
generator before training, and that of the training split, of which at most 50,000 evenly spaced
images are taken. --statistics names a file that keeps the features of the real images: written if
it is missing, read instead of the images if it is there. Files with only `mu` and `sigma`, such as
pytorch-fid's, give only the Frechet distance.

Exit codes: 0 done; 2 wrong input.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

import process.first  # noqa: F401

# isort: split

import numpy as np
from absl import flags

from harness import commandline
from harness.errors import ConfigError
from harness.files import check_writable, local_path, replacing, run_path
from harness.pictures import image_grid, save_png
from inference.flags import define_run_flags
from inference.sample import compare, load_generator, load_run, load_run_with_statistics


def define_flags() -> None:
    define_run_flags()
    flags.DEFINE_integer("num", 80, "How many samples.", lower_bound=1)
    flags.DEFINE_string("grid", None, "PNG to write the samples to, side by side.")
    flags.DEFINE_integer("columns", 10, "Samples in a row of the grid.", lower_bound=1)
    flags.DEFINE_string("npz", None, "File to write the samples to as an array.")
    flags.DEFINE_integer("seed", 0, "Another one gives other samples.", lower_bound=0)
    flags.DEFINE_integer("class", None, "Class of all samples, of a generator with classes.")
    flags.DEFINE_bool("compare", False, "Print distances to the evaluation split, JSON.")
    flags.DEFINE_string("features", None, "Classifier's workdir or Inception-v3's weights.")
    flags.DEFINE_string("statistics", None, "File that keeps the real images' features, .npz.")


def main(args: flags.FlagValues) -> None:
    if args.workdir is None or not (args.grid or args.npz or args.compare):
        raise ConfigError("give --workdir=FOLDER and one of --grid, --npz, --compare; see --help")
    for flag in ("features", "statistics"):
        if args[flag].value and not args.compare:
            raise ConfigError(f"--{flag} is for --compare")
    files = {"grid": (".png",), "npz": (".npz",), "statistics": (".npz",)}
    for key, suffixes in files.items():
        files[key] = args[key].value and local_path(f"--{key}", args[key].value)
        if files[key]:
            check_writable(f"--{key}", files[key], suffixes)
    grid, npz = files["grid"], files["npz"]
    workdir = run_path("--workdir", args.workdir)
    options = {"checkpoint": args.checkpoint, "features": args.features}
    if args.compare:
        if args.statistics:
            run, state = load_run_with_statistics(workdir, files["statistics"], **options)
        else:
            run, state = load_run(workdir, **options)
        print(json.dumps(compare(run, state)))
    if not (grid or npz):
        return
    generator = load_generator(workdir, checkpoint=args.checkpoint)
    images, labels = generator.draw(num=args.num, seed=args.seed, label=args["class"].value)
    try:
        if grid:
            save_png(grid, image_grid(images, args.columns))
        if npz:
            named = {} if labels is None else {"labels": labels}
            with replacing(npz) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, images=images, **named)
    except OSError as error:
        raise ConfigError(str(error)) from None


if __name__ == "__main__":
    commandline.run(define_flags, main)
