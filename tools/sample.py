"""Draws samples of a trained generator.

    python tools/sample.py --workdir=runs/digits_nest_gan --num=80 --grid=samples.png
    python tools/sample.py --workdir=runs/digits_nest_gan --num=50000 --npz=samples.npz
    python tools/sample.py --workdir=runs/digits_nest_gan --compare

--grid writes one picture, --npz the array `images`, uint8 [num, h, w, c], and `labels` where the
generator has classes. The same --seed gives the same images. --compare prints how far the samples
are from the evaluation split in the features that the run was trained with (or --features), beside
two distances to judge it by: that of the generator before training, and that of the training split.

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
from training.gan import Gan
from training.gan_evaluation import unmasked
from training.generative_metrics import frechet_distance, moments, precision_recall
from training.image_grid import image_grid, save_png

BATCH = 512


def load_run(
    workdir: Path, *, checkpoint: str = "latest", features: str | None = None
) -> tuple[experiment.Experiment, Any]:
    """Builds the run of a workdir and restores its state.

    Args:
        workdir: of a GAN's run.
        checkpoint: "latest" or "best".
        features: workdir of a classifier, in place of the one that the run was trained with.

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


def compare(run: experiment.Experiment, state: Any) -> dict[str, Any]:
    """Returns the metrics of the state, with the distances before training and between the splits.

    Returns:
        The metrics of the evaluation; `untrained_frechet_distance`; `floor_frechet_distance`,
        `floor_precision` and `floor_recall`, which the training split has; `real_confident_share`
        of the evaluation split; `protocol`.
    """
    task: Gan = run.task
    if task.embedding is None:
        raise ConfigError("--compare needs --features=WORKDIR of a classifier")

    def found(state):
        return evaluate(run.eval_step, task, state, run.data.eval_batches(), key=run.key)

    def real(split):
        rows = [run.eval_step(state, batch, run.key)[1] for batch in run.data.eval_batches(split)]
        return unmasked(jax.device_get(rows), "real")

    final, start = found(state), found(run.init())
    train, test = real(run.data.train_split), real(run.data.eval_split)
    precision, recall = precision_recall(
        test["features"], train["features"], neighbors=task.neighbors
    )
    return final.metrics | {
        "untrained_frechet_distance": start.metrics["frechet_distance"],
        "floor_frechet_distance": frechet_distance(
            moments(test["features"]), moments(train["features"])
        ),
        "floor_precision": precision,
        "floor_recall": recall,
        "real_confident_share": float((test["confidence"] > 0.9).mean()),
        "protocol": final.protocol,
    }


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
    flags.DEFINE_string("features", None, "Classifier's workdir, for --compare.")


def main(args: flags.FlagValues) -> None:
    if args.workdir is None or not (args.grid or args.npz or args.compare):
        raise ConfigError("give --workdir=FOLDER and one of --grid, --npz, --compare; see --help")
    run, state = load_run(
        Path(args.workdir).absolute(), checkpoint=args.checkpoint, features=args.features
    )
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
