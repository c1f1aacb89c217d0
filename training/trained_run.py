"""A run in its workdir: its state, and how its config differs from another one."""

import contextlib
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from harness.arguments import problem
from harness.errors import ConfigError, input_errors
from saving.checkpoints import Checkpoints
from tasks.by_images import open_keys
from tasks.table import TASKS
from training.experiment import Experiment, check_config
from workdirs.comparison import LENGTH, RESUMABLE_KEYS, config_changes, in_words
from workdirs.config_file import read_config, read_record
from zoo.find import find_checkpoint
from zoo.registry import without_defaults


def checkpoint_folder(workdir: Path, which: str = "latest") -> Path:
    """Returns the folder of a run's newest "latest" or "best" checkpoint.

    Raises:
        ConfigError: the run has saved none, or `which` is another word.
    """
    with input_errors():
        return find_checkpoint(workdir, which)


def restore(run: Experiment, workdir: Path, which: str = "latest") -> tuple[int, Any, Path]:
    """Restores the state of a run from its workdir, in which nothing is changed.

    inference/loading.py and inference/sample.py read the weights alone (zoo/run_checkpoints.py):
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


def as_begun(config: ConfigDict, workdir: Path) -> ConfigDict:
    """Returns a config in which what it leaves to the images is what the run has begun with.

    Args:
        config: the recipe.
        workdir: which may hold no run yet.

    Raises:
        ConfigError: config.json is unreadable.
    """
    left = open_keys(config.to_dict())
    if not left or not (workdir / "config.json").exists():
        return config
    stored, config = read_config(workdir), config.copy_and_resolve_references()
    for key in left:
        section, name = key.split(".")
        if section in stored and name in stored[section]:
            with config.ignore_type():
                config[section][name] = stored[section][name]
    return config


def _changes(workdir: Path, config: ConfigDict) -> dict[str, tuple[str, str]]:
    """Finds the keys in which a config differs from the one that a run was trained with.

    Keys that either leaves out have their defaults, fields of a network those of its variant.

    Returns:
        Key -> the value there and the one now, as text.

    Raises:
        ConfigError: the config is wrong, or the workdir has no readable one.
    """
    trained = read_config(workdir)
    now = check_config(as_begun(config, workdir), needs_data=False)
    try:
        trained = check_config(trained, needs_data=False)
    except ConfigError:  # a key that no longer exists: it shows as a difference
        trained = trained.to_dict()
    return config_changes(in_few_words(trained), in_few_words(now))


def note_differences(workdir: Path, config: ConfigDict) -> None:
    """Prints on stderr in what a config is not the one that a run was trained with."""
    for difference in in_words(_changes(workdir, config)):
        print(f"note: not as trained: {difference}", file=sys.stderr)


def check_same_config(
    workdir: Path, config: ConfigDict, *, extend: bool = False
) -> tuple[str, ...]:
    """Checks that a run may go on in a workdir.

    Args:
        workdir: which may not exist yet.
        config: the recipe.
        extend: whether it may be longer than before.

    Returns:
        The keys of the config that change with it: of what is not the state, and LENGTH.

    Raises:
        ConfigError: the workdir is of another config; names the keys that differ.
    """
    with input_errors():
        if not (workdir / "config.json").exists():
            if any((workdir / name).exists() for name in ("checkpoints", "metrics.jsonl", "DONE")):
                raise ConfigError(f"{workdir} holds a run without its config.json; choose another")
            return ()
    found = _changes(workdir, config)
    allowed = [key for key in found if RESUMABLE_KEYS.match(key)]
    if LENGTH in found and extend:
        before, now = (float(text) for text in found[LENGTH])
        if now < before:
            what = f"the run in {workdir} is of {before:g} epochs, and --extend makes none shorter"
            raise ConfigError(problem(f"config.{LENGTH}", now, what))
        allowed.append(LENGTH)
    wrong = {
        key: change
        for key, change in found.items()
        if key not in (*allowed, *_may_differ(workdir, config))
    }
    if wrong:
        hint = ""
        if wrong.keys() == {LENGTH} and float(wrong[LENGTH][0]) < float(wrong[LENGTH][1]):
            hint = "; with --extend it goes on to the new length"
        raise ConfigError(
            f"{workdir} was made with another config: {'; '.join(in_words(wrong))}{hint}"
        )
    return tuple(allowed)


def _may_differ(workdir: Path, config: ConfigDict) -> tuple[str, ...]:
    """Returns which differences may be those of data that lie elsewhere now.

    `workdirs.claims.claimed` compares them with their digest, if the run has one.
    """
    record = read_record(workdir)
    stored = record["config"]["data"] if "data" in record["config"] else {}
    old = str(stored["name"]) if "name" in stored else ""
    new = config.data.name
    kind = new.partition(":")[0]
    paths = TASKS[config.task.name].data.catalogue.paths
    is_there_too = kind in paths and old.startswith(f"{kind}:")
    return ("data.name",) if record.get("data_digest") and is_there_too else ()


def in_few_words(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a checked config whose networks lack the fields that their variant has anyway."""
    config = dict(config)
    for key in {"model", "generator", "discriminator"} & config.keys():
        with contextlib.suppress(KeyError, ValueError):  # a network that no longer exists
            config[key] = without_defaults(config[key])
    return config
