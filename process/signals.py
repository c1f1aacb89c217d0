"""Signals that ask a process to stop: the first one politely, a later one at once."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Collection

from harness.errors import Interrupted
from process.streams import hurry, say_directly

# Schedulers may signal both a process and its group: one that comes so soon is no hurry.
SECONDS_OF_ONE_SIGNAL = 0.5
# Of a closed terminal and of the limit of CPU time: the system itself sends them again and again.
REPEATED = (signal.SIGHUP, signal.SIGXCPU)
# What asks a run to save and stop. Slurm announces an end by SIGUSR1 or SIGUSR2.
STOPPING = (signal.SIGTERM, signal.SIGINT, *REPEATED, signal.SIGUSR1, signal.SIGUSR2)


def end(number: int, words: str = "stopped") -> None:
    """Ends the process at once, with a line on stderr and the exit code that shells give."""
    end_with(128 + number, words)


def end_with(code: int, words: str) -> None:
    """Ends the process at once, with a line on stderr if somebody reads it."""
    try:
        say_directly(f"\n{sys.argv[0]}: {words}\n")
    finally:
        os._exit(code)


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
            elif self._previous_fd >= 0:  # of a block around this one
                with contextlib.suppress(OSError):
                    os.write(self._previous_fd, numbers)

    def _note(self, number: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
            hurry()
            if self._words:
                say_directly(f"\n{signal.Signals(number).name}: {self._words}\n")
        elif now - self._first > SECONDS_OF_ONE_SIGNAL and number not in REPEATED:
            end(number, self._last_words)


class NothingToSave(StopSignals):
    """The STOPPING signals but Ctrl-C end the process, as something that may be started again."""

    def __init__(self):
        super().__init__(set(STOPPING) - {signal.SIGINT}, "", "")

    def _note(self, number: int) -> None:
        name = signal.Signals(number).name
        end_with(Interrupted.exit_code, f"{name}: nothing to save; the same command resumes")


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
