"""A run found in its workdir: its state, and how its config differs from another one."""

import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from harness import workdirs
from harness.errors import ConfigError, input_errors
from training.checkpoints import Checkpoints
from training.experiment import Experiment, check_config
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


def comparable(config: ConfigDict) -> dict[str, Any]:
    """Returns a checked config that equals any other one of the same run.

    What it leaves out has its default, and networks are without fields that their variant has
    anyway.
    """
    plain = check_config(config, needs_data=False)
    networks = ("model", "generator", "discriminator")
    return plain | {key: without_defaults(plain[key]) for key in networks if key in plain}


def note_differences(workdir: Path, config: ConfigDict) -> None:
    """Prints on stderr how a config differs from the one that a run was trained with.

    Raises:
        ConfigError: the config is wrong, or the workdir has no readable one.
    """
    for difference in workdirs.differences(workdir, comparable(config), comparable):
        print(f"note: not as trained: {difference}", file=sys.stderr)
