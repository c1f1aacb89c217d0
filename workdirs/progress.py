"""saved.json: the newest step that a run has saved, so that a lost disk is no new beginning.

A run that starts writes {"step": null}, and after each save the step. It lies beside the folder
`checkpoints`, which may be on another disk.
"""

import json
from pathlib import Path
from types import NoneType
from typing import Any

from harness.errors import ConfigError
from harness.lease_files import in_bucket
from workdirs.records import CHECKSUMS, read_json, write_record
from workdirs.step_files import is_there, patiently, steps_in

NAME = "saved.json"
# What a run needs, and has in no other way.
_FOLDERS = ("checkpoints", *(f"checkpoints/{name}" for name in ("latest", "best", "unreadable")))
_FILES = (NAME, "config.json", "metrics.jsonl", "DONE")


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
        DamagedFile: the record is damaged.
        CannotRead: for a reason that may pass.
        FileNotFoundError: there is none: an earlier version trained here, or nothing did.
    """
    todo = "is there a checkpoint? --restart starts over, and moves what is there aside"
    record = read_json(workdir / NAME, todo, _is_saved)
    if record is None:
        raise FileNotFoundError(workdir / NAME)
    return record["step"]


def _is_saved(record: Any) -> bool:
    return isinstance(record, dict) and type(record.get("step", "")) in (int, NoneType)


def check_places(workdir: Path) -> None:
    """Checks that no file stands in the place of a folder of a run, or the other way round.

    Raises:
        ConfigError: one does.
        StorageError: nobody can say.
    """
    if in_bucket(workdir):  # there both can be
        return
    for name in (*_FOLDERS, CHECKSUMS, *_FILES):
        path, is_file = workdir / name, name in _FILES
        if not patiently(is_there, path) or (path.is_file() if is_file else path.is_dir()):
            continue
        if path.is_symlink() and not path.exists():
            raise ConfigError(f"{path} leads nowhere: is its disk mounted?")
        wanted = "file" if is_file else "folder"
        found = "a folder" if path.is_dir() else "a file" if path.is_file() else "no regular file"
        raise ConfigError(f"{path} is {found} and should be a {wanted}: move it away")


def check_not_lost(workdir: Path) -> None:
    """Raises ConfigError if a run has saved steps in a workdir that has no checkpoint now."""
    checkpoints = workdir / "checkpoints"
    if steps_in(checkpoints / "latest"):
        return
    aside = checkpoints / "unreadable"
    num_aside = len(patiently(lambda: list(aside.iterdir()))) if aside.is_dir() else 0
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
        "disk mounted? --restart starts over, and moves what is there aside"
    )
