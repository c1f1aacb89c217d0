"""What a table of the papers is, in either edition, once its file has been read."""

import dataclasses
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

ROOT = Path(__file__).parents[1]
EDITIONS = ("paper", "digits")
CERTAINTIES = {
    "read": "read in the paper, its official code, or a file of results",
    "computed": "computed from the official code's definitions",
    "quoted": "quoted by a third party",
    "unverified": "recalled, in no source that we have seen",
    "proxy": "of another project of the same authors, not of this paper",
}
# unit -> what a metric or a count is divided by to be in it
UNITS = {"": 1, "%": 0.01, "M": 1e6, "G": 1e9, "images/s": 1}


@dataclasses.dataclass(frozen=True)
class Published:
    """A number, or words, of a paper."""

    value: Decimal | int | str
    certainty: str
    source: str = ""
    why: str = ""  # ours is another


@dataclasses.dataclass(frozen=True)
class Column:
    """A column, and where ours comes from; nowhere if only papers have it."""

    key: str
    title: str
    unit: str = ""
    metric: str | None = None
    computed: str | None = None
    measured: str | None = None
    decimals: int = 2  # of ours
    config: str | None = None  # the recipe of the column, of rows that have only an argument
    argument: str = ""  # of the recipe, in addition to the row's

    @property
    def has_ours(self) -> bool:
        return bool(self.metric or self.computed or self.measured)


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of one edition; without a config only papers have it."""

    name: str
    key: str  # its name in the paper's edition
    published: Mapping[str, tuple[Published, ...]]  # several: of several sources
    config: str | None = None
    argument: str = ""  # of the columns' recipes
    overrides: Mapping[str, str] = dataclasses.field(default_factory=dict)
    needs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    setting: str | None = None  # key of the config, of a table of settings
    case: Mapping[str, int] = dataclasses.field(default_factory=dict)  # of computed.py, d n c m
    record: str | None = None  # which record of another command is this row's


def recipe_of(row: Row, column: Column) -> str | None:
    """Returns the recipe, with its argument, that gives ours in a cell; None if there is none.

    A row has a recipe, to which a column may add an argument; or the other way round.
    """
    recipe, more = (row.config, column.argument) if row.config else (column.config, row.argument)
    if recipe is None or not (row.config or row.argument or row.setting):
        return None
    if not more:
        return recipe
    return f"{recipe}{',' if ':' in recipe else ':'}{more}"


@dataclasses.dataclass(frozen=True)
class Table:
    """One edition of a table."""

    name: str
    edition: str
    title: str
    source: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    expect: str = ""
    notes: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()  # none: the recipe's own
    references: tuple[str, ...] = ()
    overrides: Mapping[str, str] = dataclasses.field(default_factory=dict)  # digits: of all rows
    compared: str | None = None  # digits: key of the papers' column to compare with
    protocol: str = ""
    conclusion: str = ""
    records: str | None = None  # file of results that another command writes

    @property
    def trains(self) -> bool:
        return self.records is None and any(column.metric for column in self.columns)

    @property
    def label(self) -> str:
        """Name of its folder and its file of results."""
        return self.name if self.edition == "paper" else f"{self.name}-{self.edition}"
