"""A workdir belongs to one process at a time, and to one run with its data."""

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from harness.class_lists import two_orders
from harness.errors import (
    WRONG_PATH,
    ConfigError,
    RunError,
    StorageError,
    input_errors,
    printable,
    record_errors,
)
from harness.files import remove_stale
from harness.leases import confirm_leases
from harness.locks import is_locked, take_lock
from workdirs.class_file import own_classes
from workdirs.comparison import LENGTH
from workdirs.config_file import moved, note_changes, note_place, read_record, write_config
from workdirs.records import write_record
from workdirs.results import set_done_aside


class WorkdirGone(ConfigError):
    """The folder of the run was moved, deleted or unmounted while it went on."""


@contextlib.contextmanager
def claimed(
    workdir: Path,
    config: dict[str, Any],
    class_names: tuple[str, ...] | None,
    num_examples: int | None = None,
    *,
    digest: dict[str, Any] | None = None,
    differences: Callable[..., list[str]] = lambda old, new, of_files=True: [],
    changed: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Iterator[Callable[[], None]]:
    """Makes the workdir with its config.json and locks other processes out for the block.

    Args:
        workdir: made if absent.
        config: checked.
        class_names: in the order of the labels, None where they are not known.
        num_examples: of the training split, if there is one.
        digest: of the data, kept in config.json; None: they are not compared.
        differences: of two digests, in words; with `of_files=False`, without those that do not
            matter where the data lie in the same place as before.
        changed: keys of the config that may be others than before, and are written; with LENGTH,
            DONE goes aside until there is a new one.
        notes: what a person should know of a new run, kept in config.json.

    Yields:
        A function that raises WorkdirGone if the folder is no longer there, and LostLock if another
        process has taken it. Any other error in the block becomes the first, too, if it is not.

    Raises:
        ConfigError: the folder can't be written, another process trains in it, or its run was begun
            with other data.
        RecordError: a file cannot be written, on a full disk for example.
    """
    if jax.process_index() != 0:
        yield lambda: None
        return
    with input_errors(), _writing(workdir, ".lock"):
        workdir.mkdir(parents=True, exist_ok=True)
        # `is_claimed` holds it for a moment.
        lock = take_lock(workdir / ".lock", seconds=0.3, leased=True)
    if lock is None:
        raise ConfigError(f"another process is training in {workdir}")
    with lock:
        remove_stale(workdir)
        with input_errors():
            if not (workdir / "config.json").exists():
                with _writing(workdir, "config.json"):
                    write_config(workdir, config, num_examples, digest, notes)
            else:
                record = read_record(workdir)
                _check_data(workdir, record, class_names, num_examples)
                old = record.get("data_digest") or {}
                if old and digest and any(key.startswith("data.eval_") for key in changed):
                    old["eval"] = digest["eval"]
                data = config["data"] if "data" in config else {}
                found = differences(old, digest or {})
                if differences(old, digest or {}, of_files=False) or moved(record, data):
                    _refuse(workdir, found)
                elif found:
                    what = f"{workdir} was begun with other data: {'; '.join(found)}"
                    print(printable(f"note: {what}; they lie where they did"), file=sys.stderr)
                with _writing(workdir, "config.json"):
                    note_place(workdir, record, data)
                if LENGTH in changed:
                    set_done_aside(workdir)
                with _writing(workdir, "config.json"):
                    note_changes(workdir, record, config, changed)
            if class_names is not None and own_classes(workdir) is None:
                with _writing(workdir, "classes.txt"):
                    text = "".join(f"{name}\n" for name in class_names)
                    write_record(workdir / "classes.txt", text)
        check = _presence(workdir)

        def check_now() -> None:
            check()
            confirm_leases()

        try:
            yield check_now
        except Exception as error:
            if isinstance(error, StorageError) or not isinstance(error, RunError):
                check(error)
            raise


@contextlib.contextmanager
def _writing(workdir: Path, name: str) -> Iterator[None]:
    """As `record_errors`, but a wrong path is the user's, and errors of a bucket stay."""
    try:
        yield
    except OSError as error:
        if getattr(error, "passing", False):
            raise
        if error.errno not in WRONG_PATH:
            with record_errors(workdir / name):
                raise
        reason = "no folder" if error.errno == errno.EEXIST else error.strerror or str(error)
        what = f"{name}: {reason}" if os.path.isdir(workdir) else reason
        todo = "choose another or change its permissions"
        raise ConfigError(f"--workdir={workdir}: {what}; {todo}") from error


def _check_data(
    workdir: Path,
    record: dict[str, Any],
    class_names: tuple[str, ...] | None,
    num_examples: int | None,
) -> None:
    before = record.get("num_examples") or num_examples
    if num_examples != before:
        _refuse(workdir, [f"{before:,} training images there, {num_examples:,} now"])
    if class_names and two_orders(class_names) and own_classes(workdir) is None:
        raise ConfigError(
            f"{workdir} does not say in which order its classes are, and folders named by "
            f"numbers were sorted as text before: write their names, one a line, to "
            f"{workdir / 'classes.txt'}"
        )


def _refuse(workdir: Path, differences: list[str]) -> None:
    if differences:
        raise ConfigError(
            f"{workdir} was begun with other data: {'; '.join(differences)}; another --workdir "
            f"with --config.init_from={workdir} starts from its weights"
        )


def _presence(workdir: Path) -> Callable[..., None]:
    """Returns what raises WorkdirGone once a folder is not the one that it is now."""

    def identity() -> tuple:
        found = workdir.stat()  # of a bucket there are no numbers
        return getattr(found, "st_dev", None), getattr(found, "st_ino", None)

    before = identity()

    def check(cause: Exception | None = None) -> None:
        try:
            is_there = identity() == before and (workdir / "config.json").exists()
        except (FileNotFoundError, NotADirectoryError):
            is_there = False
        except OSError:  # it cannot be told now
            return
        if not is_there:
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # of what Orbax still writes
            raise WorkdirGone(
                f"{workdir} is not the folder any more that this run writes to: it was moved, "
                "deleted or unmounted; put it back and run the same command to resume"
            ) from cause

    return check


def is_claimed(workdir: Path) -> bool:
    """Returns whether a process trains in a workdir."""
    return is_locked(workdir / ".lock")
