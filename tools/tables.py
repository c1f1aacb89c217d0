"""The tables of both papers: their numbers, ours next to them, and the runs that give ours.

    python tools/tables.py list
    python tools/tables.py show tnt_positions
    python tools/tables.py show all --format=csv --output=tables.csv
    python tools/tables.py run tnt_positions --only=none --launch=slurm
    python tools/tables.py run tnt_positions --edition=digits --launch.parallel=2
    python tools/tables.py run tnt_transfer --only=TNT-S --config.init_from=runs/imagenet_tnt_s
    python tools/tables.py run tnt_inner_layers --speed --batch_size=64
    python tools/tables.py record tnt_positions --edition=digits
    python tools/tables.py docs

list: all tables, and how many of their runs are done.
show: the paper's number, ours, the difference, how certain the paper's is, and how to run the row.
  What needs no training is computed; several seeds are a mean with its standard deviation. A
  question mark follows a number that nobody here has seen in a source.
run: trains the rows of a table that are not done, each with every seed, in WORKDIR/TABLE.
  --config.KEY=VALUE says where data and weights are, the same for all rows. With --speed, or where
  nothing is to train, it measures throughput on the device at hand.
record: writes what is done to results/tables, which show reads where there are no runs.
docs: writes docs/tables.md and docs/tables_digits.md.

TABLE may be "all". --edition=digits is the same comparison on the embedded handwritten digits, in
minutes. --only takes names of rows as shown, or as their folders are called. The tables are files
that people edit: configs/tables/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

import process.first  # noqa: F401

# isort: split

from absl import flags

from harness import commandline
from harness.commandline import Keyed
from paper_tables import commands
from sweeps.start import LAUNCHERS
from zoo.registry import DTYPES


def define_flags() -> None:
    flags.DEFINE_enum("edition", "paper", commands.EDITIONS, "The papers' data, or digits.")
    flags.DEFINE_multi_string("only", [], "A row, or several between commas; none: all.")
    flags.DEFINE_list("seeds", [], "Seeds of the runs, as 0,1,2; none: the table's own.")
    flags.DEFINE_string("workdir", str(commands.WORKDIR), "Folder with a folder for each table.")
    flags.DEFINE_string(
        "launch", "local", f"{', '.join(LAUNCHERS)}; --launch.KEY=VALUE: its options."
    )
    flags.DEFINE_bool("retry_failed", False, "Start those again that failed before.")
    flags.DEFINE_bool("speed", False, "Measure throughput instead of training.")
    flags.DEFINE_integer("batch_size", 8, "Of --speed.", lower_bound=1)
    flags.DEFINE_enum("dtype", "bfloat16", list(DTYPES), "Of --speed.")
    flags.DEFINE_float("seconds", 3.0, "Length of a measurement of --speed.", lower_bound=0.01)
    flags.DEFINE_integer("rounds", 3, "Of --speed; the median counts.", lower_bound=1)
    flags.DEFINE_enum("format", None, commands.FORMATS, "None: for a terminal, else Markdown.")
    flags.DEFINE_string("output", None, "File to write; None: printed.")


def main(args: flags.FlagValues, keyed: Keyed, command: str, table: str | None) -> None:
    function = commandline.choose_command(command, commands.COMMANDS)
    function(args, table, keyed)


if __name__ == "__main__":
    commandline.run(
        define_flags, main, ("|".join(commands.COMMANDS), "[TABLE]"), keyed=("launch", "config")
    )
