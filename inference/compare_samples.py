"""How far a trained generator's samples are from real images: `compare`.

Distances are taken in the features of a trained network, over the run's evaluation split.
"""

from pathlib import Path
from typing import Any

from harness.errors import ConfigError
from inference.sample import read_gan_config
from tasks.gan.feature_statistics import (
    FeatureStatistics,
    floor_images,
    real_images,
    real_statistics,
    save_statistics,
)
from training import experiment
from training.evaluation import evaluate
from training.trained_run import checkpoint_folder, restore


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
