"""Draws samples of a trained generator.

    python tools/sample.py --workdir=runs/digits_nest_gan --num=80 --grid=samples.png
    python tools/sample.py --workdir=runs/digits_nest_gan --num=50000 --npz=samples.npz
    python tools/sample.py --workdir=runs/digits_nest_gan --compare
    python tools/sample.py --workdir=runs/cifar_nest_gan --compare \
        --features=pt_inception-2015-12-05-6726825d.pth --statistics=cifar10_test.npz

--grid writes one picture, --npz the array `images`, uint8 [num, h, w, c], and `labels` where the
generator has classes. The same --seed gives the same images. --compare prints how far the samples
are from the evaluation split in the features that the run was trained with (or --features, a
classifier's workdir or a file of Inception-v3's weights), beside two distances to judge it by: that
of the generator before training, and that of the training split. --statistics names a file that
keeps the features of the real images: written if it is not there, read in their place if it is.
Files with `mu` and `sigma` alone, as pytorch-fid's, give the Frechet distance alone.

Exit codes: 0 done; 2 wrong input.
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

import jax
import numpy as np
from absl import flags

from training import commandline, experiment, workdirs
from training.checkpoints import Checkpoints
from training.errors import ConfigError
from training.evaluation import evaluate
from training.feature_statistics import (
    FeatureStatistics,
    real_images,
    real_statistics,
    save_statistics,
)
from training.gan import Gan
from training.image_grid import image_grid, save_png

BATCH = 512


def load_run(
    workdir: Path,
    *,
    checkpoint: str = "latest",
    features: str | None = None,
    statistics: str | None = None,
) -> tuple[experiment.Experiment, Any]:
    """Builds the run of a workdir and restores its state.

    Args:
        workdir: of a GAN's run.
        checkpoint: "latest" or "best".
        features: as config.task.features, in place of those that the run was trained with.
        statistics: likewise; "": none, None: the run's, if `features` are the run's as well.

    Raises:
        ConfigError: it is no such run, or has no checkpoint.
    """
    config = workdirs.read_config(workdir)
    if config.task.name != "gan":
        raise ConfigError(f"{workdir} is a run of task {config.task.name!r}, not of 'gan'")
    folder = workdir / "checkpoints" / checkpoint
    if not folder.is_dir():
        raise ConfigError(f"{folder} does not exist: no run has saved a checkpoint there")
    config.mesh = {"data": 1, "fsdp": 1}
    if features is not None:
        config.task.features = features
        statistics = statistics or ""
    if statistics is not None:
        config.task.statistics = statistics
    run = experiment.build(config)
    sections = config.checkpoint.to_dict()
    with Checkpoints(workdir=workdir, read_only=True, **sections) as saved:
        restored = saved.restore(run.shapes, checkpoint)
    if restored is None:
        raise ConfigError(f"{folder} holds no finished checkpoint")
    return run, restored[1]


def draw(
    run: experiment.Experiment, state: Any, *, num: int, seed: int = 0, label: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns samples uint8 [num, h, w, c] and their labels [num].

    Args:
        run, state: from load_run.
        num: how many.
        seed: another one gives other images.
        label: class of all; None: one class after the other.

    Raises:
        ConfigError: a class that there is not, or of a generator without classes.
    """
    task: Gan = run.task
    if label is not None:
        if not task.conditional:
            raise ConfigError(f"--class={label}: this generator has no classes")
        if not 0 <= label < task.num_classes:
            raise ConfigError(f"--class={label}: there are 0 to {task.num_classes - 1}")
    key = jax.random.fold_in(run.key, seed) if seed else run.key
    images, labels = [], []
    for batch in task.sample_batches(0, num, min(num, BATCH), label=label):
        _, rows = run.eval_step(state, batch, key)
        mask = np.asarray(batch["mask"]) > 0
        images.append(jax.device_get(rows["drawn"]["image"])[mask])
        labels.append(np.asarray(batch["label"])[mask])
    return np.concatenate(images), np.concatenate(labels)


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
    found = run.task.statistics.protocol
    for key, value in real_images(run.data, run.task.neighbors).items() if found else ():
        if (other := found.get(key)) != value:
            raise ConfigError(
                f"--statistics={statistics} were taken with {key} {other!r}, not with {value!r}"
            )
    return run, state


def _measured(run: experiment.Experiment) -> FeatureStatistics:
    if run.task.embedding is None:
        raise ConfigError(
            "--compare needs --features: a classifier's workdir, or Inception-v3's weights"
        )
    return real_statistics(run.data, run.task.embedding, run.task.neighbors)


def compare(run: experiment.Experiment, state: Any) -> dict[str, Any]:
    """Returns the metrics of the state, with the distances before training and between the splits.

    Returns:
        The metrics of the evaluation; `untrained_frechet_distance`; those of `real_statistics`,
        unless the run has a file of statistics that lacks them; `protocol`.
    """
    statistics = run.task.statistics or _measured(run)

    def found(state):
        return evaluate(run.eval_step, run.task, state, run.data.eval_batches(), key=run.key)

    final, start = found(state), found(run.init())
    return (
        final.metrics
        | {"untrained_frechet_distance": start.metrics["frechet_distance"]}
        | statistics.to_judge_by
        | {"protocol": final.protocol}
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
    flags.DEFINE_bool("compare", False, "Print distances to the evaluation split as JSON.")
    flags.DEFINE_string("features", None, "Classifier's workdir or Inception-v3's weights.")
    flags.DEFINE_string("statistics", None, "File that keeps the real images' features, .npz.")


def main(args: flags.FlagValues) -> None:
    if args.workdir is None or not (args.grid or args.npz or args.compare):
        raise ConfigError("give --workdir=FOLDER and one of --grid, --npz, --compare; see --help")
    if args.statistics and not args.compare:
        raise ConfigError("--statistics is for --compare")
    workdir = Path(args.workdir).absolute()
    options = {"checkpoint": args.checkpoint, "features": args.features}
    if args.statistics:
        file = Path(args.statistics).expanduser().absolute()
        run, state = load_run_with_statistics(workdir, file, **options)
    else:
        run, state = load_run(workdir, **options)
    if args.compare:
        print(json.dumps(compare(run, state)))
    if not (args.grid or args.npz):
        return
    images, labels = draw(run, state, num=args.num, seed=args.seed, label=args["class"].value)
    try:
        if args.grid:
            save_png(Path(args.grid), image_grid(images, args.columns))
        if args.npz:
            named = {"labels": labels} if run.task.conditional else {}
            with Path(args.npz).open("wb") as file:
                np.savez_compressed(file, images=images, **named)
    except OSError as error:
        raise ConfigError(str(error)) from None


if __name__ == "__main__":
    commandline.run(define_flags, main)
