"""Runs on this machine, some at a time."""

import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

from harness.arguments import problem
from harness.errors import ConfigError, Interrupted
from sweeps.launchers.devices import share_out
from sweeps.processes import begin, tell
from sweeps.runs import Run
from sweeps.states import is_running, note_end, state_of
from sweeps.status import Progress

SECONDS_BETWEEN_LOOKS = 0.2
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
        free, waiting = deque(self._shares), deque(runs)
        processes: dict[str, tuple[Run, subprocess.Popen, object]] = {}
        elsewhere: list[Run] = []  # under way, though not by us: an earlier launcher's
        with _Signals() as signals, Progress(folder) as progress:
            progress.say(f"{len(runs)} to do, {len(self._shares)} at a time")
            sent = 0
            while processes or ((waiting or elsewhere) and not signals.received):
                if sent != signals.received:
                    sent = signals.received
                    for _, process, _ in processes.values():
                        tell(process, signal.SIGKILL if sent > 1 else signal.SIGTERM)
                while free and waiting and not signals.received:
                    run = waiting.popleft()
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
                        is_stopped = sent and process.returncode < 0
                        code = Interrupted.exit_code if is_stopped else process.returncode
                        note_end(folder, run, code)
                        progress.ended(run)
                for run in [run for run in elsewhere if not is_running(folder, run)]:
                    elsewhere.remove(run)
                    is_over = state_of(folder, run).status in ("done", "failed", "pruned")
                    progress.ended(run) if is_over else waiting.append(run)
                progress.show()
                time.sleep(SECONDS_BETWEEN_LOOKS)
        if signals.received:
            raise Interrupted("stopped; the same command goes on")


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
