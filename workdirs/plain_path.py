"""Paths for Orbax and TensorStore, which do not take every name that a file system allows.

Orbax joins its glob patterns to the path as it is, so that "[16,16]" in it matches nothing (etils,
epath.Path.glob); TensorStore takes a backslash for a slash and needs UTF-8; "gs:" at the end of a
name turns into the start of a URL. Such paths are reached through a symbolic link with a plain one.
"""

import atexit
import contextlib
import functools
import os
import re
import tempfile
from pathlib import Path

from harness.errors import ConfigError

_PLAIN = re.compile(r"[A-Za-z0-9_ ./+,=@~-]*")
_PLACES = ("/tmp", "/var/tmp", "/dev/shm")


def plain_path(path: Path) -> Path:
    """Returns a path to the same folder, or the file in it, that Orbax and TensorStore take.

    Args:
        path: absolute. A plain one comes back as it is; another gets a symbolic link that leads to
            its folder of the run, for as long as this process lives. What is renamed, made and
            deleted below it is so in the folder itself.

    Raises:
        ConfigError: no link can be made.
    """
    if _PLAIN.fullmatch(str(path)) or "://" in str(path):  # of a bucket
        return path
    parts = path.parts
    last = max(n for n, part in enumerate(parts, start=1) if not _PLAIN.fullmatch(part))
    return _link(Path(*parts[:last])).joinpath(*parts[last:])


@functools.cache
def _link(target: Path) -> Path:
    problem = ""
    for place in (tempfile.gettempdir(), *_PLACES):
        if _PLAIN.fullmatch(place):
            try:
                folder = tempfile.mkdtemp(prefix="workdir_", dir=place)
                link = Path(folder, "link")
                link.symlink_to(target)
            except OSError as error:
                problem = f"{place}: {error.strerror}"
                continue
            atexit.register(_remove, os.getpid(), link)
            return link
    raise ConfigError(
        f"{target} has characters that are reached through a symbolic link, and none can be made "
        f"({problem}); choose a path of letters, digits and . _ + , = @ ~ -"
    )


def _remove(owner: int, link: Path) -> None:
    if os.getpid() == owner:  # not in a process that was forked off
        with contextlib.suppress(OSError):
            link.unlink()
            link.parent.rmdir()
