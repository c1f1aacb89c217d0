"""Paths for Orbax and TensorStore, which do not take every name that a file system allows.

Orbax joins its glob patterns to the path as it is, so that "[16,16]" in it matches nothing (etils,
epath.Path.glob); TensorStore takes a backslash for a slash and needs UTF-8; "gs:" at the end of a
name turns into the start of a URL. Such paths are reached through a symbolic link with a plain one.
"""

import atexit
import contextlib
import os
import re
import tempfile
from pathlib import Path

from harness.errors import ConfigError
from process.identity import machine, machine_token, started

_PLAIN = re.compile(r"[A-Za-z0-9_ ./+,=@~-]*")
_PLACES = ("/tmp", "/var/tmp", "/dev/shm")
# Of a process: the machine, its number, when it began.
_FOLDER = re.compile(r"workdir_([0-9a-f]{8})-(\d+)-(\w+)_\w+")
_links: dict[Path, Path] = {}  # target -> link


def plain_path(path: Path) -> Path:
    """Returns a path to the same folder, or the file in it, that Orbax and TensorStore take.

    Args:
        path: absolute. A plain one comes back as it is; another gets a symbolic link that leads to
            its folder of the run, for as long as this process lives. What is renamed, made and
            deleted below it is so in the folder itself. Ask again before each use: a link that a
            cleaner of temporary files has removed is made again, in another place.

    Raises:
        ConfigError: no link can be made.
    """
    if _PLAIN.fullmatch(str(path)) or "://" in str(path):  # of a bucket
        return path
    parts = path.parts
    last = max(n for n, part in enumerate(parts, start=1) if not _PLAIN.fullmatch(part))
    return _link(Path(*parts[:last])).joinpath(*parts[last:])


def _link(target: Path) -> Path:
    link = _links.get(target)
    if link is None or not _leads(link, target):
        link = _links[target] = _new_link(target)
    return link


def _leads(link: Path, target: Path) -> bool:
    """Returns whether a link is still there: cleaners of temporary files remove old ones."""
    try:
        return os.readlink(link) == str(target)
    except OSError:
        return False


def _new_link(target: Path) -> Path:
    problem = ""
    owner = f"{machine_token()}-{os.getpid()}-{started(os.getpid())}"
    for place in (tempfile.gettempdir(), *_PLACES):
        if _PLAIN.fullmatch(place):
            try:
                _remove_stale(Path(place))
                folder = tempfile.mkdtemp(prefix=f"workdir_{owner}_", dir=place)
                link = Path(folder, "link")
                link.symlink_to(target)
            except OSError as error:
                problem = f"{place}: {error.strerror}"
                continue
            atexit.register(_remove_own, os.getpid(), link)
            return link
    raise ConfigError(
        f"{target} has characters that are reached through a symbolic link, and none can be made "
        f"({problem}); choose a path of letters, digits and . _ + , = @ ~ -"
    )


def _remove_stale(place: Path) -> None:
    """Removes the links of processes of this machine that were killed."""
    for folder in place.glob("workdir_*"):
        match = _FOLDER.fullmatch(folder.name)
        if match and machine() is not None and match[1] == machine_token():
            if started(int(match[2])) != match[3]:  # its number may be another's by now
                _remove(folder / "link")


def _remove_own(owner: int, link: Path) -> None:
    if os.getpid() == owner:  # not in a process that was forked off
        _remove(link)


def _remove(link: Path) -> None:
    with contextlib.suppress(OSError):  # never what is not a link
        link.unlink(missing_ok=True)
        link.parent.rmdir()
