"""The runs of a sweep: their overrides and names, and the manifest that lists them.

A sweep's folder S holds

runs.jsonl     the manifest: a line per run, in the order in which they start
NAME/          the workdir of a run, as train.py writes it
NAME.log       what the run's process printed
states/        what the launchers know: when a run began, how it ended
"""

import dataclasses
import hashlib
import itertools
import json
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.errors import ConfigError
from harness.files import write_text
from harness.recipes import ROOT, find_recipe
from workdirs.records import read_text

MANIFEST = "runs.jsonl"
_LONGEST_NAME = 120


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep."""

    name: str  # of its folder
    config: str  # the recipe, with its argument
    overrides: Mapping[str, str]  # dotted key of the config -> the text as on the command line
    values: Mapping[str, str]  # those that tell it from the others of the sweep

    def command(self, folder: Path) -> list[str]:
        """Returns the arguments after "python", with the script as seen from here.

        Args:
            folder: of the sweep.
        """
        file, colon, argument = self.config.partition(":")
        return [
            _as_seen_from_here(ROOT / "train.py"),
            f"--config={_as_seen_from_here(find_recipe(file))}{colon}{argument}",
            f"--workdir={_as_seen_from_here(folder / self.name)}",
            *(f"--config.{key}={text}" for key, text in self.overrides.items()),
        ]

    def command_line(self, folder: Path) -> str:
        """Returns the command as one would type it into a shell."""
        return shlex.join(["python", *self.command(folder)])


def _as_seen_from_here(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def product(swept: Mapping[str, list[str]]) -> list[dict[str, str]]:
    """Returns every combination; the last key changes fastest."""
    return [dict(zip(swept, texts, strict=True)) for texts in itertools.product(*swept.values())]


def zipped(swept: Mapping[str, list[str]]) -> list[dict[str, str]]:
    """Returns the first values together, then the second ones, and so on.

    Raises:
        ConfigError: one key has more values than another.
    """
    counts = {key: len(texts) for key, texts in swept.items()}
    if len(set(counts.values())) > 1:
        counted = ", ".join(f"{key} has {count}" for key, count in counts.items())
        raise ConfigError(f"--zip needs equally many values of every key: {counted}")
    return [dict(zip(swept, texts, strict=True)) for texts in zip(*swept.values(), strict=True)]


def name_runs(
    config: str, fixed: Mapping[str, str], combinations: Iterable[Mapping[str, str]]
) -> list[Run]:
    """Returns the runs of a sweep with readable names: "aggregation=max_pool,seed=0".

    A key is called by its last word, unless two swept keys share it.

    Args:
        config: the recipe; a combination may have another one, as "config".
        fixed: overrides of all runs.
        combinations: of each run, key -> text. A key that is fixed, too, has the text of the run.

    Raises:
        ConfigError: there are no combinations, or two are the same.
    """
    combinations = [dict(combination) for combination in combinations]
    keys = list(dict.fromkeys(key for combination in combinations for key in combination))
    # Recipes that differ in the argument alone are called by it.
    files = {c.get("config", config).partition(".py")[0] for c in combinations}
    runs, names = [], {}
    for values in combinations:
        words = []
        for key, text in values.items():
            if key == "config":
                path, _, argument = text.partition(".py")
                stem = Path(path).name
                argument = argument.removeprefix(":")
                text = argument if len(files) == 1 and argument else f"{stem}:{argument}".strip(":")
            words.append(f"{_short(key, keys)}={_safe(text)}")
        name = ",".join(words) or "run"
        if len(name) > _LONGEST_NAME:  # file systems end at 255 bytes, people before
            digest = hashlib.sha256(name.encode()).hexdigest()[:8]
            name = f"{name[:_LONGEST_NAME]}-{digest}"
        if name in names:
            if names[name] == values:
                raise ConfigError(f"two runs of the sweep are the same: {name}")
            digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
            name = f"{name}-{digest}"
        names[name] = values
        overrides = {**fixed, **values}
        recipe = overrides.pop("config", config)
        runs.append(Run(name=name, config=recipe, overrides=overrides, values=values))
    if not runs:
        raise ConfigError("the sweep has no runs: --sweep.KEY=VALUES is missing; see --help")
    return runs


def _short(key: str, keys: list[str]) -> str:
    last = key.rpartition(".")[2]
    return last if [other.rpartition(".")[2] for other in keys].count(last) == 1 else key


def _safe(text: str) -> str:
    """Returns a text that is part of a file's name everywhere, and of a path that none expands."""
    sign = "-" * text.startswith("-")
    return sign + re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-") or "-"


def write_manifest(folder: Path, runs: Iterable[Run]) -> None:
    """Writes the manifest of a sweep."""
    lines = (json.dumps(dataclasses.asdict(run)) + "\n" for run in runs)
    write_text(folder / MANIFEST, "".join(lines))


def read_runs(folder: Path) -> list[Run]:
    """Returns the runs of a sweep.

    Args:
        folder: of the sweep.

    Raises:
        ConfigError: it is not the folder of a sweep, or its manifest is damaged.
    """
    path = folder / MANIFEST
    text = read_text(path, "restore it, or start the sweep in another folder")
    if text is None:
        raise ConfigError(f"{path} does not exist: {folder} is not the folder of a sweep")
    lines, runs = text.removesuffix("\n").split("\n") if text else [], []
    for number, line in enumerate(lines, start=1):
        try:
            run = Run(**json.loads(line))
            if not _is_sound(run):
                raise ValueError("a key or value is missing or of another type")
            runs.append(run)
        except (ValueError, TypeError, RecursionError) as error:
            raise ConfigError(f"{path}, line {number}: not a run of a sweep ({error})") from None
    if not runs:
        raise ConfigError(f"{path} is empty: the sweep has no runs")
    return runs


def _is_sound(run: Run) -> bool:
    def is_texts(mapping: Any) -> bool:
        return isinstance(mapping, dict) and all(isinstance(text, str) for text in mapping.values())

    is_name = isinstance(run.name, str) and run.name not in ("", ".", "..") and "/" not in run.name
    return (
        is_name and isinstance(run.config, str) and all(map(is_texts, (run.overrides, run.values)))
    )
