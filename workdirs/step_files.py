"""The files of one checkpoint: listed with their checksums once it is complete, compared later.

    STEP/state/...           the arrays, as Orbax writes them
    STEP/loop/metadata       JSON: record of the loop
    STEP/checksums/metadata  JSON: the step, the checksum of each array and of the loop record
    STEP/files.json          SHA-256 of every file above, written last

Earlier versions wrote neither checksums nor files.json; a run that is killed may leave the latter
out. What is wrong with a checkpoint is found by reading it here, not from what a library raises.
"""

import errno
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.errors import NO_SUCH_PATH, ConfigError, RunError, StorageError, one_line
from harness.files import sync, write_text
from harness.lease_files import in_bucket
from harness.trees import listed
from workdirs.checksums import file_checksums, files_in
from workdirs.regular_files import NoRegularFile, read_regular

FILES = "files.json"
COMPLETE = "commit_success.txt"
TEMPORARY = ".tmp"  # ends the name of a file that takes another's place once it is written
UNFINISHED = (".orbax-checkpoint-tmp", ".deleted")  # in names of folders that a killed run leaves
WAITS = (0.5, 2.0)  # seconds between tries


class DamagedCheckpoint(ValueError):
    """A checkpoint is not as it was written; the message says what differs."""


class WrongName(ConfigError, ValueError):
    """A folder among the checkpoints has a name that no run gives."""


def patiently(function: Callable[..., Any], *args: Any) -> Any:
    """Returns what a function returns; calls it again if it fails for a reason that may pass.

    Raises:
        StorageError: it failed so each time.
        ConfigError: something is in the place of a file or a folder.
        Exception: another that the function raises.
    """
    for wait in (*WAITS, None):
        try:
            return function(*args)
        except (RunError, DamagedCheckpoint):
            raise
        except Exception as error:
            if may_pass(error):
                reason = error
            elif isinstance(error, OSError) and error.errno is not None:
                what = f"{error.filename}: {error.strerror}" if error.filename else one_line(error)
                too_long = error.errno == errno.ENAMETOOLONG
                todo = "choose a shorter path" if too_long else "move away what is there"
                raise ConfigError(f"{what}; {todo}") from error
            elif isinstance(error, OSError):
                reason = error
            else:
                raise
        if wait is None:
            raise StorageError(f"{one_line(reason)}; nothing was changed") from reason
        time.sleep(wait)


def steps_in(folder: Path) -> list[int]:
    """Returns the steps of the checkpoints in a folder such as "checkpoints/latest", ascending.

    Raises:
        WrongName: one is called "007", or has digits of another script.
        StorageError: the folder is there and cannot be read.
    """
    names = patiently(_complete_in, folder)
    for name in names:
        if name.isdigit() and not is_step(name):
            raise WrongName(f"{folder / name}: no run gives a checkpoint this name; move it away")
    return sorted(int(name) for name in names if is_step(name))


def is_step(name: str) -> bool:
    """Returns whether a run may give a checkpoint this name."""
    return re.fullmatch("0|[1-9][0-9]{0,17}", name) is not None


def _complete_in(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir() if is_complete(path)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def is_complete(step: Path) -> bool:
    """Returns whether all of a checkpoint has been written.

    On a disk it has its name only then. In a bucket, where nothing is renamed, Orbax writes a file
    last, and `delete` deletes it first.
    """
    return not in_bucket(step) or (step / COMPLETE).exists()


def clean(folder: Path) -> None:
    """Removes what a killed run left half written or half deleted."""
    if in_bucket(folder) and not folder.exists():
        return
    for path in folder.iterdir():
        if any(mark in path.name for mark in UNFINISHED) or not is_complete(path):
            _remove(path)


def _remove(folder: Path) -> None:
    if in_bucket(folder):
        folder.rmtree()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def delete(step: Path) -> None:
    """Deletes a checkpoint; never is a part of one there under its name."""
    if in_bucket(step):
        (step / COMPLETE).unlink(missing_ok=True)
        step.rmtree()
        return
    doomed = step.with_name(f"{step.name}{UNFINISHED[1]}")
    shutil.rmtree(doomed, ignore_errors=True)
    step.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def seal(step: Path) -> None:
    """Brings all files of a checkpoint to the disk, reads them back and lists their checksums.

    Raises:
        OSError: one cannot be read or written.
    """
    if not in_bucket(step):  # where nothing waits to be written
        for stale in step.glob(f"*{TEMPORARY}"):  # of a run that was killed here
            stale.unlink(missing_ok=True)
    names = _written(step)
    if not in_bucket(step):
        for path in (*(step / name for name in names), *step.rglob("*/"), step, step.parent):
            sync(path)
    sums = file_checksums(step, names)
    write_text(step / FILES, json.dumps(sums, indent=0) + "\n")


def is_sealed(step: Path) -> bool:
    """Returns whether the checkpoint has a list of its files."""
    return (step / FILES).exists()


def find_damage(step: Path) -> str | None:
    """Returns what is wrong with the files of a checkpoint, None if nothing is.

    Without a list of the files, they are read, and those that are JSON must be.

    Args:
        step: folder of the checkpoint.

    Raises:
        OSError: for a reason that may pass.
    """
    try:
        _check_folder(step)
        sums = read_json(step / FILES) if is_there(step / FILES) else None
        if sums is None:
            _check_unlisted(step)
            return None
    except DamagedCheckpoint as damage:
        return str(damage)
    wrong = []
    for name, expected in sums.items():
        if name.endswith(TEMPORARY):  # earlier versions listed those of killed runs
            continue
        try:
            if _sum(step, name) != expected:
                wrong.append(f"{name} is not as written")
        except DamagedCheckpoint as damage:
            wrong.append(str(damage))
    return listed(wrong) or None


def read_json(path: Path) -> dict[str, Any]:
    """Returns a record.

    Raises:
        DamagedCheckpoint: it is not there, or no JSON object.
        OSError: for a reason that may pass.
    """
    try:
        record = json.loads(_reading(lambda: read_regular(path), path.name).decode())
    except ValueError as error:
        if isinstance(error, DamagedCheckpoint):
            raise DamagedCheckpoint(f"{path.parent.name}/{error}") from None
        raise DamagedCheckpoint(f"{path.parent.name}/{path.name} is no JSON") from error
    if not isinstance(record, dict):
        raise DamagedCheckpoint(f"{path.parent.name}/{path.name} is no JSON object")
    return record


def read_record(step: Path, name: str) -> dict[str, Any] | None:
    """Returns a JSON record of a checkpoint: "loop", or "checksums", None if there are none.

    Raises:
        DamagedCheckpoint, OSError: as `read_json`.
    """
    if name == "checksums" and not is_there(step / name):
        return None
    record = read_json(step / name / "metadata")
    if name == "checksums" and not (
        type(record.get("step")) is int
        and isinstance(record.get("arrays"), dict)
        and isinstance(record.get("loop"), str)
    ):
        raise DamagedCheckpoint(f"{name}/metadata has other keys")
    return record


def may_pass(error: BaseException | None) -> bool:
    """Returns whether an error, or what led to it, is of the kind that a later try may not meet.

    No permission, a disk or server that does not answer, too many open files; not a file that is
    not as it was.
    """
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        if isinstance(error, OSError) and error.errno not in (None, *NO_SUCH_PATH):
            return True
        if "harness.buckets" in sys.modules:
            from harness.buckets import is_passing

            if is_passing(error):
                return True
        error = error.__cause__ or error.__context__
    return False


def _check_folder(step: Path) -> None:
    try:
        next(iter(step.iterdir()), None)
    except OSError as error:
        if error.errno in NO_SUCH_PATH:
            raise DamagedCheckpoint("it is no folder") from None
        raise


def _check_unlisted(step: Path) -> None:
    for name in ("loop/metadata", "state/_METADATA"):
        read_json(step / name)
    read_record(step, "checksums")
    for name in _written(step):
        _sum(step, name)


def _written(step: Path) -> list[str]:
    """Returns the files of a checkpoint that do not change any more."""
    return [name for name in files_in(step) if name != FILES and not name.endswith(TEMPORARY)]


def is_there(path: Path) -> bool:
    """Returns whether there is something under a name, be it a link that leads nowhere."""
    if in_bucket(path):
        return path.exists()
    try:
        os.lstat(path)
        return True
    except (FileNotFoundError, NotADirectoryError):
        return False


def _sum(step: Path, name: str) -> str:
    return _reading(lambda: file_checksums(step, [name])[name], name)


def _reading(read, name: str) -> Any:
    try:
        return read()
    except OSError as error:
        if error.errno not in NO_SUCH_PATH:
            raise
        what = "is a folder" if error.errno == errno.EISDIR else "is missing"
        what = "is no regular file" if isinstance(error, NoRegularFile) else what
        raise DamagedCheckpoint(f"{name} {what}") from None
    except ValueError as error:  # no path can be like this
        raise DamagedCheckpoint(f"{FILES} names no file {name!r}") from error
