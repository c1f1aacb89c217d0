"""A run that no longer moves says where it hangs, and ends, so that a scheduler starts it again."""

import faulthandler
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from harness.arguments import problem
from harness.errors import ConfigError
from parallel import peers
from parallel.endings import end_now
from process.streams import say_directly, within

EXIT_CODE = 70  # EX_SOFTWARE
HUNG_SECONDS = 1800.0  # the default: compilation of a large model is in it
WRITING_SECONDS = 10.0  # for the file, on a disk that may be what hangs
ASLEEP_SECONDS = 5.0  # the watch looks every second; what takes longer has not run at all
LEAVING_SECONDS = 15.0  # process 0 lets the others end first
ENDING_SECONDS = 60.0  # the most that all of it takes


class Watchdog:
    """Context manager that ends the process if nothing has moved for some time.

    What hangs is usually not this process: a collective that waits for another one, a disk, a
    driver. So it is no exception, which would have to wait as well: the stacks of all threads go to
    stderr and to a file, and the process ends.

    Args:
        seconds: without any progress; 0: wait for ever.
        write: gets the stacks as text, to keep them.

    Raises:
        ConfigError: seconds is no time.
    """

    def __init__(self, seconds: float, write: Callable[[str], None]):
        if not seconds >= 0:  # not a number, too
            wrong = problem("--watchdog_seconds", seconds, "out of range", "0 and up")
            raise ConfigError(wrong)
        self._seconds, self._write = seconds, write
        self._stop = threading.Event()

    def progress(self, what: str) -> None:
        """Something has been finished: a step, a batch of an evaluation, a save."""
        self._moved, self._what = time.monotonic(), what

    def __enter__(self):
        self.progress("the start")
        if self._seconds:
            threading.Thread(target=self._watch, daemon=True, name="watchdog").start()
        return self

    def __exit__(self, *_):
        self._stop.set()

    def _watch(self) -> None:
        others, looked = peers.current(), time.monotonic()
        while not self._stop.wait(min(1.0, self._seconds / 4)):
            before, looked = looked, time.monotonic()
            if looked - before > ASLEEP_SECONDS:  # this process was stopped, or its machine
                self.progress(self._what)
            still = time.monotonic() - self._moved
            hung = other_hung = others is not None and others.code_of_others() == EXIT_CODE
            hung |= still > self._seconds
            if not hung:
                continue
            what = f"nothing has moved for {still:.0f} s; the last was {self._what}"
            if other_hung:
                what = f"another process hangs; {what}"
            self._end(what, others)

    def _end(self, what: str, others: peers.Peers | None) -> None:
        last_resort = threading.Timer(ENDING_SECONDS, os._exit, (EXIT_CODE,))
        last_resort.daemon = True
        last_resort.start()
        stacks = all_stacks()
        say_directly(f"\n{stacks}")
        within(WRITING_SECONDS, lambda: self._write(stacks))  # a copy of what stderr has
        if others is not None:
            within(LEAVING_SECONDS, lambda: others.leave(EXIT_CODE, what))
        end_now(EXIT_CODE, what)
        last_resort.cancel()  # never reached but in tests


def all_stacks() -> str:
    """Returns where each thread of this process is, with their names."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        text = file.read().decode("utf-8", "replace")
    for ident, name in names.items():
        text = text.replace(f"hread 0x{ident:016x} ", f"hread {name} 0x{ident:016x} ")
    return text


def stacks_path(workdir: Path) -> Path:
    """Returns where a run keeps the stacks of this process."""
    process = peers.current().index if peers.current() else 0
    return workdir / f"stacks_{process}.txt"
