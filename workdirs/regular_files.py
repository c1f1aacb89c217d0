"""Opens files; a pipe in the place of one is an error, and not waited for."""

import errno
import os
import stat
from pathlib import Path
from typing import IO

from harness.lease_files import in_bucket


class NoRegularFile(IsADirectoryError):
    """In the place of a file is a pipe, a socket or a device."""


def open_regular(path: Path) -> IO[bytes]:
    """Opens a file to read.

    Raises:
        IsADirectoryError: it is a folder; as NoRegularFile, what reading might wait for.
        OSError: it cannot be opened.
    """
    if in_bucket(path):
        return path.open("rb")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:  # of a socket
            raise NoRegularFile(errno.EISDIR, "no regular file", str(path)) from None
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise NoRegularFile(errno.EISDIR, "no regular file", str(path))


def read_regular(path: Path) -> bytes:
    """Returns the contents of a file; raises as `open_regular`."""
    with open_regular(path) as file:
        return file.read()
