"""The process of a script: signals that ask it to stop, and streams that nobody reads any more.

Of the signals the first one stops politely, a later one at once.

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
import signal
import socket
import sys
import threading
import time
from collections.abc import Collection

# Schedulers may signal both a process and its group: one that comes so soon is no hurry.
SECONDS_OF_ONE_SIGNAL = 0.5
# Of a closed terminal and of the limit of CPU time: the system itself sends them again and again.
REPEATED = (signal.SIGHUP, signal.SIGXCPU)
# What asks a run to save and stop. Slurm announces an end by SIGUSR1 or SIGUSR2.
STOPPING = (signal.SIGTERM, signal.SIGINT, *REPEATED, signal.SIGUSR1, signal.SIGUSR2)


def end(number: int, words: str = "stopped") -> None:
    """Ends the process at once, with a line on stderr and the exit code that shells give."""
    try:
        if select.select((), (2,), (), 0)[1]:  # not if nobody reads what is written before
            os.write(2, f"\n{sys.argv[0]}: {words}\n".encode("utf-8", "replace"))
    finally:
        os._exit(128 + number)


class StopSignals:
    """Context manager in which signals ask to stop, and a later one ends the process at once.

    Python calls handlers between two lines of the main thread: not while a program is compiled or a
    file written, for minutes. So a thread watches for the later ones; nothing is raised, since an
    exception in the middle of anything might be caught there, or end in a traceback.

    Signals that are ignored when it begins stay so (nohup). Another handler that the block sets
    counts alone.

    Args:
        numbers: the signals.
        words: to say at the first one; "": nothing.
        last_words: to say at a later one.
    """

    def __init__(self, numbers: Collection[int], words: str, last_words: str):
        self._numbers, self._words, self._last_words = numbers, words, last_words
        self._received = False
        self._first: float | None = None  # when, by time.monotonic()
        self._previous = {}

    def __enter__(self):
        # Only the main thread may set handlers; a run in another one cannot be interrupted so.
        if threading.current_thread() is threading.main_thread():
            self._reader, self._writer = socket.socketpair()
            self._writer.setblocking(False)
            self._previous_fd = signal.set_wakeup_fd(
                self._writer.fileno(), warn_on_full_buffer=False
            )
            self._thread = threading.Thread(target=self._watch, daemon=True, name="signals")
            self._thread.start()
            for number in self._numbers:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_):
        if self._previous or hasattr(self, "_thread"):
            for number, handler in self._previous.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._previous_fd)
            self._writer.close()  # ends the thread
            self._thread.join()
            self._reader.close()

    def received(self) -> bool:
        """True once a signal has come."""
        return self._received

    def _handle(self, number, _frame) -> None:
        """Is called in the main thread."""
        self._received = True

    def _watch(self) -> None:
        while numbers := self._reader.recv(1):
            number = numbers[0]
            if number in self._previous and signal.getsignal(number) == self._handle:
                self._note(number)

    def _note(self, number: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
            if self._words:
                name = signal.Signals(number).name
                print(f"\n{name}: {self._words}", file=sys.stderr, flush=True)
        elif now - self._first > SECONDS_OF_ONE_SIGNAL and number not in REPEATED:
            end(number, self._last_words)


class CtrlC(StopSignals):
    """Raises KeyboardInterrupt at the first Ctrl-C, so that scripts leave nothing half-done.

    Where Python cannot pass it on, as in a callback of the garbage collector, the process ends.
    """

    def __init__(self):
        super().__init__((signal.SIGINT,), "", "stopped")

    def __enter__(self):
        self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        sys.unraisablehook = self._hook

    def _unraisable(self, what) -> None:
        if issubclass(what.exc_type, KeyboardInterrupt):
            end(signal.SIGINT)
        self._hook(what)

    def _handle(self, number, frame):
        is_first = not self.received()
        super()._handle(number, frame)
        if is_first:
            raise KeyboardInterrupt


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
