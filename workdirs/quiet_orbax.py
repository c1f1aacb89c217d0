"""Keeps from the terminal what Orbax and TensorStore leave behind when a read or a write fails.

Orbax reads and writes the arrays of a checkpoint together, in event loops of background threads.
After the first failure such a loop ends, and each of the other arrays then fails by itself, in
threads and destructors, later. What matters is raised to the caller; all else would be a traceback
an array.
"""

import asyncio
import logging
import sys
import threading

_ORBAX = ("/orbax/", "/tensorstore/")
_LEFT_OVER = ("exception was never retrieved", "was destroyed but it is pending")  # asyncio says
_lock, _installed = threading.Lock(), set()


def quiet_orbax() -> None:
    """Lets no left-over of a failure be shown from now on; all other errors are."""
    with _lock:
        for name, is_left_over in (("excepthook", _of_a_loop), ("unraisablehook", _unraisable)):
            if getattr(sys, name) not in _installed:  # others may have set theirs since
                hook = _without(is_left_over, getattr(sys, name))
                _installed.add(hook)
                setattr(sys, name, hook)
        # The same filter is added once. Orbax logs what it also raises, with a traceback.
        logging.getLogger("asyncio").addFilter(_is_other)
        logging.getLogger("absl").addFilter(_is_news)


def _without(is_left_over, hook):
    def filtered(*args):
        if not is_left_over(*args):
            hook(*args)

    return filtered


def _of_a_loop(kind, error, *_) -> bool:
    return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"


def _unraisable(args) -> bool:
    code = getattr(args.object, "cr_code", None)
    is_theirs = asyncio.iscoroutine(args.object) and _is_orbax(code.co_filename)
    return is_theirs or _of_a_loop(args.exc_type, args.exc_value)


def _is_other(record: logging.LogRecord) -> bool:
    return not any(words in record.getMessage() for words in _LEFT_OVER)


def _is_news(record: logging.LogRecord) -> bool:
    return not (record.exc_info and _is_orbax(record.pathname))


def _is_orbax(file: str) -> bool:
    return any(part in file for part in _ORBAX)
