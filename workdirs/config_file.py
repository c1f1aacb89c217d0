"""config.json of a run: its resolved config, git commit, versions and devices."""

import importlib.metadata
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from harness.errors import ConfigError
from harness.files import write_text

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def read_config(workdir: Path) -> ConfigDict:
    """Returns the config that a run was made with.

    Raises:
        ConfigError: there is no readable config.json.
    """
    config = read_record(workdir)["config"]
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
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        _ = record["config"].items()
        return record
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist: {workdir} is not the folder of a run") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is unreadable: {error}") from None


def write_config(workdir: Path, config: dict[str, Any], num_examples: int | None = None) -> None:
    """Writes config.json, once; a resumed run keeps the first."""
    record = {
        "config": config,
        "num_examples": num_examples,
        "command": sys.argv,
        "git_commit": git_commit(),
        "versions": {"python": platform.python_version()} | versions(),
        "devices": device_summary(),
    }
    write_text(workdir / "config.json", json.dumps(record, indent=2) + "\n")


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
