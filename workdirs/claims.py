"""A workdir belongs to one process at a time."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from harness.arguments import problem
from harness.class_lists import two_orders
from harness.errors import ConfigError, input_errors
from harness.files import write_text
from harness.locks import is_locked, take_lock
from workdirs.class_file import own_classes
from workdirs.config_file import read_record, write_config


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
