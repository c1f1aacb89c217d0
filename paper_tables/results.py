"""What runs of a table's rows have given: from the folder of the runs, or from committed files.

results/tables/LABEL.jsonl has a line per run: row, seed, metrics, git_commit, command, seconds.
results/tables/LABEL-speed.jsonl has a line per measurement of a row, as benchmarks/ makes them.
"""

import dataclasses
import json
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, input_errors
from harness.files import write_text
from harness.recipes import recipe_from_root
from paper_tables.tables import ROOT, Column, Row, Table, recipe_of
from paper_tables.training import runs_of
from sweeps.runs import MANIFEST, Run, read_runs
from sweeps.states import state_of
from workdirs.config_file import read_record
from workdirs.records import read_lines

RESULTS = ROOT / "results" / "tables"
WORKDIR = Path("runs") / "tables"  # where runs are by default, and in committed commands
Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Ours:
    """Our number for a cell.

    Attributes:
        value: the mean over the runs, in the column's unit; words of a computed column.
        spread: standard deviation over the runs, None for one.
        count: of runs; 0: computed.
        device: that a speed was measured on.
    """

    value: Any
    spread: float | None = None
    count: int = 0
    device: str = ""


class Results:
    """Results of the runs of a table's edition."""

    def __init__(self, table: Table, workdir: Path | None):
        """Reads them.

        Args:
            table: the edition.
            workdir: where the runs of all tables are; None: committed results alone.
        """
        folder = workdir and workdir / table.label
        self._speeds = _by_row(_read(folder and folder / "speed.jsonl"))
        self._speeds = _by_row(_read(RESULTS / f"{table.label}-speed.jsonl")) | self._speeds
        if table.records:
            self._trained = _of_other_command(table)
        else:
            finished = records_of(table, folder) if folder else []
            known = {_key(record): record for record in _read(RESULTS / f"{table.label}.jsonl")}
            self._trained = _by_row([*(known | {_key(r): r for r in finished}).values()])

    def has(self, row: Row) -> bool:
        """Returns whether a run of a row is done."""
        return row.name in self._trained

    def of(self, row: Row, column: Column, unit: float) -> Ours | None:
        """Returns our number for a cell, None where nobody has run it.

        Args:
            row: of the table.
            column: with a metric, or measured.
            unit: what a value is divided by.
        """
        if column.measured:
            found = self._speeds.get(row.name, [])
            return (
                Ours(found[-1][column.measured] / unit, device=found[-1]["device"])
                if found
                else None
            )
        recipe = recipe_of(row, column)
        found = [r for r in self._trained.get(row.name, []) if r.get("config", recipe) == recipe]
        metrics = [record["metrics"].get(column.metric) for record in found]
        values = [value / unit for value in metrics if value is not None]
        if not values:
            return None
        spread = statistics.stdev(values) if len(values) > 1 else None
        return Ours(statistics.fmean(values), spread, len(values))


def records_of(table: Table, folder: Path) -> list[Record]:
    """Returns a record of each finished run of a table, in the order of its rows and seeds.

    Runs of rows that have changed since are left out.

    Args:
        table: an edition.
        folder: of its runs.
    """
    if not (folder / MANIFEST).exists():
        return []
    records = []
    for run in read_runs(folder):
        command = command_of(table, folder, run)
        state = state_of(folder, run)
        if command is None or state.status != "done":
            continue
        about = read_record(folder / run.name)
        records.append(
            {
                "row": run.values["row"],
                "config": recipe_from_root(run.config),
                "seed": about["config"]["seed"],
                "metrics": state.metrics,
                "git_commit": about.get("git_commit", "unknown"),
                "command": command,
                "seconds": round(state.seconds, 1),
            }
        )
    return sorted(records, key=lambda record: _place(table, record))


def command_of(table: Table, folder: Path, run: Run) -> str | None:
    """Returns how to train a run from the checkout, with the default folder of runs.

    Args:
        table: an edition.
        folder: of its runs.
        run: of its manifest.

    Returns:
        None for a run of a row that is another one now.
    """
    seeds = [int(run.values["seed"])] if "seed" in run.values else None
    now = {each.name: each for each in runs_of(table, folder, seeds)}.get(run.name)
    if now is None or recipe_from_root(now.config) != recipe_from_root(run.config):
        return None
    more = {key: text for key, text in run.overrides.items() if key not in now.overrides}
    if {**now.overrides, **more} != run.overrides:
        return None
    nominal = WORKDIR / table.label
    (own,) = (each for each in runs_of(table, nominal, seeds) if each.name == run.name)
    overrides = {k: v for k, v in {**own.overrides, **more}.items() if k != "data.data_dir"}
    words = ["python", "train.py", f"--config={recipe_from_root(run.config)}"]
    words += [f"--workdir={nominal / run.name}"]
    return shlex.join([*words, *(f"--config.{key}={text}" for key, text in overrides.items())])


def _place(table: Table, line: Record) -> tuple:
    order = [row.name for row in table.rows]
    return order.index(line["row"]), line.get("config", ""), line.get("seed", 0)


def record(table: Table, workdir: Path) -> list[Path]:
    """Writes the finished runs and measurements of a table to its committed files.

    Lines of runs that are not in the folder stay.

    Returns:
        The files written.

    Raises:
        ConfigError: nothing of it is finished.
    """
    folder, written = workdir / table.label, []
    for path, new in (
        (RESULTS / f"{table.label}.jsonl", records_of(table, folder)),
        (RESULTS / f"{table.label}-speed.jsonl", _read(folder / "speed.jsonl")),
    ):
        if not new:
            continue
        lines = {_key(line): line for line in (*_read(path), *new)}
        names = {row.name for row in table.rows}
        kept = [line for line in lines.values() if line["row"] in names]
        kept.sort(key=lambda line: _place(table, line))
        with input_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        written.append(path)
    return written


def _key(line: Record) -> tuple:
    return tuple(line.get(name) for name in ("row", "config", "seed", "device"))


def _read(path: Path | None) -> list[Record]:
    if path is None:
        return []
    found = read_lines(path, "restore it", lambda record: True)
    if found.damage:
        raise ConfigError(f"{path}: {found.damage} cannot be read: restore it")
    return found.sound


def _by_row(records: Sequence[Record]) -> dict[str, list[Record]]:
    rows: dict[str, list[Record]] = {}
    for line in records:
        rows.setdefault(line["row"], []).append(line)
    return rows


def _of_other_command(table: Table) -> dict[str, list[Record]]:
    """Returns what another command wrote: of a row "nest cam" what model "nest" has under "cam"."""
    rows: dict[str, list[Record]] = {}
    for line in _read(ROOT / table.records):
        for row in table.rows:
            model, _, method = (row.record or "").partition(" ")
            if line["model"] == model and method in line["localization"]:
                rows.setdefault(row.name, []).append({"metrics": line["localization"][method]})
    return rows


def count_committed(table: Table) -> int:
    """Returns how many runs of a table have committed results."""
    return len(_read(RESULTS / f"{table.label}.jsonl"))
