"""The process of one run: started, noted, and told to stop."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from sweeps.runs import Run
from sweeps.states import note_end, note_start


def begin(
    folder: Path, run: Run, *, environment: Mapping[str, str] = {}, cores: Iterable[int] = ()
) -> subprocess.Popen:
    """Starts train.py for a run; what it prints is added to FOLDER/NAME.log.

    It is in a session of its own: Ctrl-C reaches the launcher alone, which tells its runs to stop.

    Args:
        folder: of the sweep.
        run: the run.
        environment: variables that it gets in addition to ours, such as CUDA_VISIBLE_DEVICES.
        cores: of the processor, the only ones that it may use; none: all.
    """
    with (folder / f"{run.name}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *run.command(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    if cores := set(cores):
        with contextlib.suppress(OSError):  # it has ended
            os.sched_setaffinity(process.pid, cores)
    note_start(folder, run, process.pid)
    return process


def tell(process: subprocess.Popen, number: signal.Signals) -> None:
    """Sends a signal to a run and to what it has started."""
    if number == signal.SIGTERM:  # the run alone: it saves, then ends its own workers
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def run_to_end(folder: Path, run: Run) -> int:
    """Runs one run in the foreground, for jobs of a scheduler; returns its exit code.

    The signals by which schedulers announce an end reach the run as SIGTERM: it saves and exits
    with 75. Many signal all processes of a job: the run inherits that SIGUSR1 and SIGUSR2, which
    would kill it, are ignored.
    """
    user = (signal.SIGUSR1, signal.SIGUSR2)
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in user}
    process = begin(folder, run)
    is_told = False

    def tell_once(*_):  # a second SIGTERM would end the run while it saves
        nonlocal is_told
        if not is_told:
            is_told = True
            tell(process, signal.SIGTERM)

    for number in (*user, signal.SIGTERM, signal.SIGINT):
        previous.setdefault(number, signal.getsignal(number))
        signal.signal(number, tell_once)
    try:
        code = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    note_end(folder, run, code)
    return code
