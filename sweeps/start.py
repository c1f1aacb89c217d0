"""Starts what is not done of a sweep, once everything has been checked."""

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from harness.arguments import Override
from harness.errors import ConfigError, RunError, input_errors
from harness.locks import take_lock
from harness.strict_config import check_section, unknown_name
from sweeps.check import check_runs
from sweeps.launchers.local import Local
from sweeps.launchers.printing import Print
from sweeps.launchers.skypilot import SkyPilot
from sweeps.launchers.slurm import Slurm
from sweeps.runs import MANIFEST, Run, read_runs, write_manifest
from sweeps.states import State, count, in_words, state_of


class Launcher(Protocol):
    """Where runs run. Its keyword arguments are options of the command line, as --launch.KEY."""

    def launch(self, folder: Path, runs: list[Run]) -> None:
        """Starts runs, in this order.

        Args:
            folder: of the sweep.
            runs: those to be started. Each notes its start and its end, see sweeps/states.py.
        """


LAUNCHERS = {"local": Local, "slurm": Slurm, "skypilot": SkyPilot, "print": Print}


class RunsFailed(RunError):
    """Some runs of a sweep have failed; the others are done."""


def create_launcher(name: str, options: Mapping[str, str]) -> Launcher:
    """Returns a launcher.

    Args:
        name: of LAUNCHERS.
        options: its keyword arguments, as text.

    Raises:
        ConfigError: the name or an option is unknown, or of another type.
    """
    if name not in LAUNCHERS:
        raise ConfigError(unknown_name(f"--launch={name}", name, LAUNCHERS))
    given = {key: Override(text) for key, text in options.items()}
    with input_errors():
        return LAUNCHERS[name](**check_section(given, LAUNCHERS[name], "--launch"))


def start(
    folder: Path,
    runs: list[Run],
    launcher: Launcher,
    *,
    retry_failed: bool = False,
    only: Collection[str] | None = None,
) -> dict[str, State]:
    """Starts the runs that are not done.

    Args:
        folder: of the sweep, made if absent. If it has a manifest, `runs` may add to it.
        runs: all of the sweep.
        launcher: from create_launcher.
        retry_failed: whether those that failed before start again.
        only: names of the runs that may start now; None: all.

    Returns:
        Where each run stands afterwards, by its name.

    Raises:
        ConfigError: one of the runs cannot work, the folder is that of another sweep, or another
            launcher is at it. Nothing is started.
    """
    _check_same_sweep(folder, runs)
    chosen = [run for run in runs if only is None or run.name in only]
    left = [run for run in chosen if _is_left(state_of(folder, run), retry_failed)]
    check_runs(left)
    with launching(folder):
        before = _check_same_sweep(folder, runs)  # again: another launcher may have been faster
        if len(runs) > len(before) > 0:
            print(f"{len(runs) - len(before)} runs are new in {folder}")
        if [run.name for run in before] != [run.name for run in runs]:
            write_manifest(folder, runs)
        states = {run.name: state_of(folder, run) for run in runs}
        left = [run for run in left if _is_left(states[run.name], retry_failed)]
        counts = count(states.values())
        failed = "" if retry_failed or "failed" not in counts else "; --retry_failed: these again"
        print(f"{folder}: {len(runs)} runs, {in_words(counts)}{failed}", flush=True)
        if left:
            launcher.launch(folder, left)
    return {run.name: state_of(folder, run) for run in runs}


def _is_left(state: State, retry_failed: bool) -> bool:
    is_over = state.status in ("done", "pruned")
    return not is_over and (state.status != "failed" or retry_failed)


def _check_same_sweep(folder: Path, runs: list[Run]) -> list[Run]:
    """Returns the runs of the manifest, if there is one; raises unless `runs` has them all."""
    if not (folder / MANIFEST).exists():
        return []
    before, now = read_runs(folder), {run.name: run for run in runs}
    for run in before:
        what = None
        if run.name not in now:
            what = f"its run {run.name} is not among these"
        elif (other := now[run.name]) != run:
            old, new = (json.dumps([r.config, r.overrides]) for r in (run, other))
            what = f"its run {run.name} is {old} there, {new} now"
        if what:
            raise ConfigError(f"{folder} holds another sweep ({what}); choose another --workdir")
    return before


@contextlib.contextmanager
def launching(folder: Path) -> Iterator[None]:
    """Locks other launchers out of a sweep for the block.

    Raises:
        ConfigError: another one is at it, or the folder can't be written.
    """
    with input_errors():
        folder.mkdir(parents=True, exist_ok=True)
        lock = take_lock(folder / ".lock")
    if lock is None:
        raise ConfigError(f"another launcher is at work in {folder}")
    with lock:
        yield
