"""A run in its workdir: its state, and how its config differs from another one."""

import contextlib
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from data.datasets import PATHS
from harness.errors import ConfigError, input_errors
from saving.checkpoints import Checkpoints
from training.experiment import Experiment, check_config
from workdirs.comparison import config_differences
from workdirs.config_file import read_config, read_record
from zoo.find import find_checkpoint
from zoo.registry import without_defaults


def checkpoint_folder(workdir: Path, which: str = "latest") -> Path:
    """Returns the folder of a run's newest "latest" or "best" checkpoint.

    Raises:
        ConfigError: the run has saved none.
    """
    with input_errors():
        return find_checkpoint(workdir, which)


def restore(run: Experiment, workdir: Path, which: str = "latest") -> tuple[int, Any, Path]:
    """Restores the state of a run from its workdir, in which nothing is changed.

    inference/predict.py and inference/sample.py read the weights alone (zoo/run_checkpoints.py):
    they need neither the data set nor the optimizer's state, so they build no Experiment.

    Args:
        run: built from the run's config; its mesh may be another than in training.
        workdir: of the run.
        which: "latest" or "best".

    Returns:
        The step, the task's state and the folder of the checkpoint.

    Raises:
        ConfigError: there is no checkpoint, or it is damaged or of another model.
    """
    folder = checkpoint_folder(workdir, which)
    with Checkpoints(workdir=workdir, read_only=True) as saved:
        restored = saved.restore(run.shapes, which)
    if restored is None:
        raise ConfigError(f"{folder} is not a finished checkpoint")
    step, state, _ = restored
    return step, state, folder.parent / str(step)


def differences(workdir: Path, config: ConfigDict) -> list[str]:
    """Lists the keys in which a config differs from the one that a run was trained with.

    Keys that either leaves out have their defaults, fields of a network those of its variant.

    Raises:
        ConfigError: the config is wrong, or the workdir has no readable one.
    """
    trained, now = read_config(workdir), check_config(config, needs_data=False)
    try:
        trained = check_config(trained, needs_data=False)
    except ConfigError:  # a key that no longer exists: it shows as a difference
        trained = trained.to_dict()
    return config_differences(in_few_words(trained), in_few_words(now))


def note_differences(workdir: Path, config: ConfigDict) -> None:
    """Prints on stderr what `differences` finds."""
    for difference in differences(workdir, config):
        print(f"note: not as trained: {difference}", file=sys.stderr)


def check_same_config(workdir: Path, config: ConfigDict) -> None:
    """Raises ConfigError, naming the keys that differ, if the workdir is of another config.

    Args:
        workdir: which may not exist yet.
        config: the recipe.
    """
    with input_errors():
        if not (workdir / "config.json").exists():
            if any((workdir / name).exists() for name in ("checkpoints", "metrics.jsonl", "DONE")):
                raise ConfigError(f"{workdir} holds a run without its config.json; choose another")
            return
    found = differences(workdir, config)
    if found := [line for line in found if not line.startswith(_may_differ(workdir, config))]:
        raise ConfigError(f"{workdir} was made with another config: {'; '.join(found)}")


def _may_differ(workdir: Path, config: ConfigDict) -> tuple[str, ...]:
    """Returns which differences may be those of data that lie elsewhere now.

    `workdirs.claims.claimed` compares them with their digest, if the run has one.
    """
    record = read_record(workdir)
    stored = record["config"]["data"] if "data" in record["config"] else {}
    old = str(stored["name"]) if "name" in stored else ""
    new = config.data.name
    kind = new.partition(":")[0]
    is_there_too = kind in PATHS and old.startswith(f"{kind}:")
    return ("data.name: ",) if record.get("data_digest") and is_there_too else ()


def in_few_words(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a checked config whose networks lack the fields that their variant has anyway."""
    config = dict(config)
    for key in {"model", "generator", "discriminator"} & config.keys():
        with contextlib.suppress(KeyError, ValueError):  # a network that no longer exists
            config[key] = without_defaults(config[key])
    return config
