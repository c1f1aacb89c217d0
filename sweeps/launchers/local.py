"""Runs on this machine, some at a time."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from harness.arguments import problem
from harness.errors import ConfigError, Interrupted
from sweeps.launchers.devices import share_out
from sweeps.processes import begin, tell
from sweeps.runs import Run
from sweeps.states import is_running, note_end, pid_of, state_of
from sweeps.status import Progress

SECONDS_BETWEEN_LOOKS = 0.2
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Source(Protocol):
    """Which runs there are to do; it may decide so while others run."""

    def next(self) -> Run | None:
        """Returns a run to start, None if there is none at the moment."""

    def again(self, run: Run) -> None:
        """Takes back a run that another process began and did not finish."""

    def goes_on(self, run: Run) -> bool:
        """Returns whether a run that is under way is worth its time; asked again and again."""

    def ended(self, run: Run) -> None:
        """Is told of each run that has ended."""


class Listed:
    """These runs, in their order."""

    def __init__(self, runs: Iterable[Run]):
        self._left = deque(runs)

    def next(self):
        return self._left.popleft() if self._left else None

    def again(self, run):
        self._left.append(run)

    def goes_on(self, run):
        return True

    def ended(self, run):
        pass


class Local:
    """Starts a run for each share of this machine's devices, and the next when one ends.

    Ctrl-C and SIGTERM let each run save what it has; a second one kills them. Either way the same
    command resumes later.

    Args:
        parallel: how many at a time; None: one for each GPU or TPU chip, and one on a CPU.
    """

    def __init__(self, *, parallel: int | None = None):
        if parallel is not None and parallel < 1:
            raise ConfigError(problem("--launch.parallel", parallel, "out of range", "1 or more"))
        self._shares = share_out(parallel)

    def launch(self, folder: Path, runs: list[Run]) -> None:
        """Runs all of them; returns when the last has ended.

        Raises:
            Interrupted: by a signal.
        """
        self.work(folder, Listed(runs), what=f"{len(runs)} to do")

    def work(self, folder: Path, source: Source, *, what: str, total: int | None = None) -> None:
        """Runs what there is to do; returns when nothing is left and the last has ended.

        Args:
            folder: of the sweep.
            source: of the runs.
            what: there is to do, in words.
            total: runs that the sweep will have; None: those of its manifest.

        Raises:
            Interrupted: by a signal.
        """
        free = deque(self._shares)
        processes: dict[str, tuple[Run, subprocess.Popen, object]] = {}
        elsewhere: list[Run] = []  # under way, though not by us: an earlier launcher's
        pruned: set[str] = set()
        with (
            _Signals() as signals,
            Progress(folder, total) as progress,
            _ended_with_us(folder, processes),
        ):
            progress.say(f"{what}, {len(self._shares)} at a time")
            sent, is_left = 0, True
            while processes or ((is_left or elsewhere) and not signals.received):
                if sent != signals.received:
                    sent = signals.received
                    for _, process, _ in processes.values():
                        tell(process, signal.SIGKILL if sent > 1 else signal.SIGTERM)
                while free and not signals.received:
                    run = source.next()
                    is_left = run is not None
                    if not is_left:
                        break
                    if is_running(folder, run):
                        progress.say(f"{run.name} is under way elsewhere")
                        elsewhere.append(run)
                        continue
                    share = free.popleft()
                    process = begin(folder, run, environment=share.environment, cores=share.cores)
                    processes[run.name] = run, process, share
                for run, process, share in list(processes.values()):
                    if process.poll() is not None:
                        del processes[run.name]
                        free.append(share)
                        if process.returncode and is_running(folder, run):  # it lost the race
                            elsewhere.append(run)
                            continue
                        # A run that was not ready to save, or not given the time, can go on too.
                        is_stopped = (sent or run.name in pruned) and process.returncode < 0
                        code = Interrupted.exit_code if is_stopped else process.returncode
                        note_end(
                            folder, run, code, **{"pruned": True} if run.name in pruned else {}
                        )
                        progress.ended(run)
                        source.ended(run)
                    elif run.name not in pruned and not sent and not source.goes_on(run):
                        pruned.add(run.name)
                        tell(process, signal.SIGTERM)
                for run in [run for run in elsewhere if not is_running(folder, run)]:
                    elsewhere.remove(run)
                    if state_of(folder, run).status in ("done", "failed", "pruned"):
                        progress.ended(run)
                        source.ended(run)
                    else:
                        source.again(run)
                        is_left = True
                progress.show()
                time.sleep(SECONDS_BETWEEN_LOOKS)
        if signals.received:
            for pid in filter(None, (pid_of(folder, run) for run in elsewhere)):
                with contextlib.suppress(ProcessLookupError):  # of a launcher that was killed:
                    os.kill(pid, signal.SIGTERM)  # nobody else would tell it
            raise Interrupted("stopped; run the same command to resume")


@contextlib.contextmanager
def _ended_with_us(folder: Path, processes: Mapping[str, tuple]) -> Iterator[None]:
    """Lets the runs save and end if the block raises."""
    try:
        yield
    except BaseException:
        for _, process, _ in processes.values():
            tell(process, signal.SIGTERM)
        for run, process, _ in processes.values():
            process.wait()
            with contextlib.suppress(OSError):  # of a full disk, which may be what ends us
                note_end(folder, run, Interrupted.exit_code if process.returncode else 0)
        raise


class _Signals:
    """Counts the signals that ask to stop, instead of ending the process."""

    def __init__(self):
        self.received = 0

    def __enter__(self):
        is_main = threading.current_thread() is threading.main_thread()
        # What is ignored stays so: nohup.
        numbers = [n for n in STOPS if is_main and signal.getsignal(n) is not signal.SIG_IGN]
        self._previous = {n: signal.signal(n, self._handle) for n in numbers}
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, *_):
        self.received += 1
        what = "killing the runs" if self.received > 1 else "letting the runs save; again: kills"
        print(f"\n{what}", file=sys.stderr, flush=True)
