"""How a process ends when it must not wait for others, and how it tells them why."""

import contextlib
import os
import sys

from harness.errors import RunError, one_line


def end_now(code: int, line: str = "") -> None:
    """Ends this process, whatever its threads wait for."""
    with contextlib.suppress(OSError, ValueError):
        if line:
            below_bar = "\n" if sys.stderr.isatty() else ""
            print(f"{below_bar}{sys.argv[0]}: {line}", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
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
