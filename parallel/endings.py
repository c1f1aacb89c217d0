"""How a process ends when it must not wait for others, and how it tells them why."""

import contextlib
import os
import sys
import threading
import time

from harness.errors import RunError, one_line, printable
from process.streams import SECONDS_FOR_READERS, hurry, say_directly, within

_ending = threading.Lock()


def end_now(code: int, line: str = "") -> None:
    """Ends this process, whatever its threads wait for."""
    try:
        if not _ending.acquire(blocking=False):  # another thread does it, with its own line
            time.sleep(10 * SECONDS_FOR_READERS)
            line = ""
        hurry()
        # Not in this thread: another one may hold a stream's lock and wait for its reader.
        for stream in (sys.stdout, sys.stderr):
            within(2 * SECONDS_FOR_READERS, stream.flush)
        if line:
            with contextlib.suppress(OSError, ValueError):
                below_bar = "\n" if os.isatty(2) else ""
                say_directly(f"{below_bar}{sys.argv[0]}: {printable(line)}\n")
    finally:
        os._exit(code)


def describe(error: BaseException) -> tuple[int, str]:
    """Returns the exit code and the line of what ends this process."""
    if isinstance(error, RunError):
        return error.exit_code, one_line(error)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(bool(error.code)), ""
    if isinstance(error, KeyboardInterrupt):
        return 130, "Ctrl-C"
    return 1, f"{type(error).__name__}: {one_line(error)}"
