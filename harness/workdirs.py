"""The folder of a run: its complete record.

config.json    resolved config, git commit, versions, devices
classes.txt    names of the classes, in the order of the labels, where they are known
bad_images.jsonl  images that could not be read, if any
checkpoints/   see training/checkpoints.py
metrics.jsonl  every logged metric, one JSON object per line
tensorboard/   the same as TensorBoard events
curves.png     the same as a picture
log_to.json    what has been sent to the services of --log_to
DONE           final metrics, the best and its epoch; exists once the run is finished
"""

import contextlib
import importlib.metadata
import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from flax import traverse_util
from ml_collections import ConfigDict

from harness.arguments import problem
from harness.class_lists import two_orders
from harness.errors import ConfigError, input_errors
from harness.files import local_path, read_lines, write_text
from harness.locks import is_locked, take_lock

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def flatten(config: dict[str, Any]) -> dict[str, Any]:
    """Returns {"optimizer.base_lr": 0.001, ..., "device_augment": {}}."""
    flat = traverse_util.flatten_dict(config, keep_empty_nodes=True, sep=".")
    return {k: {} if v is traverse_util.empty_node else v for k, v in flat.items()}


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


# They decide where and how fast a run runs, not what it computes: a resumed run may change them.
FREE_KEYS = re.compile(
    r"mesh\.|data\.(num_threads|num_workers|prefetch|data_dir|bad_images|max_bad)$"
    r"|(model|generator|discriminator)\.(remat|kernels)$"
)


def config_changes(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Returns the keys in which two checked configs differ, without the FREE_KEYS.

    None, an empty section and an absent key are the same: off, or the default.

    Returns:
        Key -> the old value and the new one, as text.
    """
    old, new = (flatten(json.loads(json.dumps(config))) for config in (old, new))  # no tuples

    old, new = ({k: v for k, v in flat.items() if v is not None and v != {}} for flat in (old, new))

    def shown(flat, key):
        return repr(flat[key]) if key in flat else "(absent)"

    return {
        key: (shown(old, key), shown(new, key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not FREE_KEYS.match(key)
    }


def config_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Lists what `config_changes` finds, as "key: OLD there, NEW now"."""
    changes = config_changes(old, new)
    return [f"{key}: {before} there, {now} now" for key, (before, now) in changes.items()]


@contextlib.contextmanager
def claimed(
    workdir: Path,
    config: dict[str, Any],
    class_names: tuple[str, ...] | None,
    num_examples: int | None = None,
) -> Iterator[None]:
    """Makes the workdir with its config.json and locks other processes out for the block.

    Args:
        workdir: made if absent.
        config: checked.
        class_names: in the order of the labels, None where they are not known.
        num_examples: of the training split, if there is one.

    Raises:
        ConfigError: the folder can't be written, another process trains in it, or its run was begun
            with other data.
    """
    if jax.process_index() != 0:
        yield
        return
    with input_errors():
        workdir.mkdir(parents=True, exist_ok=True)
        lock = take_lock(workdir / ".lock", seconds=0.3)  # `is_claimed` holds it for a moment
    if lock is None:
        raise ConfigError(f"another process is training in {workdir}")
    with lock:
        if not (workdir / "config.json").exists():
            write_config(workdir, config, num_examples)
        elif num_examples != (before := read_record(workdir).get("num_examples") or num_examples):
            raise ConfigError(
                f"{workdir} was begun with {before:,} training images, and now there are "
                f"{num_examples:,}; another --workdir with --config.init_from={workdir} goes on "
                "from its weights"
            )
        elif class_names and two_orders(class_names) and own_classes(workdir) is None:
            raise ConfigError(
                f"{workdir} does not say in which order its classes are, and folders named by "
                f"numbers were sorted as text before: write their names, one a line, to "
                f"{workdir / 'classes.txt'}"
            )
        if class_names is not None and own_classes(workdir) is None:
            write_text(workdir / "classes.txt", "".join(f"{name}\n" for name in class_names))
        yield


def check_path(workdir: Path) -> None:
    """Raises ConfigError for a path under which Orbax writes checkpoints that it cannot read.

    It takes the path for a pattern of names.
    """
    if found := sorted(set("*?[]") & set(str(workdir))):
        raise ConfigError(
            problem("--workdir", str(workdir), f"{' '.join(found)} in a path", "other characters")
        )


def is_claimed(workdir: Path) -> bool:
    """Returns whether a process trains in a workdir."""
    return is_locked(workdir / ".lock")


def parse_metrics(text: str) -> list[dict[str, Any] | None]:
    """Returns the lines of metrics.jsonl; None for one that is cut off or damaged."""
    records = []
    for line in text.splitlines():
        try:
            record = json.loads(line)
            is_sound = record["kind"] in ("train", "eval") and type(record["step"]) is int
        except (ValueError, TypeError, KeyError):
            is_sound = False
        records.append(record if is_sound else None)
    return records


def read_classes(path: Path) -> list[str]:
    """Returns the names in a file with one class per line; see `read_lines`."""
    return read_lines(path)


def find_classes(path: Path) -> tuple[str, ...] | None:
    """Returns the class names of the run that a workdir, or a checkpoint in it, belongs to.

    Returns:
        The names in the order of the labels; None where they are not known.
    """
    path = local_path("path", path)
    folders = (path, *path.parents[:3])  # workdir/checkpoints/best/1200
    return next(filter(None, map(own_classes, folders)), None)


def own_classes(workdir: Path) -> tuple[str, ...] | None:
    """Returns the class names in a workdir's classes.txt, None if there is none."""
    path = workdir / "classes.txt"
    return tuple(read_classes(path)) if path.is_file() else None


def write_config(workdir: Path, config: dict[str, Any], num_examples: int | None = None) -> None:
    """Writes config.json, once; a resumed run keeps the first."""
    record = {
        "config": config,
        "num_examples": num_examples,
        "command": sys.argv,
        "git_commit": git_commit(),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "devices": device_summary(),
    }
    write_text(workdir / "config.json", json.dumps(record, indent=2) + "\n")


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


def bad_images_path(workdir: Path) -> Path:
    """Returns the path of the list of images that this process could not read."""
    process = jax.process_index()
    return workdir / f"bad_images{f'_{process}' if process else ''}.jsonl"


def read_done(workdir: Path) -> dict[str, float] | None:
    """Returns the final metrics of a finished run, None for others."""
    path = workdir / "DONE"
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is unreadable ({error}); delete it to continue") from None


def write_done(workdir: Path, metrics: dict[str, float]) -> None:
    """Marks the run as finished."""
    if jax.process_index() == 0:
        write_text(workdir / "DONE", json.dumps(metrics) + "\n")
