"""Measures and writes the tables of docs/performance.md.

    python tools/performance.py measure --only=h100,v5e,remat --official=/src/nested-transformer
    python tools/performance.py measure --only=cpu,input,scaling
    python tools/performance.py tables

measure: runs the commands of each table's rows, one process each, and appends their results to
results/performance/TABLE.jsonl; rows that are there are left out, so that the same line resumes,
and --again measures all. h100, v5e, slices and remat need requirements-compile.txt, cpu torch and
timm; gpu is the output of benchmarks/measure_gpu.py, put there by hand.

tables: writes the page's tables from the results, and the picture of scaling.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

import process.first  # noqa: F401

# isort: split

import json
import subprocess
import tempfile

from absl import flags

from benchmarks import scaling, tables
from harness import commandline
from harness.arguments import problem
from harness.errors import ConfigError
from harness.files import local_path, write_text

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
PICTURE = ROOT / "docs" / "images" / "scaling.png"
RESULTS = ROOT / "results" / "performance"


def measure(args: flags.FlagValues) -> None:
    """Measures the rows that are missing."""
    names = args.only or [name for name, table in tables.TABLES.items() if table.rows]
    if unknown := [name for name in names if name not in tables.TABLES]:
        raise ConfigError(problem("--only", unknown[0], "unknown", ", ".join(tables.TABLES)))
    failed = []
    for name in names:
        path = RESULTS / f"{name}.jsonl"
        records = tables.read_records(RESULTS, name)
        for row, arguments in tables.TABLES[name].rows.items():
            if any(record["row"] == row for record in records) and not args.again:
                continue
            if any("{official}" in argument for argument in arguments) and not args.official:
                raise ConfigError(f"{row}: --official=FOLDER is needed, a checkout of its code")
            print(f"-- {name}: {row}", flush=True)
            measured = _run(arguments, args.official)
            if not measured:
                failed.append(row)
                continue
            records = [record for record in records if record["row"] != row]
            records += [{"row": row, **record} for record in measured]
            write_text(path, "".join(json.dumps(record) + "\n" for record in records))
    if failed:
        raise ConfigError(f"not measured: {', '.join(failed)}")


def _run(arguments: list[str], official: str | None) -> list[dict]:
    """Runs a tool; returns its results, none if it failed."""
    folder = official and str(local_path("--official", official))
    script, *rest = (argument.replace("{official}", folder or "") for argument in arguments)
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary) / "part.jsonl"
        command = [sys.executable, str(ROOT / "tools" / script), *rest, f"--output={output}"]
        code = subprocess.run(command, cwd=ROOT).returncode
        if code or not output.exists():
            return []
        return [json.loads(line) for line in output.read_text().splitlines()]


def write_tables(args: flags.FlagValues) -> None:
    """Writes the page's tables and the picture from the results."""
    write_text(PAGE, tables.page_with_tables(PAGE.read_text(encoding="utf-8"), RESULTS))
    if records := tables.read_records(RESULTS, "scaling"):
        scaling.draw(records, PICTURE)
    print(f"{PAGE.relative_to(ROOT)} is written")


COMMANDS = {"measure": measure, "tables": write_tables}


def define_flags() -> None:
    flags.DEFINE_list("only", [], f"Tables to measure: {', '.join(tables.TABLES)}; all if empty.")
    flags.DEFINE_bool("again", False, "Also measure rows that have results.")
    flags.DEFINE_string("official", None, "Folder of a checkout of the official NesT.")


def main(args: flags.FlagValues, command: str) -> None:
    commandline.choose_command(command, COMMANDS)(args)


if __name__ == "__main__":
    commandline.run(define_flags, main, arguments=("|".join(COMMANDS),))
