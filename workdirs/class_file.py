"""classes.txt of a run: the names of its classes, in the order of the labels."""

import os
from pathlib import Path

from harness.errors import ConfigError
from harness.files import lines_of, local_path, read_lines, run_path
from workdirs.records import DamagedFile, read_bytes


def read_classes(file: str | os.PathLike) -> list[str]:
    """Returns the names in a file of --classes, with one class per line; see `read_lines`.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return read_lines(local_path("--classes", file))
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "broken UTF-16"
        raise ConfigError(f"--classes={file}: {what}") from error


def find_classes(path: Path) -> tuple[str, ...] | None:
    """Returns the class names of the run that a workdir, or a checkpoint in it, belongs to.

    Returns:
        The names in the order of the labels; None where they are not known.
    """
    path = run_path("path", path)
    folders = (path, *path.parents[:3])  # workdir/checkpoints/best/1200
    return next(filter(None, map(own_classes, folders)), None)


def own_classes(workdir: Path) -> tuple[str, ...] | None:
    """Returns the class names in a workdir's classes.txt, None if there is none.

    Raises:
        ConfigError: the file is damaged.
    """
    path = workdir / "classes.txt"
    todo = "write the names of its classes there, one a line, in the order of the labels"
    content = read_bytes(path, todo)
    if content is None:
        return None
    try:
        names = tuple(lines_of(content))
    except UnicodeDecodeError:
        raise DamagedFile(f"{path} is broken UTF-16: {todo}") from None
    if not all(name.strip("\0 \t") for name in names):
        raise DamagedFile(f"{path} is empty or has a blank line: {todo}")
    return names
