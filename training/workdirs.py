"""The folder of a run: its whole record.

config.json    resolved config, git commit, versions, devices
checkpoints/   see training/checkpoints.py
metrics.jsonl  every logged metric, one JSON object a line
tensorboard/   the same as TensorBoard events
curves.png     the same as a picture
DONE           final metrics; exists once the run is finished
"""

import importlib.metadata
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from training.errors import ConfigError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns {"optimizer.base_lr": 0.001, ...}."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.") if value else {f"{prefix}{key}": {}}
        else:
            flat[prefix + key] = value
    return flat


def read_config(workdir: Path) -> ConfigDict:
    """Returns the config that a run was made with.

    Raises:
        ConfigError: there is no readable config.json.
    """
    path = workdir / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))["config"]
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist: {workdir} is not the folder of a run") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is unreadable: {error}") from None

    def with_tuples(value):  # JSON has only lists
        if isinstance(value, dict):
            return {key: with_tuples(item) for key, item in value.items()}
        return tuple(with_tuples(item) for item in value) if isinstance(value, list) else value

    return ConfigDict(with_tuples(config))


def config_differences(workdir: Path, config: dict[str, Any]) -> list[str]:
    """Lists the keys in which a config differs from the one that the workdir was made with."""
    old, new = flatten(read_config(workdir).to_dict()), flatten(config)
    absent = "(absent)"
    return [
        f"{key}: {old.get(key, absent)!r} there, {new.get(key, absent)!r} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, absent) != new.get(key, absent)
    ]


def check_same_config(workdir: Path, config: dict[str, Any]) -> None:
    """Raises ConfigError, naming the keys that differ, if the workdir is of another config."""
    if not (workdir / "config.json").exists():
        if any((workdir / name).exists() for name in ("checkpoints", "metrics.jsonl", "DONE")):
            raise ConfigError(f"{workdir} holds a run without its config.json; choose another")
        return
    differences = config_differences(workdir, config)
    if differences:
        raise ConfigError(f"{workdir} was made with another config: {'; '.join(differences)}")


def write_config(workdir: Path, config: dict[str, Any]) -> None:
    """Writes config.json, once; a resumed run keeps the first."""
    path = workdir / "config.json"
    if path.exists() or jax.process_index() != 0:
        return
    workdir.mkdir(parents=True, exist_ok=True)
    record = {
        "config": config,
        "command": sys.argv,
        "git_commit": git_commit(),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "devices": device_summary(),
    }
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=2) + "\n")
    temporary.replace(path)


def git_commit() -> str:
    """Returns the commit of the code, with "-dirty" for uncommitted changes, or "unknown"."""
    folder = Path(__file__).parent
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=folder,
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


def read_done(workdir: Path) -> dict[str, float] | None:
    """Returns the final metrics of a finished run, None for others."""
    path = workdir / "DONE"
    return json.loads(path.read_text()) if path.exists() else None


def write_done(workdir: Path, metrics: dict[str, float]) -> None:
    """Marks the run as finished."""
    if jax.process_index() == 0:
        (workdir / "DONE").write_text(json.dumps(metrics) + "\n")
