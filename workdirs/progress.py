"""saved.json: the newest step that a run has saved, so that a lost disk is no new beginning.

A run that starts writes {"step": null}, and after each save the step. It lies beside the folder
`checkpoints`, which may be on another disk.
"""

import json
import time
from pathlib import Path
from types import NoneType
from typing import Any

import jax
from jax.experimental import multihost_utils

from harness.errors import ConfigError
from workdirs.claims import is_claimed
from workdirs.records import read_json, write_record
from workdirs.step_files import steps_in

NAME = "saved.json"
_ASIDE = "before_restart_"


def write_saved(workdir: Path, step: int | None) -> None:
    """Records the newest step that is on the disk, None for none yet."""
    write_record(workdir / NAME, json.dumps({"step": step}) + "\n")


def begin(workdir: Path) -> None:
    """Records that the run has saved nothing yet, if it has no record."""
    if not (workdir / NAME).exists():
        write_saved(workdir, None)


def read_saved(workdir: Path) -> int | None:
    """Returns the newest step that was saved, None for none yet.

    Raises:
        Damaged: the record is damaged.
        CannotRead: for a reason that may pass.
        FileNotFoundError: there is none: an earlier version trained here, or nothing did.
    """
    todo = "is there a checkpoint? --restart begins anew, and moves what is there aside"
    record = read_json(workdir / NAME, todo, _is_saved)
    if record is None:
        raise FileNotFoundError(workdir / NAME)
    return record["step"]


def _is_saved(record: Any) -> bool:
    return isinstance(record, dict) and type(record.get("step", "")) in (int, NoneType)


def check_not_lost(workdir: Path) -> None:
    """Raises ConfigError if a run has saved steps in a workdir that has no checkpoint now."""
    checkpoints = workdir / "checkpoints"
    if steps_in(checkpoints / "latest"):
        return
    aside = checkpoints / "unreadable"
    num_aside = len(list(aside.iterdir())) if aside.is_dir() else 0
    try:
        step = read_saved(workdir)
        if step is None:
            return  # it was stopped before its first save
        what = f"its run has saved step {step}"
    except FileNotFoundError:  # of an earlier version, or new
        log = workdir / "metrics.jsonl"
        has_logged = log.exists() and log.stat().st_size > 0
        if not (has_logged or num_aside or steps_in(checkpoints / "best")):
            return
        what = "its run has logged or saved steps"
    found = f" ({num_aside} damaged ones are in {aside})" if num_aside else ""
    raise ConfigError(
        f"{workdir}: {what}, and there is no checkpoint in {checkpoints / 'latest'}{found}: is its "
        "disk mounted? --restart begins anew, and moves what is there aside"
    )


def set_aside_run(workdir: Path) -> str | None:
    """Moves everything of a run aside, so that another can begin in its workdir.

    Checkpoints move inside their own folder, which may be on another disk.

    Returns:
        Where it is now, to show; None if there was nothing.

    Raises:
        ConfigError: a process trains there, or something cannot be moved.
    """
    aside = None
    if jax.process_index() == 0 and workdir.is_dir():
        if is_claimed(workdir):
            raise ConfigError(f"another process is training in {workdir}")
        name = f"{_ASIDE}{time.time_ns() // 1_000_000}"
        checkpoints = workdir / "checkpoints"
        try:
            moved = [
                _move(folder, name)
                for folder in (checkpoints, workdir)
                if folder.is_dir()  # checkpoints first: config.json says that there is a run
            ]
        except OSError as error:
            raise ConfigError(f"--restart cannot move the old run aside: {error}") from error
        aside = ", ".join(str(path) for path in moved if path is not None) or None
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("set_aside_run")
    return aside


def _move(folder: Path, name: str) -> Path | None:
    stays = (".lock", "checkpoints")
    old = [p for p in folder.iterdir() if p.name not in stays and not p.name.startswith(_ASIDE)]
    if not old:
        return None
    (folder / name).mkdir()
    for path in old:
        path.rename(folder / name / path.name)
    return folder / name
