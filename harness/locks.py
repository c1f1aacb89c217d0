"""Locks between processes: files that one of them holds. A lock ends with its process, however."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO


def take_lock(path: Path, *, seconds: float = 0.0) -> IO[str] | None:
    """Returns a file that is locked until it is closed; None if another process holds it.

    Args:
        path: of the file, made if absent.
        seconds: to try for.

    Raises:
        OSError: the file cannot be opened.
    """
    file, deadline = path.open("a"), time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() >= deadline:
                file.close()
                return None
            time.sleep(0.02)


def is_locked(path: Path) -> bool:
    """Returns whether a process holds a file that `take_lock` locks."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:  # it is not there
        return False


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits for a file, made if absent, or a folder, and holds it for the block."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
