"""Draws samples of a trained generator.

    python tools/sample.py --workdir=runs/digits_nest_gan --num=80 --grid=samples.png
    python tools/sample.py --workdir=runs/digits_nest_gan --num=50000 --npz=samples.npz
    python tools/sample.py --workdir=runs/digits_nest_gan --compare
    python tools/sample.py --workdir=runs/cifar_nest_gan --compare \
        --features=pt_inception-2015-12-05-6726825d.pth --statistics=cifar10_test.npz

--grid writes one picture, --npz the array `images`, uint8 [num, h, w, c], and `labels` where the
generator has classes. The same --seed gives the same images; 0, those of the run's own pictures.
Both need the workdir alone.

--compare needs the run's data set, too. It prints how far `task.num_samples` samples are from the
evaluation split in the features that the run was trained with (or --features, a classifier's
workdir or a file of Inception-v3's weights), beside two distances to judge it by: that of the
generator before training, and that of the training split, of which 50,000 images at most, evenly
spaced, are taken. --statistics names a file that keeps the features of the real images: written if
it is not there, read in their place if it is. Files with `mu` and `sigma` alone, as pytorch-fid's,
give the Frechet distance alone.

Exit codes: 0 done; 2 wrong input.
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

import numpy as np
from absl import flags

from harness import commandline, workdirs
from harness.errors import ConfigError
from harness.files import replacing
from harness.pictures import image_grid, save_png
from inference.sample import checkpoint_folder, load_generator
from tasks.gan.feature_statistics import (
    FeatureStatistics,
    floor_images,
    real_images,
    real_statistics,
    save_statistics,
)
from training import experiment
from training.checkpoints import Checkpoints
from training.evaluation import evaluate


def load_run(
    workdir: Path,
    *,
    checkpoint: str = "latest",
    features: str | None = None,
    statistics: str | None = None,
) -> tuple[experiment.Experiment, Any]:
    """Builds the run of a workdir, with its data and its features, and restores its state.

    Args:
        workdir: of a GAN's run.
        checkpoint: "latest" or "best".
        features: as config.task.features, in place of those that the run was trained with.
        statistics: likewise; "": none, None: the run's, if `features` are the run's as well.

    Raises:
        ConfigError: it is no such run, has no checkpoint, or its data or features are not there.
    """
    folder = checkpoint_folder(workdir, checkpoint)
    config = workdirs.read_config(workdir)
    config.mesh = {"data": 1, "fsdp": 1}
    if features is not None:
        config.task.features = features
        statistics = statistics or ""
    if statistics is not None:
        config.task.statistics = statistics
    try:
        run = experiment.build(config)
    except ConfigError as error:
        raise ConfigError(
            f"--compare needs the data set and the features of the run (--grid and --npz do not): "
            f"{error}"
        ) from error
    if run.task.evaluator.embedding is None:
        raise ConfigError(
            "--compare needs --features: a classifier's workdir, or Inception-v3's weights"
        )
    sections = config.checkpoint.to_dict()
    with Checkpoints(workdir=workdir, read_only=True, **sections) as saved:
        restored = saved.restore(run.shapes, checkpoint)
    if restored is None:
        raise ConfigError(f"{folder} holds no finished checkpoint")
    return run, restored[1]


def load_run_with_statistics(
    workdir: Path, statistics: Path, **options: Any
) -> tuple[experiment.Experiment, Any]:
    """As load_run, with a file of features of the run's real images; writes it if it is not there.

    Args:
        workdir: of a GAN's run.
        statistics: the file.
        options: checkpoint and features, as for load_run.

    Raises:
        ConfigError: the file is of other features or of other images, or cannot be written.
    """
    if not statistics.exists():
        if not statistics.parent.is_dir():
            raise ConfigError(f"--statistics={statistics}: there is no such folder")
        run, _ = load_run(workdir, **options, statistics="")
        save_statistics(statistics, _measured(run))
    run, state = load_run(workdir, **options, statistics=str(statistics))
    found = run.task.evaluator.statistics.protocol
    expected = real_images(run.data) | floor_images(run.data, run.task.options.neighbors)
    for key, value in expected.items() if found else ():
        if (other := found.get(key)) != value:
            raise ConfigError(
                f"--statistics={statistics} were taken with {key} {other!r}, not with {value!r}"
            )
    return run, state


def _measured(run: experiment.Experiment) -> FeatureStatistics:
    return real_statistics(run.data, run.task.evaluator.embedding, run.task.options.neighbors)


def compare(run: experiment.Experiment, state: Any) -> dict[str, Any]:
    """Returns the metrics of the state, with the distances before training and between the splits.

    Returns:
        The metrics of the evaluation; `untrained_frechet_distance`; those of `real_statistics`,
        unless the run has a file of statistics that lacks them; `split`; `protocol`.
    """
    statistics = run.task.evaluator.statistics or _measured(run)

    def found(state):
        return evaluate(run.eval_step, run.task, state, run.data.eval_batches(), key=run.key)

    final, start = found(state), found(run.init())
    floor = {k: v for k, v in statistics.protocol.items() if k.startswith("floor.")}
    return (
        {"split": run.data.eval_split}
        | final.metrics
        | {"untrained_frechet_distance": start.metrics["frechet_distance"]}
        | statistics.to_judge_by
        | {"protocol": final.protocol | floor}
    )


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Folder of a GAN's run.")
    flags.DEFINE_enum("checkpoint", "latest", ["latest", "best"], "Which of the run's.")
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
    workdir = Path(args.workdir).absolute()
    options = {"checkpoint": args.checkpoint, "features": args.features}
    if args.compare:
        if args.statistics:
            file = Path(args.statistics).expanduser().absolute()
            run, state = load_run_with_statistics(workdir, file, **options)
        else:
            run, state = load_run(workdir, **options)
        print(json.dumps(compare(run, state)))
    if not (args.grid or args.npz):
        return
    generator = load_generator(workdir, checkpoint=args.checkpoint)
    images, labels = generator.draw(num=args.num, seed=args.seed, label=args["class"].value)
    try:
        if args.grid:
            save_png(Path(args.grid), image_grid(images, args.columns))
        if args.npz:
            named = {} if labels is None else {"labels": labels}
            with replacing(Path(args.npz)) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, images=images, **named)
    except OSError as error:
        raise ConfigError(str(error)) from None


if __name__ == "__main__":
    commandline.run(define_flags, main)
