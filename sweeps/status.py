"""How a sweep stands, as a table on the terminal that may keep up with it."""

import contextlib
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness.errors import printable
from sweeps.metric import Metric, metric_of
from sweeps.runs import Run, read_runs
from sweeps.states import State, count, in_words, state_of

_COLORS = {"done": "green", "running": "cyan", "failed": "red", "interrupted": "yellow"}
SECONDS_BETWEEN_TABLES = 1.0


def show(folder: Path, metric: str | None = None, *, watch: bool = False) -> None:
    """Prints the table of a sweep; keeps it up to date until nothing runs, if asked for.

    Args:
        folder: of the sweep.
        metric: to show; None: the one by which runs choose their best checkpoint.
        watch: whether to go on.

    Raises:
        ConfigError: it is not the folder of a sweep.
    """
    runs = read_runs(folder)
    console = Console()
    if not watch:
        console.print(_table(folder, runs, metric))
        return
    with contextlib.suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        while True:
            states = _states(folder, runs)
            over = "running" not in count(states.values())
            rows = None if over else console.height - 6
            live.update(_table(folder, runs, metric, states, rows), refresh=True)
            if over:
                return
            time.sleep(SECONDS_BETWEEN_TABLES)


class Progress:
    """What a launcher shows while it waits: a line for each run that ends, and on a terminal, the
    table of those that are under way.

    Args:
        folder: of the sweep.
        total: runs that it will have; None: those of its manifest.
    """

    def __init__(self, folder: Path, total: int | None = None):
        self._folder, self._total = folder, total
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._next_table = 0.0

    def __enter__(self):
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_):
        if self._console.is_terminal:
            self._live.stop()

    def say(self, line: str) -> None:
        """Prints a line above the table."""
        if self._console.is_terminal:
            self._console.print(Text(line))
        else:
            print(line, file=sys.stderr, flush=True)

    def ended(self, run: Run) -> None:
        """Says how a run has ended."""
        states = _states(self._folder, read_runs(self._folder))
        state = states[run.name]
        number = sum(s.status in ("done", "pruned", "failed") for s in states.values())
        metric = metric_of(self._folder, [run])
        result = state.last_line or metric.in_words(state.metrics)
        line = f"[{number}/{self._total or len(states)}] {state.status:<11} {run.name}  {result}"
        self.say(f"{line}  ({_time(state.seconds)})")

    def show(self) -> None:
        """Brings the table up to date, once a second."""
        if self._console.is_terminal and time.monotonic() >= self._next_table:
            rows = self._console.height // 2
            runs = read_runs(self._folder)
            self._live.update(_table(self._folder, runs, None, None, rows), refresh=True)
            self._next_table = time.monotonic() + SECONDS_BETWEEN_TABLES


def _states(folder: Path, runs: list[Run]) -> dict[str, State]:
    return {run.name: state_of(folder, run) for run in runs}


def _table(
    folder: Path,
    runs: list[Run],
    metric_name: str | None,
    states: Mapping[str, State] | None = None,
    most_rows: int | None = None,
) -> Group:
    """Returns the table and a line below it.

    Args:
        folder: of the sweep.
        runs: of the sweep.
        metric_name: to show, None for the runs' own.
        states: of the runs, if they are known.
        most_rows: runs to show; those under way and failed come first. None: all, in their order.
    """
    states = states or _states(folder, runs)
    metric = metric_of(folder, runs, metric_name)
    shown = runs
    if most_rows is not None and len(runs) > most_rows:
        order = ("running", "failed", "interrupted", "done", "pruned", "waiting")
        by_interest = sorted(runs, key=lambda run: order.index(states[run.name].status))
        shown = by_interest[: max(most_rows, 1)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, style in (("run", {"overflow": "fold"}), ("status", {}), ("steps", {}), ("time", {})):
        table.add_column(name, **style)
    table.add_column(metric.name, justify="right")
    table.add_column("")
    for run in shown:
        state = states[run.name]
        steps = f"{state.step:,}" if state.step else ""
        if state.total_steps and state.status != "done":
            steps += f" of {state.total_steps:,}"
        table.add_row(
            Text(printable(run.name)),
            Text(state.status, style=_COLORS.get(state.status, "")),
            steps,
            _time(state.seconds) if state.seconds else "",
            metric.short(state.metrics),
            Text(state.last_line, style="red"),
        )
    more = [f"and {len(runs) - len(shown)} runs more"] if len(runs) > len(shown) else []
    return Group(table, *more, Text(_summary(runs, states, metric)))


def _summary(runs: list[Run], states: Mapping[str, State], metric: Metric) -> str:
    counts = count(states.values())
    parts = [in_words(counts)]
    if left := seconds_left(states.values()):
        parts.append(f"about {_time(left)} left")
    with_value = [run for run in runs if metric.value(states[run.name].metrics) is not None]
    if with_value:
        best = max(with_value, key=lambda run: metric.rank(states[run.name].metrics))
        value = metric.short(states[best.name].metrics)
        parts.append(f"best {metric.name} {value}: {printable(best.name)}")
    return "; ".join(parts)


def seconds_left(states) -> float | None:
    """Returns how long the rest of a sweep takes, by what its runs have taken so far.

    Returns:
        None where nothing runs, or nothing is known yet.
    """
    states = list(states)
    known = [(s.seconds, s.share) for s in states if s.seconds and s.share]
    running = sum(state.status == "running" for state in states)
    if not known or not running:
        return None
    whole = sum(seconds for seconds, _ in known) / sum(share for _, share in known)
    over = ("done", "pruned", "failed")
    left = sum(1 - state.share for state in states if state.status not in over)
    return whole * left / running


def _time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes} min"
        if hours
        else f"{minutes} min {seconds} s"
        if minutes
        else f"{seconds} s"
    )
