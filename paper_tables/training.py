"""A table's rows as runs of a sweep: which there are, and starting them."""

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from harness.arguments import unknown
from harness.errors import ConfigError
from paper_tables.tables import Row, Table, recipe_of
from sweeps.launchers.printing import Print
from sweeps.runs import MANIFEST, Run, read_runs
from sweeps.start import Launcher, start
from sweeps.states import State, state_of

# What may differ from a row without making it another: where things are, and how fast they go.
FREE = re.compile(
    r"init_from|mesh\..+|data\.(name|data_dir|num_threads|num_workers|prefetch)"
    r"|(model|generator|discriminator)\.(dtype|remat|kernels)"
)


def runs_of(
    table: Table,
    folder: Path,
    seeds: Sequence[int] | None = None,
    fixed: Mapping[str, str] = MappingProxyType({}),
) -> list[Run]:
    """Returns the runs of a table, those first that others start from.

    Args:
        table: one edition.
        folder: of its runs.
        seeds: None: the table's own; of the papers' edition those of the recipes.
        fixed: overrides of all runs, over those of the rows.
    """
    rows = [row for row in table.rows if _recipes(table, row)]
    slugs = slugs_of(rows)
    ordered = [row for row in rows if not row.needs] + [row for row in rows if row.needs]
    runs = []
    for row in ordered:
        recipes = _recipes(table, row)
        for recipe, column in recipes.items():
            for seed in (table.seeds if seeds is None else seeds) or (None,):
                tag = "" if seed is None else f",seed={seed}"
                needed = {
                    key: str(folder / f"{slugs[name]}{tag}") for key, name in row.needs.items()
                }
                own = {} if seed is None else {"seed": str(seed)}
                which = {"column": column} if len(recipes) > 1 else {}
                name = ",".join([slugs[row.name], *which.values()]) + tag
                overrides = {**row.overrides, **needed, **fixed, **own}
                runs.append(
                    Run(
                        name,
                        recipe,
                        overrides,
                        {"row": row.name, **which, **own},
                    )
                )
    return runs


def _recipes(table: Table, row: Row) -> dict[str, str]:
    """Returns the recipes that a row is trained with -> the first column that each is for."""
    recipes: dict[str, str] = {}
    for column in table.columns if table.records is None else ():
        if column.metric and (recipe := recipe_of(row, column)):
            recipes.setdefault(recipe, column.key)
    return recipes


def slugs_of(rows: Sequence[Row]) -> dict[str, str]:
    """Returns the name of each row as part of a folder's: letters, digits and underscores."""
    slugs: dict[str, str] = {}
    for row in rows:
        words = re.sub(r"%", " percent", row.name.lower())
        slug = re.sub(r"[^a-z0-9]+", "_", words).strip("_")
        slugs[row.name] = f"{slug}_{len(slugs)}" if slug in slugs.values() else slug
    return slugs


def choose_rows(table: Table, only: Collection[str]) -> Table:
    """Returns the table with some of its rows, and those that they start from.

    Raises:
        ConfigError: it has no such row, or none that runs.
    """
    names = {row.name: row for row in table.rows if row.config or row.argument}
    if not names:
        raise ConfigError(f"no row of {table.label} can be run: only papers have its numbers")
    if not only:
        return table
    slugs = {slug: name for name, slug in slugs_of(list(names.values())).items()}
    chosen = set()
    known = {*slugs, *names}
    listed = [one for text in only for one in ([text] if text in known else text.split(","))]
    for text in listed:
        name = slugs.get(text, text)
        if name not in names:
            raise ConfigError(f"--only={text!r}: {unknown(text, slugs)}")
        chosen |= {name, *names[name].needs.values()}
    return dataclasses.replace(table, rows=tuple(row for row in table.rows if row.name in chosen))


def train(
    table: Table,
    folder: Path,
    launcher: Launcher,
    *,
    only: Collection[str] = (),
    seeds: Sequence[int] | None = None,
    fixed: Mapping[str, str] = MappingProxyType({}),
    retry_failed: bool = False,
) -> dict[str, State]:
    """Starts the runs of a table that are not done.

    Args:
        table: one edition.
        folder: of its runs.
        launcher: from sweeps.start.create_launcher.
        only: names of rows; none: all.
        seeds: None: the table's own.
        fixed: overrides of all runs, such as where data are; see FREE.
        retry_failed: whether those that failed before start again.

    Returns:
        Where each of these runs stands afterwards. Those that start from runs which are not done
        yet are left for the next time.

    Raises:
        ConfigError: something is wrong, see sweeps.start.start. Nothing is started.
    """
    for key in fixed:
        if not FREE.fullmatch(key):
            raise ConfigError(
                f"--config.{key}: a row is what its recipe and its overrides say; tools/sweep.py "
                "runs others"
            )
    runs = runs_of(choose_rows(table, only), folder, seeds, fixed)
    if not runs:
        raise ConfigError(f"{table.label} has nothing to train; show computes it")
    others = read_runs(folder) if (folder / MANIFEST).exists() else []  # other rows and seeds
    names = {run.name for run in runs}
    known = [*(run for run in others if run.name not in names), *runs]
    workdirs = {str(folder / run.name): run for run in runs}
    stages: list[list[Run]] = [[], []]
    for run in runs:
        stages[bool(workdirs.keys() & set(run.overrides.values()))].append(run)
    states: dict[str, State] = {}
    for stage in filter(None, stages):
        ready = stage if isinstance(launcher, Print) else _ready(folder, stage, workdirs)
        if len(ready) < len(stage):
            left = len(stage) - len(ready)
            print(f"{left} runs start from others that are not done: run this again then")
        if ready:
            options = {"retry_failed": retry_failed, "only": {run.name for run in ready}}
            states |= start(folder, known, launcher, **options)
    return {name: states[name] for name in names & states.keys()}


def _ready(folder: Path, runs: Sequence[Run], workdirs: Mapping[str, Run]) -> list[Run]:
    """Returns the runs that start from nothing, or from runs that are done."""

    def is_ready(run: Run) -> bool:
        before = [workdirs[text] for text in run.overrides.values() if text in workdirs]
        return all(state_of(folder, one).status == "done" for one in before)

    return [run for run in runs if is_ready(run)]
