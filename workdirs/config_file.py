"""config.json of a run: its resolved config, git commit, versions and devices."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from harness import recipes
from harness.errors import ConfigError
from harness.files import in_bucket, run_path
from harness.overrides import override_stored
from workdirs.records import read_json, write_record

PLACES = ("name", "data_dir")  # keys of the section `data`
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


_TODO = (
    "restore it from a copy; without one, its weights still serve as --config.init_from of "
    "another run with the same model"
)


def read_config(workdir: Path) -> ConfigDict:
    """Returns the config that a run was made with.

    Raises:
        ConfigError: there is no readable config.json.
    """
    return _as_config(read_record(workdir)["config"])


def stored_config(workdir: Path, **sections: Any) -> ConfigDict:
    """Returns a run's config, as --config.section.key=value beside --workdir changes it.

    Args:
        workdir: of the run.
        **sections: that stand in for the run's own, before the command line's values.

    Raises:
        ConfigError: as read_config, or a key leads into a value that is no section.
    """
    config = read_config(workdir)
    for name, section in sections.items():
        config[name] = section
    return override_stored(config)


def load_config(config: str | os.PathLike | ConfigDict) -> ConfigDict:
    """Returns the config of a recipe or a run by its name, as --config takes it; or a given one.

    Args:
        config: "configs/imagenet_nest.py:tiny", "RUN/config.json", or a config.

    Raises:
        ConfigError: as recipe_config, the file is not that of a run, or something else is given.
    """
    if isinstance(config, ConfigDict):
        return config
    if not isinstance(config, str | os.PathLike):
        what = f"config is of type {type(config).__name__}"
        raise ConfigError(f"{what}; allowed: a ConfigDict, or a name such as configs/NAME.py")
    name = os.fspath(config)
    if not name.endswith(".json"):
        return recipes.recipe_config(name)
    file = run_path("--config", name) if in_bucket(name) else recipes.find_recipe(name)
    if (record := read_json(file, _TODO, _is_sound)) is None:
        raise ConfigError(f"--config={name}: no such file: {file}")
    return _as_config(record["config"])


def _as_config(config: dict[str, Any]) -> ConfigDict:
    for section in config.values():
        if isinstance(section, dict) and isinstance(section.get("remat"), bool):  # once yes or no
            section["remat"] = "block" if section["remat"] else "none"

    def with_tuples(value):  # JSON has only lists
        if isinstance(value, dict):
            return {key: with_tuples(item) for key, item in value.items()}
        return tuple(with_tuples(item) for item in value) if isinstance(value, list) else value

    return ConfigDict(with_tuples(config), type_safe=False)


def read_record(workdir: Path) -> dict[str, Any]:
    """Returns the contents of config.json, see `write_config`.

    Raises:
        ConfigError: it is not there or unreadable.
    """
    path = workdir / "config.json"
    record = read_json(path, _TODO, _is_sound)
    if record is None:
        raise ConfigError(f"{path} does not exist: {workdir} is not the folder of a run")
    return record


def _is_sound(record: Any) -> bool:
    if not (isinstance(record, dict) and isinstance(record.get("config"), dict)):
        return False
    config = record["config"]
    if "data" in config and not isinstance(config["data"], dict):
        return False
    if not _is_digest(record.get("data_digest")):
        return False
    if type(record.get("num_examples")) not in (int, type(None)):
        return False
    try:
        _as_config(record["config"])
    except Exception:  # of names that can be no keys; building it does nothing else
        return False
    return True


def _is_digest(digest: Any) -> bool:
    if digest is None:
        return True
    return isinstance(digest, dict) and all(
        isinstance(split, dict) and type(split.get("records", 0)) is int
        for split in digest.values()
    )


def write_config(
    workdir: Path,
    config: dict[str, Any],
    num_examples: int | None = None,
    data_digest: dict[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Writes config.json, once; a resumed run keeps the first, but for `note_changes`."""
    record = {
        "config": config,
        "notes": list(notes),
        "num_examples": num_examples,
        "data_digest": data_digest,
        "command": sys.argv,
        "git_commit": git_commit(),
        "versions": {"python": platform.python_version()} | versions(),
        "devices": device_summary(),
    }
    _write(workdir, record)


def _write(workdir: Path, record: dict[str, Any]) -> None:
    write_record(workdir / "config.json", json.dumps(record, indent=2) + "\n")


def note_place(workdir: Path, record: dict[str, Any], data: dict[str, Any]) -> None:
    """Writes to config.json where the data of a run lie now, so that `evaluate` finds them.

    Args:
        workdir: of the run.
        record: of config.json.
        data: section of the config now. Where its `name` or `data_dir` lead, the same data lie.
    """
    if (places := moved(record, data)) and record.get("data_digest"):
        record["config"]["data"].update(places)
        _write(workdir, record)


def note_changes(
    workdir: Path, record: dict[str, Any], config: dict[str, Any], keys: Sequence[str]
) -> None:
    """Writes to config.json what a run does otherwise from now on, and what it did before.

    Args:
        workdir: of the run.
        record: of config.json.
        config: of the run now, checked.
        keys: of what is another there, as "loop.num_epochs".
    """
    before = {}
    for key in keys:
        section, name = key.split(".")
        there = record["config"][section]
        before[key] = there[name] if name in there else None
        there[name] = config[section][name]
    if before:
        record.setdefault("before", []).append(before)
        _write(workdir, record)


def moved(record: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Returns which of PLACES are others in a section `data` than in config.json."""
    before = record["config"]["data"] if "data" in record["config"] else {}
    return {key: data[key] for key in PLACES if key in data and data[key] != before.get(key)}


def versions() -> dict[str, str]:
    """Returns the versions of the packages that what a run computes depends on."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def git_commit() -> str:
    """Returns the commit of the code, with "-dirty" for uncommitted changes, or "unknown"."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def device_summary() -> str:
    """Returns e.g. "8 x TPU v4, 2 processes"."""
    processes = jax.process_count()
    kind = jax.devices()[0].device_kind
    return f"{jax.device_count()} x {kind}, {processes} process{'es' if processes > 1 else ''}"
