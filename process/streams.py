"""Streams that nobody reads any more.

stdout and stderr may be closed, on a full disk, or of a terminal that is gone. Whatever writes to
them - print, progress bars, logging, warnings - notices nothing: the files below sys.stdout and
sys.stderr decide. Of a script whose output is what it is for, an unwritable stdout ends it, quietly
if the reader went away ("| head"). One that is there for something else calls
`go_on_without_output` and is never ended by it. An unwritable stderr ends nothing.
"""

import contextlib
import errno
import io
import os
import select
import sys
import threading

READER_IS_GONE = 141  # what shells say of a process that SIGPIPE has ended
CANNOT_WRITE = 1
_GONE = (errno.EPIPE, errno.EIO, errno.EBADF)  # EIO: of a terminal

_needed: set[int] = set()  # numbers of the files without which the script ends
_said: set[int] = set()


class _Unfailing(io.FileIO):
    def write(self, data):
        try:
            while (written := super().write(data)) is None:  # somebody made it non-blocking
                select.select((), (self,), ())
            return written
        except OSError as error:
            _failed(self.fileno(), error)
            return len(data)


def _failed(number: int, error: OSError) -> None:
    name = {1: "stdout", 2: "stderr"}.get(number, "output")
    if number in _needed:
        if threading.current_thread() is threading.main_thread():
            _needed.clear()  # what is still to be written on the way out goes nowhere
        if error.errno not in _GONE:
            _say_once(number, f"{name} cannot be written: {error.strerror}")
        _said.add(number)
        # Not an OSError, which somebody might take for that of another file.
        raise SystemExit(READER_IS_GONE if error.errno in _GONE else CANNOT_WRITE)
    _say_once(number, f"{name} cannot be written ({error.strerror}); going on without it")


def _say_once(number: int, words: str) -> None:
    if number == 1 and number not in _said:
        _said.add(number)
        print(f"{sys.argv[0]}: {words}", file=sys.stderr, flush=True)


def guard_streams() -> None:
    """Puts sys.stdout and sys.stderr on files as described above; for scripts, at their start."""
    for number in (0, 1, 2):  # the next file opened would get the number, and what is printed
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for number, name in ((1, "stdout"), (2, "stderr")):
        old = getattr(sys, name)
        if old is None:  # closed when Python started
            stream = io.TextIOWrapper(_buffered(number), "utf-8", "backslashreplace")
        else:
            stream = io.TextIOWrapper(
                _buffered(number),
                encoding=old.encoding,
                errors=old.errors,
                line_buffering=old.line_buffering or old.write_through,
            )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    _needed.add(1)


def _buffered(number: int) -> io.BufferedWriter:
    return io.BufferedWriter(_Unfailing(number, "w", closefd=False))


def go_on_without_output() -> None:
    """An unwritable stdout ends nothing from now on."""
    _needed.clear()


def flush_streams() -> None:
    """Writes what is still held back, which may end the script, but no traceback shows."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ValueError):  # closed
            stream.flush()
