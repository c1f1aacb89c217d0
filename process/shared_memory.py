"""The shared memory through which worker processes pass images, and workers that die."""

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from harness.arguments import problem
from harness.errors import ConfigError, RunError
from process.signals import STOPPING

FOLDER = Path("/dev/shm")
REMEDY = "0, which needs none; or give the container more, as docker run --shm-size=8g does"


class WorkerDied(RunError):
    """A worker process of the loader has ended without being asked to."""


def _free() -> int | None:
    """Returns how many bytes are free, None where there is no such folder."""
    try:
        found = os.statvfs(FOLDER)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def check_room(num_workers: int, needed: int) -> None:
    """Raises ConfigError if the buffers of the workers do not fit.

    The system would let them begin, and kill one of them when its buffer is full.

    Args:
        num_workers: of the loader.
        needed: bytes of all their buffers.
    """
    free = _free()
    if free is not None and needed > free:
        raise ConfigError(_too_small(num_workers, f"{needed / 2**20:,.0f} MiB are needed, ", free))


def _too_small(num_workers: int, needed: str, free: int | None) -> str:
    what = f"{FOLDER} is too small for the worker processes ({needed}"
    what += f"{(free or 0) / 2**20:,.0f} MiB are free)"
    return problem("config.data.num_workers", num_workers, what, REMEDY)


@contextlib.contextmanager
def worker_errors(num_workers: int) -> Iterator[None]:
    """Turns Grain's error about a worker that has died into one line."""
    try:
        yield
    except RuntimeError as error:
        found = re.search(r"Worker process was terminated.*exit code (-?\d+)", str(error))
        if not found:
            raise
        code = int(found[1])
        if -code == signal.SIGBUS:
            raise WorkerDied(_too_small(num_workers, "it got full, ", _free())) from error
        how = f"exit code {code}"
        if code < 0:
            how = f"signal {-code}{', memory ran out?' if -code == signal.SIGKILL else ''}"
        what = f"a worker process has died ({how})"
        raise WorkerDied(problem("config.data.num_workers", num_workers, what)) from error


def end_with_parent(worker: int, num_workers: int) -> None:
    """Makes a worker process end with the run, also if that is killed, and at no signal before.

    To inherit blocked signals is not enough: multiprocessing unblocks SIGINT and SIGTERM in the
    thread that starts its resource tracker.
    """
    del worker, num_workers
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(5.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end_with_parent").start()
