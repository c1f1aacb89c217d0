"""The commands of tools/tables.py."""

import sys
import typing
from pathlib import Path

import jax
from absl import flags

from harness.arguments import problem
from harness.commandline import Keyed
from harness.errors import ConfigError, input_errors
from harness.files import check_writable, local_path, write_text
from paper_tables import pages, results, speed, training
from paper_tables.filled import fill
from paper_tables.results import WORKDIR
from paper_tables.show import Format, as_csv, render
from paper_tables.table_files import has_edition, read_table, table_names
from paper_tables.tables import EDITIONS, ROOT, Table
from sweeps.start import RunsFailed, create_launcher
from sweeps.states import state_of

FORMATS = typing.get_args(Format)


def show_list(args: flags.FlagValues, name: str | None, keyed: Keyed) -> None:
    """All tables, with how many of their runs are done."""
    if name:
        raise ConfigError(f"list takes no table; show {name} shows it")
    workdir = local_path("--workdir", args.workdir)
    width = max(map(len, table_names()))
    print(f"{'table':<{width}}  {'runs':>7}  {'digits':>7}  what it compares")
    for each in table_names():
        counts = [_count(each, edition, workdir) for edition in EDITIONS]
        print(f"{each:<{width}}  {counts[0]:>7}  {counts[1]:>7}  {read_table(each).title}")


def _count(name: str, edition: str, workdir: Path) -> str:
    if not has_edition(name, edition):
        return ""
    table = read_table(name, edition)
    if not table.trains:
        return "–"
    folder = workdir / table.label
    runs = training.runs_of(table, folder)
    there = sum(state_of(folder, run).status == "done" for run in runs)
    return f"{max(there, results.count_committed(table))}/{len(runs)}"


def show(args: flags.FlagValues, name: str | None, keyed: Keyed) -> None:
    """The papers' numbers, ours, how far they are apart, and how to run them."""
    tables = _tables(args, name)
    workdir = local_path("--workdir", args.workdir)
    output = args.output and local_path("--output", args.output)
    if output:
        check_writable("--output", output)
    form = args.format or ("terminal" if sys.stdout.isatty() and not output else "markdown")
    jax.config.update("jax_platforms", "cpu")  # nothing is computed on a device
    shown = [fill(table, workdir) for table in tables]
    text = as_csv(shown) if form == "csv" else "\n".join(render(one, form) for one in shown)
    if not output:
        print(text, end="")
        return
    with input_errors():
        write_text(output, text)
    print(f"wrote {output}")


def run(args: flags.FlagValues, name: str | None, keyed: Keyed) -> None:
    """Trains the rows that are not done, or measures their speed."""
    tables = _tables(args, name)
    seeds = _seeds(args.seeds)
    workdir = Path(args.workdir) if args.workdir else WORKDIR
    local_path("--workdir", workdir)
    if not args.speed and not any(row.config for table in tables for row in table.rows):
        raise ConfigError(f"{name} has only published numbers; show {name} shows them")
    if args.speed or not any(table.trains for table in tables):
        for table in tables:
            _measure(args, table, workdir)
        return
    jax.config.update("jax_platforms", "cpu")  # devices are for the runs; here they are built
    launcher = create_launcher(args.launch, dict(keyed.of("launch")))
    failed = []
    for table in (table for table in tables if table.trains):
        states = training.train(
            table,
            workdir / table.label,
            launcher,
            only=args.only,
            seeds=seeds,
            fixed=dict(keyed.of("config")),
            retry_failed=args.retry_failed,
        )
        failed += [run for run, state in states.items() if state.status == "failed"]
        if args.launch == "local":
            print(render(fill(table, workdir), "terminal"))
    if failed:
        raise RunsFailed(
            f"{len(failed)} runs failed: {failed[0]}; --retry_failed starts them again"
        )


def _measure(args: flags.FlagValues, table: Table, workdir: Path) -> None:
    speed.measure(
        table,
        workdir / table.label,
        only=args.only,
        batch_size=args.batch_size,
        dtype=args.dtype,
        seconds=args.seconds,
        rounds=args.rounds,
    )


def record(args: flags.FlagValues, name: str | None, keyed: Keyed) -> None:
    """Writes what is done to results/tables."""
    workdir = local_path("--workdir", args.workdir)
    written = []
    for table in _tables(args, name):
        written += results.record(table, workdir)
    if not written:
        raise ConfigError(f"nothing of {name} is done in {workdir}")
    for path in written:
        print(f"wrote {path.relative_to(ROOT)}")


def docs(args: flags.FlagValues, name: str | None, keyed: Keyed) -> None:
    """Writes the pages with all tables from the committed results."""
    if name:
        raise ConfigError(f"docs writes all tables; show {name} shows one")
    jax.config.update("jax_platforms", "cpu")
    for path in pages.write():
        print(f"wrote {path.relative_to(ROOT)}")


def _tables(args: flags.FlagValues, name: str | None) -> list[Table]:
    if not name:
        raise ConfigError("TABLE is missing; list shows them, and all means all of them")
    if name != "all":
        return [read_table(name, args.edition)]
    return [
        read_table(each, args.edition) for each in table_names() if has_edition(each, args.edition)
    ]


def _seeds(texts: list[str]) -> tuple[int, ...] | None:
    for text in texts:
        if not text.isdecimal():
            raise ConfigError(problem("--seeds", ",".join(texts), "wrong", "numbers, as 0,1,2"))
    return tuple(map(int, texts)) or None


COMMANDS = {"list": show_list, "show": show, "run": run, "record": record, "docs": docs}
