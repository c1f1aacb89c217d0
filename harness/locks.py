"""Locks between processes: what one of them holds until it lets go or ends, however.

A lock of the file system (flock) where there is one; elsewhere, and in buckets, a lease. One folder
may be mounted on some machines with flock and on others without, so that who has the lock looks for
a lease, too.
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


def take_lock(
    path: Path, *, seconds: float = 0.0, leased: bool = False
) -> IO[str] | Lease | contextlib.ExitStack | None:
    """Returns what is locked until it is closed; None if another process holds it.

    Args:
        path: of the file, made if absent.
        seconds: to try for. Whether the holder of a lease on another machine is alive takes until
            its next heartbeat to see, and EXPIRY if it is not.
        leased: take a lease, too, so that machines without flock see that it is held: for what is
            held for long.

    Raises:
        OSError: the file cannot be opened.
    """
    if in_bucket(path):
        return take_lease(path, seconds)
    if path.is_fifo():  # opening it would wait for ever
        raise OSError(errno.EINVAL, "It is a pipe and should be a file", str(path))
    deadline = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("a"))
        while True:
            try:
                _flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return None
                time.sleep(0.02)
            except OSError as error:
                if error.errno in _NO_FLOCK:
                    return take_lease(_lease_path(path), seconds)
                raise
        if leased:
            lease = take_lease(_lease_path(path), seconds, flock=True)
            if lease is None:
                return None
            stack.enter_context(lease)
        elif is_leased(_lease_path(path), flock=True):
            return None
        return stack.pop_all()


def _flock(descriptor: int, operation: int) -> None:
    for tries_left in (2, 1, 0):
        try:
            return fcntl.flock(descriptor, operation)
        except OSError as error:
            if error.errno != errno.ENOLCK or not tries_left:  # a server may be short of locks
                raise
        time.sleep(0.1)


def is_locked(path: Path) -> bool:
    """Returns whether a process holds a file that `take_lock` locks.

    Of a lease on another machine the clocks decide: good enough to look at, not to take it.
    """
    if in_bucket(path):
        return is_leased(path)
    if path.is_fifo():
        return False
    try:
        with path.open() as file:
            _flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
            return is_leased(_lease_path(path), flock=True)
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
            _flock(descriptor, fcntl.LOCK_EX)
            while is_leased(_lease_path(path), flock=True):
                time.sleep(0.1)
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                raise
            stack.enter_context(take_lease(_lease_path(path), math.inf))
        yield


def _lease_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.lease")
