"""A table with our numbers next to the papers'."""

import dataclasses
from pathlib import Path

from paper_tables.computed import compute
from paper_tables.formatting import in_unit, ours_text
from paper_tables.results import Ours, Results
from paper_tables.table_files import read_table
from paper_tables.tables import UNITS, Column, Published, Row, Table, recipe_of

NOT_YET = "not run yet"
NONE = "–"


@dataclasses.dataclass(frozen=True)
class Cell:
    """What stands in a row and column: the paper's number, ours, or both."""

    row: Row
    column: Column
    published: tuple[Published, ...]
    ours: Ours | None
    is_open: bool = False  # nobody has run it

    @property
    def text(self) -> str:
        """Ours as text."""
        if self.ours is not None:
            return ours_text(self.ours, self.column)
        return NOT_YET if self.is_open else NONE


@dataclasses.dataclass(frozen=True)
class Shown:
    """A table with all its numbers."""

    table: Table
    lines: tuple[tuple[Row, tuple[Cell, ...]], ...]  # a cell for each column
    compared: Column | None = None  # digits: the papers' column


def fill(table: Table, workdir: Path | None) -> Shown:
    """Puts our numbers next to the papers'.

    Args:
        table: an edition.
        workdir: where the runs of all tables are; None: committed results alone.

    Raises:
        ConfigError: a row's recipe or a file of results is wrong.
    """
    results = Results(table, workdir)
    compared = None
    if table.compared:
        columns = read_table(table.name).columns
        compared = next(column for column in columns if column.key == table.compared)
    lines = []
    for row in table.rows:
        cells = []
        for column in table.columns:
            published = row.published.get(column.key, ()) if table.edition == "paper" else ()
            ours, trains = _ours(row, column, results), column.metric and not results.has(row)
            is_open = (
                ours is None and bool(recipe_of(row, column)) and bool(trains or column.measured)
            )
            cells.append(Cell(row, column, published, ours, is_open))
        lines.append((row, tuple(cells)))
    return Shown(table, tuple(lines), compared)


def _ours(row: Row, column: Column, results: Results) -> Ours | None:
    if column.metric or column.measured:
        return results.of(row, column, UNITS[column.unit])
    value = compute(row, column) if column.computed else None
    return None if value is None else Ours(in_unit(value, column))
