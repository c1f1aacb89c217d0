"""Samples of a trained generator: `load_generator` reads it, its `draw` gives images.

For that, neither the run's data set nor the classifier that it was evaluated with need be there:
the numbers of classes and channels are those of the weights. `compare` needs both: it says how far
samples are from the real images of the evaluation split, in the features of a trained network.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from harness.errors import ConfigError, input_errors
from harness.trees import check_tree
from nest.gan.generator import generator_shapes, latent_shape, with_stored_sizes
from tasks.gan.feature_statistics import (
    FeatureStatistics,
    floor_images,
    real_images,
    real_statistics,
    save_statistics,
)
from tasks.gan.sampling import Sampler
from training import experiment
from training.evaluation import evaluate
from training.trained_run import checkpoint_folder, restore
from workdirs.config_file import read_config
from zoo.registry import create_generator
from zoo.run_checkpoints import read_newest, read_parts

BATCH = 512


@dataclasses.dataclass(frozen=True)
class TrainedGenerator:
    """A generator with its weights; make it with `load_generator`.

    Attributes:
        sampler: the generator, and how samples are numbered.
        params: the moving average, if the run has one.
        seed: of the run.
    """

    sampler: Sampler
    params: Any
    seed: int

    def draw(
        self, *, num: int, seed: int = 0, label: int | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns samples uint8 [num, h, w, c] and, of a generator with classes, labels [num].

        Args:
            num: how many.
            seed: 0 gives the samples of the run's own evaluations, any other number other ones.
            label: the class of all; None: one class after the other.

        Raises:
            ConfigError: there is no such class, or the generator has no classes.
        """
        num_classes = self.sampler.num_classes
        if label is not None:
            if num_classes is None:
                raise ConfigError(f"--class={label}: this generator has no classes")
            if not 0 <= label < num_classes:
                raise ConfigError(f"--class={label}: there are 0 to {num_classes - 1}")
        key = jax.random.key(self.seed)
        key = jax.random.fold_in(key, seed) if seed else key
        parts = self.sampler.draw(
            self.params, key, num=num, batch_size=min(num, BATCH), label=label
        )
        images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return images, labels if num_classes else None


def read_gan_config(workdir: Path) -> ConfigDict:
    """Returns the config of a GAN's run.

    Raises:
        ConfigError: the workdir is not of such a run.
    """
    config = read_config(workdir)
    if config.task.name != "gan":
        raise ConfigError(f"{workdir} is a run of task {config.task.name!r}, not of 'gan'")
    return config


def load_generator(workdir: Path, *, checkpoint: str = "latest") -> TrainedGenerator:
    """Loads the generator of a run from its workdir alone.

    Args:
        workdir: of a GAN's run.
        checkpoint: "latest" or "best".

    Raises:
        ConfigError: it is no such run, or has no checkpoint that fits its config.
    """
    plain = experiment.check_config(read_gan_config(workdir), needs_data=False)
    part, what = "generator", "generator"
    if plain["task"]["ema_decay"]:
        part, what = "ema", "moving average"
    with input_errors():
        folder, (state, _, notes) = read_newest(
            lambda: checkpoint_folder(workdir, checkpoint),
            lambda folder: read_parts(folder, part, what),
        )
        params = state[part]
        for note in notes:
            print(f"note: checkpoint {folder}: {note}", file=sys.stderr)
        if not all(np.isfinite(array).all() for array in jax.tree.leaves(params)):
            raise ValueError(f"checkpoint {folder}: its {what} has values that are not finite")
        model = create_generator(
            **plain["generator"],
            image_size=plain["data"]["image_size"],
            num_channels=3,
            num_classes=None,
        )
        model = with_stored_sizes(model, params)
        check_tree(generator_shapes(model), params, f"checkpoint {folder}")
    sampler = Sampler(model, latent_shape(model, 1)[1:], model.num_classes)
    return TrainedGenerator(sampler, params, plain["seed"])


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
        features: replaces config.task.features; None: those that the run was trained with.
        statistics: replaces config.task.statistics; "": none, None: the run's, if `features` are
            the run's as well.

    Raises:
        ConfigError: it is no such run, has no checkpoint, or its data or features are missing.
    """
    config = read_gan_config(workdir)
    checkpoint_folder(workdir, checkpoint)  # before the data set is opened
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
    _, state, _ = restore(run, workdir, checkpoint)
    return run, state


def load_run_with_statistics(
    workdir: Path, statistics: Path, **options: Any
) -> tuple[experiment.Experiment, Any]:
    """Like load_run, with a file of features of the run's real images, written if it is missing.

    Args:
        workdir: of a GAN's run.
        statistics: the file.
        **options: checkpoint and features, as for load_run.

    Raises:
        ConfigError: the file is of other features or of other images, or cannot be written.
    """
    if not statistics.exists():
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

    Args:
        run, state: from `load_run` or `load_run_with_statistics`.

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
