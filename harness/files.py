"""Where paths lead, files that are there completely or not at all, and lists that people write."""

import codecs
import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from harness.arguments import problem
from harness.errors import ConfigError

# Also with one slash, which is what pathlib makes of two; a single letter is a drive.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|hf(-hub)?:")


class WrongPath(ConfigError, ValueError):
    """A path that cannot be one on this machine."""


def local_path(key: str, path: str | os.PathLike) -> Path:
    """Returns a path that a person gave as an absolute one: relative to here, ~ is their home.

    Every path of a config or a flag goes through this, before anything is read or written.

    Args:
        key: what the path is the value of, for messages: "config.init_from", "--workdir".
        path: as given.

    Raises:
        WrongPath: it is empty or a URL.
    """
    text = os.fspath(path)
    if not text.strip() or _URL.match(text):
        what = "a URL: copy remote files to this machine first" if text.strip() else "empty"
        raise WrongPath(problem(key, text, what, "a path on this machine"))
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:  # ~name of nobody
        raise WrongPath(problem(key, text, str(error))) from None


def check_writable(key: str, path: Path) -> None:
    """Raises WrongPath if no file can be written there, for what takes long before it writes."""
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else "there is no such folder"
        raise WrongPath(f"{key}={path}: {what}")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path next to `path` that replaces it when the block succeeds.

    If the block raises, what was at `path` stays and the temporary file is removed. The new file
    and its name are on the disk when this returns: a power cut leaves the old file or the new one.

    Raises:
        OSError: the file cannot be written or moved.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk, where one can wait."""
    with contextlib.suppress(PermissionError):  # a folder that one may write to but not list
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # there is no such thing there
                raise
        finally:
            os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Writes a whole text file as UTF-8.

    Bytes in names of files and folders that are not valid text are kept as they are.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "surrogateescape"))


def read_lines(path: Path) -> list[str]:
    """Returns the lines of a list that a person may have written, on any system.

    Line ends of Windows, a byte-order mark (also that of UTF-16) and empty lines at the end do not
    count. Bytes that are not valid text are kept, as `write_text` writes them.

    Raises:
        OSError: the file cannot be read.
        UnicodeDecodeError: it is broken UTF-16.
    """
    return lines_of(path.read_bytes())


def lines_of(content: bytes) -> list[str]:
    """Returns what `read_lines` does, of the contents of a file."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = content.decode("utf-16")
    else:
        text = content.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    return text.replace("\r\n", "\n").rstrip("\n").split("\n")
