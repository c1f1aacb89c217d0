"""Keeps from the terminal what Orbax and TensorStore leave behind when a read fails.

Orbax reads the arrays of a checkpoint together in an event loop. After the first failure the loop
ends, and each of the other reads then fails by itself, in threads and destructors, later. What
matters is raised to the caller; all else would be a traceback an array.
"""

import asyncio
import logging
import sys
import threading

_ORBAX = ("/orbax/", "/tensorstore/")
_LEFT_OVER = ("exception was never retrieved", "was destroyed but it is pending")  # asyncio says
_lock, _installed = threading.Lock(), set()


def quiet_reads() -> None:
    """Lets no left-over of a failed read be shown from now on; all other errors are."""
    with _lock:
        for name, is_left_over in (("excepthook", _of_a_loop), ("unraisablehook", _unraisable)):
            if getattr(sys, name) not in _installed:  # others may have set theirs since
                hook = _without(is_left_over, getattr(sys, name))
                _installed.add(hook)
                setattr(sys, name, hook)
        logging.getLogger("asyncio").addFilter(_is_other)  # the same one is added once


def _without(is_left_over, hook):
    def filtered(*args):
        if not is_left_over(*args):
            hook(*args)

    return filtered


def _of_a_loop(kind, error, *_) -> bool:
    return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"


def _unraisable(args) -> bool:
    code = getattr(args.object, "cr_code", None)
    is_theirs = asyncio.iscoroutine(args.object) and any(
        part in code.co_filename for part in _ORBAX
    )
    return is_theirs or _of_a_loop(args.exc_type, args.exc_value)


def _is_other(record: logging.LogRecord) -> bool:
    return not any(words in record.getMessage() for words in _LEFT_OVER)
