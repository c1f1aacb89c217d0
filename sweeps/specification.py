"""What a search is, as its folder keeps it."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from harness.errors import ConfigError
from harness.files import write_text
from sweeps.ranges import Range, parse_range
from sweeps.runs import Run

SPECIFICATION = "search.json"


@dataclasses.dataclass(frozen=True)
class Search:
    """What is searched."""

    config: str  # recipe
    fixed: Mapping[str, str]  # overrides of all runs
    ranges: Mapping[str, str]  # key -> what it may be, as on the command line
    metric: str
    is_better_higher: bool
    prunes: bool

    def parsed(self) -> dict[str, Range]:
        """Returns key -> its range."""
        return {key: parse_range(key, text) for key, text in self.ranges.items()}

    def run(self, number: int, values: Mapping[str, str]) -> Run:
        """Returns the run of a trial."""
        return Run(f"trial={number:04d}", self.config, {**self.fixed, **values}, dict(values))


def read_search(folder: Path) -> Search | None:
    """Returns the search that a folder holds, None for another sweep or none.

    Raises:
        ConfigError: its search.json is damaged.
    """
    path = folder / SPECIFICATION
    if not path.exists():
        return None
    try:
        return Search(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} is unreadable: {error}") from None


def write_search(folder: Path, search: Search) -> None:
    """Writes what a folder's search is."""
    write_text(folder / SPECIFICATION, json.dumps(dataclasses.asdict(search)) + "\n")
