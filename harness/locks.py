"""Locks between processes: what one of them holds until it lets go or ends, however.

A lock of the file system (flock) where there is one; elsewhere, and in buckets, a lease.
"""

import contextlib
import errno
import fcntl
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from harness.leases import Lease, in_bucket, is_leased, take_lease

_NO_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)


def take_lock(path: Path, *, seconds: float = 0.0) -> IO[str] | Lease | None:
    """Returns what is locked until it is closed; None if another process holds it.

    Args:
        path: of the file, made if absent.
        seconds: to try for. Whether the holder of a lease on another machine is alive takes until
            its next heartbeat to see, and EXPIRY if it is not.

    Raises:
        OSError: the file cannot be opened.
    """
    if in_bucket(path):
        return take_lease(path, seconds)
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
        except OSError as error:
            file.close()
            if error.errno in _NO_FLOCK:
                return take_lease(_lease_path(path), seconds)
            raise


def is_locked(path: Path) -> bool:
    """Returns whether a process holds a file that `take_lock` locks.

    Of a lease on another machine the clocks decide: good enough to look at, not to take it.
    """
    if in_bucket(path):
        return is_leased(path)
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        return error.errno in _NO_FLOCK and is_leased(_lease_path(path))


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits for a file, made if absent, or a folder, and holds it for the block."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                raise
            stack.enter_context(take_lease(_lease_path(path), math.inf))
        yield


def _lease_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.lease")
