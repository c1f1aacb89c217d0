"""Reads configs/tables/NAME.toml, a table of the papers as people edit it.

    title = "..."               what it compares
    source = "..."              paper, number of the table or figure, file of the official code
    expect = "..."              how far two runs are apart, so which differences mean something
    certainty = "read"          of the numbers that do not say otherwise, see CERTAINTIES
    notes = ["..."]             what a reader must know
    reference = "row"           the row that the digits edition compares the others with, or a list
                                of rows, each for those that follow it

    [columns.top1]
    title = "top-1"
    unit = "%"                  see UNITS
    metric = "top1_accuracy"    of a finished run; or computed = "parameters", see computed.py; or
                                measured = "images_per_second"; none: only the paper has it

    [[rows]]
    name = "NesT-T"
    paper = { top1 = 81.5, parameters = { value = 17, certainty = "unverified", from = "..." } }
    config = "configs/imagenet_nest.py:tiny"        what this code runs for it, if it can; a
                                                    column may add an argument to it, or have the
                                                    config to which the row adds its argument
    overrides = { "data.batch_size" = 512 }
    needs = { init_from = "another row" }           a key that gets the folder of that row's run
    digits = { config = "...", overrides = {} }     the row in the digits edition

    [digits]                    that edition: config and overrides of all rows, seeds, columns, and
    paper = "top1"              the column whose published numbers are shown, too
    protocol = "..."            what stands for what, and how runs compare
    records = "..."             results that another command has written, instead of runs
    conclusion = "..."          whether the paper's ordering holds there

A published number is written as it is printed: its digits count. Where ours is knowingly another,
it says why. Several numbers of one thing, of several sources, are a list.
"""

import dataclasses
import decimal
import tomllib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from harness.arguments import unknown
from harness.errors import ConfigError
from paper_tables.tables import CERTAINTIES, EDITIONS, ROOT, UNITS, Column, Published, Row, Table

FOLDER = ROOT / "configs" / "tables"


def table_names() -> list[str]:
    """Returns the names of all tables, as `show all` has them: NesT's, TNT's, then others'."""
    names = sorted(path.stem for path in FOLDER.glob("*.toml"))
    return sorted(
        names, key=lambda name: (not name.startswith("nest_"), not name.startswith("tnt_"))
    )


def has_edition(name: str, edition: str) -> bool:
    """Returns whether a table has an edition."""
    return edition == "paper" or "digits" in _read(name)


def read_table(name: str, edition: str = "paper") -> Table:
    """Returns an edition of a table.

    Raises:
        ConfigError: there is no such table or edition, or its file is wrong.
    """
    if name not in table_names():
        raise ConfigError(f"TABLE={name!r}: {unknown(name, ['all', *table_names()])}")
    if edition not in EDITIONS:
        raise ConfigError(f"--edition={edition!r}: {unknown(edition, EDITIONS)}")
    return _Parser(name).table(_read(name), edition)


def _read(name: str) -> dict[str, Any]:
    path = FOLDER / f"{name}.toml"
    try:
        with path.open("rb") as file:
            return tomllib.load(file, parse_float=Decimal)  # keeps the digits that are printed
    except (OSError, ValueError, decimal.DecimalException) as error:
        raise ConfigError(f"{path}: {error}") from None


DIGITS_COLUMN = {"title": "accuracy on digits", "unit": "%", "metric": "top1_accuracy"}
ROW_KEYS = (
    *("name", "certainty", "from", "paper", "config", "argument"),
    *("overrides", "needs", "setting", "case", "record"),
)
DIGITS_ROW_KEYS = ("name", "config", "overrides", "needs", "case", "record")
DIGITS_KEYS = (
    "config",
    "overrides",
    "seeds",
    "columns",
    "paper",
    "protocol",
    "conclusion",
    "records",
)


class _Parser:
    """Turns a file into a table; errors name the file and the place in it."""

    def __init__(self, name: str):
        self.name = name

    def table(self, raw: dict[str, Any], edition: str) -> Table:
        known = ("title", "source", "expect", "certainty", "notes", "reference")
        self._check(raw, "", (*known, "columns", "rows", "digits"), required=("title", "source"))
        digits = raw.get("digits")
        shared = {
            "name": self.name,
            "edition": edition,
            "title": raw["title"],
            "source": raw["source"],
            "expect": raw.get("expect", ""),
            "notes": tuple(raw.get("notes", ())),
            "references": _listed(raw.get("reference", [])),
        }
        columns = self._columns(raw.get("columns", {}), "columns")
        if edition == "paper":
            rows = [self._row(row, raw, columns) for row in raw["rows"] if _is_of_paper(row)]
            return self._checked(Table(**shared, columns=columns, rows=tuple(rows)))
        if digits is None:
            raise ConfigError(f"the table {self.name!r} has no digits edition")
        self._check(digits, "digits", DIGITS_KEYS)
        compared = digits.get("paper")
        if compared is not None and compared not in {column.key for column in columns}:
            raise self._error("digits.paper", unknown(compared, [c.key for c in columns]))
        own = self._columns(digits.get("columns", {"accuracy": DIGITS_COLUMN}), "digits.columns")
        rows = [self._digits_row(row, raw, columns) for row in raw["rows"] if "digits" in row]
        return self._checked(
            Table(
                **shared,
                columns=own,
                rows=tuple(rows),
                overrides=_texts(digits.get("overrides", {})),
                seeds=tuple(digits.get("seeds", (0, 1, 2))),
                compared=compared,
                protocol=digits.get("protocol", ""),
                conclusion=digits.get("conclusion", ""),
                records=digits.get("records"),
            )
        )

    def _columns(self, raw: dict[str, Any], place: str) -> tuple[Column, ...]:
        fields = [field.name for field in dataclasses.fields(Column) if field.name != "key"]
        columns = []
        for key, column in raw.items():
            self._check(column, f"{place}.{key}", fields, required=("title",))
            columns.append(Column(key=key, **column))
            if columns[-1].unit not in UNITS:
                raise self._error(f"{place}.{key}.unit", unknown(columns[-1].unit, UNITS))
        return tuple(columns)

    def _row(self, row: dict[str, Any], raw: dict[str, Any], columns: Sequence[Column]) -> Row:
        place = f"row {row.get('name', '?')!r}"
        self._check(row, place, (*ROW_KEYS, "digits"), required=("name",))
        published = row.get("paper", {})
        self._check(published, f"{place}, paper", [column.key for column in columns])
        return Row(
            name=row["name"],
            key=row["name"],
            published={
                key: self._published(cell, row, raw, f"{place}, {key}")
                for key, cell in published.items()
            },
            config=row.get("config"),
            argument=row.get("argument", ""),
            overrides=_texts(row.get("overrides", {})),
            needs=row.get("needs", {}),
            setting=row.get("setting"),
            case=row.get("case", {}),
            record=row.get("record"),
        )

    def _digits_row(
        self, row: dict[str, Any], raw: dict[str, Any], columns: Sequence[Column]
    ) -> Row:
        own, digits = row["digits"], raw["digits"]
        self._check(own, f"row {row.get('name', '?')!r}, digits", DIGITS_ROW_KEYS)
        of_paper = self._row(row, raw, columns)
        return Row(
            name=own.get("name", of_paper.name),
            key=of_paper.key,
            published=of_paper.published,
            config=own.get("config", digits.get("config")),
            overrides=_texts({**digits.get("overrides", {}), **own.get("overrides", {})}),
            needs=own.get("needs", {}),
            case=own.get("case", {}),
            record=own.get("record"),
        )

    def _published(
        self, cell: Any, row: dict[str, Any], raw: dict[str, Any], place: str
    ) -> tuple[Published, ...]:
        if isinstance(cell, list):
            return tuple(one for each in cell for one in self._published(each, row, raw, place))
        if not isinstance(cell, dict):
            cell = {"value": cell}
        self._check(cell, place, ("value", "certainty", "from", "why"), required=("value",))
        certainty = next(
            (given["certainty"] for given in (cell, row, raw) if "certainty" in given), None
        )
        if certainty not in CERTAINTIES:
            raise self._error(f"{place}, certainty", unknown(certainty, CERTAINTIES))
        source = cell.get("from", row.get("from", ""))
        return (Published(cell["value"], certainty, source, cell.get("why", "")),)

    def _checked(self, table: Table) -> Table:
        names = [row.name for row in table.rows]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise self._error(f"row {twice!r}", "is there twice")
        for row in table.rows:
            for needed in row.needs.values():
                if needed not in names:
                    raise self._error(f"row {row.name!r}, needs", unknown(needed, names))
        return table

    def _check(self, given: Any, place: str, allowed: Sequence[str], required=()) -> None:
        if not isinstance(given, dict):
            raise self._error(place, "is no table of keys")
        for key in given:
            if key not in allowed:
                raise self._error(f"{place}: {key}".removeprefix(": "), unknown(key, allowed))
        for key in ("name", "title", "source", "config", "metric", "computed", "measured"):
            if not isinstance(given.get(key, ""), str):
                raise self._error(f"{place}: {key}".removeprefix(": "), "is no text")
        if missing := [key for key in required if key not in given]:
            raise self._error(place or "the file", f"{missing[0]} is missing")

    def _error(self, place: str, what: str) -> ConfigError:
        return ConfigError(f"{FOLDER / self.name}.toml: {place}: {what}")


def _listed(names: str | list[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _is_of_paper(row: dict[str, Any]) -> bool:
    """Returns whether the row is one of the papers' own edition."""
    return bool(row.keys() & {"paper", "config", "case"})


def _texts(overrides: Mapping[str, Any]) -> dict[str, str]:
    """Returns overrides as one types them: strings as they are, lists as tuples."""
    return {key: _text(value) for key, value in overrides.items()}


def _text(value: Any) -> str:
    if isinstance(value, list):
        inner = ",".join(repr(item) if isinstance(item, str) else _text(item) for item in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return str(value)
