"""Runs on this machine, some at a time."""

import dataclasses
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Protocol

from harness.arguments import problem
from harness.errors import ConfigError, Interrupted
from sweeps.launchers.devices import Share, share_out
from sweeps.processes import begin, tell
from sweeps.runs import Run
from sweeps.states import is_running, note_end, state_of
from sweeps.status import Progress

SECONDS_BETWEEN_LOOKS = 0.2
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Supply(Protocol):
    """What gives the next run, and hears how runs fare."""

    def take(self) -> Run | None:
        """Returns a run to start, None if there is none, or none yet."""

    def is_empty(self) -> bool:
        """Returns whether there is none, and there will be none."""

    def is_hopeless(self, run: Run) -> bool:
        """Returns whether a run that is under way is to be ended: pruned."""

    def ended(self, run: Run) -> None:
        """Hears that a run has ended, done or not."""


class _Listed:
    """A supply of runs that are known beforehand."""

    def __init__(self, runs: list[Run]):
        self._waiting = deque(runs)

    def take(self) -> Run | None:
        return self._waiting.popleft() if self._waiting else None

    def is_empty(self) -> bool:
        return not self._waiting

    def is_hopeless(self, run: Run) -> bool:
        return False

    def ended(self, run: Run) -> None:
        pass


@dataclasses.dataclass
class _Begun:
    """A run that is under way."""

    run: Run
    process: subprocess.Popen | None = None  # None: it is another launcher's
    share: Share | None = None
    is_pruned: bool = False


class Local:
    """Starts a run for each share of this machine's devices, and the next when one ends.

    Ctrl-C and SIGTERM let each run save what it has; a second one kills them. Either way the same
    command goes on later.

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
        self.work(folder, _Listed(runs), f"{len(runs)} to do")

    def work(self, folder: Path, supply: Supply, what: str) -> None:
        """Runs what a supply gives, until it is empty and the last run has ended.

        Args:
            folder: of the sweep.
            supply: of runs.
            what: there is to do, to show.

        Raises:
            Interrupted: by a signal.
        """
        free, begun, sent = deque(self._shares), [], 0
        with _Signals() as signals, Progress(folder) as progress:
            progress.say(f"{what}, {len(self._shares)} at a time")
            while True:
                while free and not signals.received and (run := supply.take()):
                    if is_running(folder, run):  # an earlier launcher's, which has been killed
                        progress.say(f"{run.name} is under way elsewhere")
                        begun.append(_Begun(run))
                        continue
                    share = free.popleft()
                    process = begin(folder, run, environment=share.environment, cores=share.cores)
                    begun.append(_Begun(run, process, share))
                if sent != signals.received:
                    sent = signals.received
                    for one in begun:
                        if one.process:
                            tell(one.process, signal.SIGKILL if sent > 1 else signal.SIGTERM)
                for one in list(begun):
                    if one.process and not one.is_pruned and supply.is_hopeless(one.run):
                        one.is_pruned = True
                        tell(one.process, signal.SIGTERM)
                    if not self._has_ended(folder, one):
                        continue
                    begun.remove(one)
                    if one.share:
                        free.append(one.share)
                        if one.process.returncode and is_running(folder, one.run):
                            begun.append(_Begun(one.run))  # another one was faster
                            continue
                        self._note_end(folder, one, is_stopped=sent > 0)
                    elif state_of(folder, one.run).status in ("interrupted", "waiting"):
                        supply = _Before(one.run, supply)  # it was killed, too
                        continue
                    supply.ended(one.run)
                    progress.ended(one.run)
                if not any(one.process for one in begun) and signals.received:
                    break
                if not begun and supply.is_empty():
                    break
                progress.show()
                time.sleep(SECONDS_BETWEEN_LOOKS)
        if signals.received:
            raise Interrupted("stopped; the same command goes on")

    @staticmethod
    def _has_ended(folder: Path, one: _Begun) -> bool:
        return one.process.poll() is not None if one.process else not is_running(folder, one.run)

    @staticmethod
    def _note_end(folder: Path, one: _Begun, *, is_stopped: bool) -> None:
        code = one.process.returncode
        # A run that was not ready to save, or not given the time, can go on too.
        if (is_stopped or one.is_pruned) and code < 0:
            code = Interrupted.exit_code
        is_pruned = one.is_pruned and code == Interrupted.exit_code
        note_end(folder, one.run, code, **({"pruned": True} if is_pruned else {}))


class _Before:
    """A supply that gives one run before all others."""

    def __init__(self, run: Run, others: Supply):
        self._run, self._others = run, others
        self.is_hopeless, self.ended = others.is_hopeless, others.ended

    def take(self) -> Run | None:
        run, self._run = self._run, None
        return run or self._others.take()

    def is_empty(self) -> bool:
        return self._run is None and self._others.is_empty()


class _Signals:
    """Counts the signals that ask to stop, instead of ending the process."""

    def __init__(self):
        self.received = 0

    def __enter__(self):
        is_main = threading.current_thread() is threading.main_thread()
        self._previous = {n: signal.signal(n, self._handle) for n in STOPS if is_main}
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, *_):
        self.received += 1
        what = "killing the runs" if self.received > 1 else "letting the runs save; again: kills"
        print(f"\n{what}", file=sys.stderr, flush=True)
