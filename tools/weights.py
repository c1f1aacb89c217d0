"""Released weights by name: which there are, and fetching them.

    python -m tools.weights list
    python -m tools.weights get nest_tiny_s196_224.timm tnt_s_patch16_224.timm
    python -m tools.weights path nest_tiny_s196_224.timm

list: name, size, licence, and where the weights lie, if they are on this machine. With --json all
that is known: model, addresses, hashes, and where each of it is written.

get: downloads what is not here yet, going on where an earlier download stopped, compares hashes,
and prints the path. path: the same without the network.

The names also stand for a path in --weights, --input and --config.init_from. They are downloaded
to the user's cache folder, or to $NEST_TNT_WEIGHTS_DIR. Exit codes: 0 done; 2 it cannot be had.
"""

import dataclasses
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

import process.first  # noqa: F401

# isort: split

from absl import flags

from harness import commandline
from harness.arguments import unknown
from harness.errors import ConfigError, input_errors
from zoo.released.locate import find_cached, locate
from zoo.released.table import RELEASED


def list_names(args: flags.FlagValues, names: list[str]) -> None:
    """Prints the table."""
    rows = []
    for name in names or RELEASED:
        released, cached = RELEASED[name], find_cached(name)
        size = next((file.size for file in reversed(released.files) if file.size), None)
        if args.json:
            known = {"name": name, **dataclasses.asdict(released)}
            known["fields"] = dict(released.fields)
            print(json.dumps(known | {"path": cached and str(cached)}))
        rows.append((name, released.model, size or "size unknown", released.licence, cached or "-"))
    if not args.json:
        rows.insert(0, ("name", "model", "size", "licence", "on this machine"))
        widths = [max(len(str(row[column])) for row in rows) for column in range(4)]
        for *row, cached in rows:
            cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
            print("  ".join([*cells, str(cached)]))


def get(args: flags.FlagValues, names: list[str]) -> None:
    """Downloads weights and prints their paths."""
    for name in _given(names):
        with input_errors():
            print(locate(name), flush=True)


def path(args: flags.FlagValues, names: list[str]) -> None:
    """Prints the paths of weights that are here."""
    for name in _given(names):
        if (cached := find_cached(name)) is None:
            raise ConfigError(f"{name} is not on this machine; python -m tools.weights get {name}")
        print(cached)


def _given(names: list[str]) -> list[str]:
    if not names:
        raise ConfigError("NAME is missing; python -m tools.weights list prints the names")
    return names


COMMANDS = {"list": list_names, "get": get, "path": path}


def define_flags() -> None:
    flags.DEFINE_bool("json", False, "Print JSON lines with all that is known (list).")


def main(args: flags.FlagValues, command: str, names: list[str]) -> None:
    run = commandline.choose_command(command, COMMANDS)
    if wrong := [name for name in names if name not in RELEASED]:
        raise ConfigError(f"{wrong[0]}: {unknown(wrong[0], RELEASED)}")
    run(args, names)


if __name__ == "__main__":
    commandline.run(define_flags, main, arguments=("command", "[name...]"))
