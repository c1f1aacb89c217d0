"""Streams that nobody reads any more.

stdout and stderr may be closed, on a full disk, or of a terminal that is gone. Whatever writes to
them - print, progress bars, logging, warnings - notices nothing: the files below sys.stdout and
sys.stderr decide. Of a script whose output is what it is for, an unwritable stdout ends it, quietly
if the reader went away ("| head"). One that is there for something else calls
`go_on_without_output` and is never ended by it. An unwritable stderr ends nothing.

A reader may also be there and read nothing: whoever is stopped, or a launcher that waits. What is
printed waits for it, until the process has been asked to stop (`hurry`).
"""

import contextlib
import errno
import io
import os
import select
import sys
import threading
import time
from collections.abc import Callable

READER_IS_GONE = 141  # what shells say of a process that SIGPIPE has ended
CANNOT_WRITE = 1
_GONE = (errno.EPIPE, errno.EIO, errno.EBADF)  # EIO: of a terminal

_needed: set[int] = set()  # numbers of the files without which the script ends
_said: set[int] = set()

SECONDS_TO_START = 1.0  # after which a file or a pipe is told that a script starts
_is_starting = False  # on a terminal
_telling: threading.Timer | None = None  # for a file or a pipe

SECONDS_FOR_READERS = 2.0  # that a process which ends waits for them
_writing = threading.Lock()  # two threads might both find room for one
_hurries = threading.Event()
_unread: set[int] = set()  # numbers of the files whose output has been dropped


class _Unfailing(io.FileIO):
    def write(self, data):
        number, waited_until = self.fileno(), None
        try:
            while True:
                select.select((), (self,), (), 0.25)  # not longer: it goes on after a signal
                with _writing:
                    if select.select((), (self,), (), 0)[1]:
                        # So much is taken without waiting. None: somebody made it non-blocking.
                        written = super().write(data[: select.PIPE_BUF])
                        if written is not None:
                            _unread.discard(number)
                            return written
                if _hurries.is_set():
                    waited_until = waited_until or time.monotonic() + SECONDS_FOR_READERS
                    if number in _unread or time.monotonic() > waited_until:
                        _unread.add(number)
                        return len(data)
        except OSError as error:
            _failed(number, error)
            return len(data)


def hurry() -> None:
    """From now on, what nobody reads for SECONDS_FOR_READERS is dropped."""
    _hurries.set()


def within(seconds: float, act: Callable[[], object]) -> bool:
    """Does something that may wait for ever, for so long; returns whether it was done.

    Afterwards it may go on waiting in its thread, which does not keep the process.
    """

    def try_it() -> None:
        with contextlib.suppress(Exception):
            act()

    thread = threading.Thread(target=try_it, daemon=True, name="last words")
    try:
        thread.start()
    except RuntimeError:  # the interpreter ends
        return False
    thread.join(seconds)
    return not thread.is_alive()


def say_directly(text: str) -> None:
    """Writes to stderr what is read within SECONDS_FOR_READERS.

    Past Python's stream, whose lock may be held by a thread that waits for its reader.
    """
    data, until = text.encode("utf-8", "replace"), time.monotonic() + SECONDS_FOR_READERS

    def write() -> None:
        left = data
        while left and select.select((), (2,), (), max(0.0, until - time.monotonic()))[1]:
            left = left[os.write(2, left[: select.PIPE_BUF]) :]

    within(SECONDS_FOR_READERS, write)


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


def say_starting(words: str) -> None:
    """Says that a script starts, until something else is said: importing takes seconds.

    A terminal shows the words at once; a file or a pipe gets a line if nothing else comes for
    SECONDS_TO_START.
    """
    global _is_starting, _telling
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        _is_starting = True
        sys.stderr.write(f"{words}\r")  # whatever comes begins in their place
        sys.stderr.flush()
        return

    def tell() -> None:  # past Python's stream: the interpreter may be about to end
        with contextlib.suppress(OSError):
            os.write(2, f"{words}\n".encode("utf-8", "replace"))

    _telling = threading.Timer(SECONDS_TO_START, tell)
    _telling.daemon = True
    _telling.start()


def end_starting() -> None:
    """Erases the words of `say_starting`, or keeps them from being said."""
    global _is_starting, _telling
    if _telling:
        _telling.cancel()
        _telling = None
    if _is_starting:
        _is_starting = False
        sys.__stderr__.write("\x1b[K")
        sys.__stderr__.flush()


def go_on_without_output() -> None:
    """An unwritable stdout ends nothing from now on."""
    _needed.clear()


def flush_streams() -> None:
    """Writes what is still held back, which may end the script, but no traceback shows."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ValueError):  # closed
            stream.flush()
