"""Where paths lead, files that are there completely or not at all, and lists that people write."""

import codecs
import contextlib
import errno
import os
import re
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from harness.arguments import problem
from harness.errors import ConfigError
from harness.leases import check_leases, in_bucket
from process.identity import has_ended, machine_token

# Also with one slash, which is what pathlib makes of two; a single letter is a drive.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|hf(-hub)?:")
# Of what `replacing` writes: the machine, the process, chance.
_TEMPORARY = re.compile(r"\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.tmp$")
_STALE_SECONDS = 3600  # then a temporary file of another machine is nobody's


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


def run_path(key: str, path: str | os.PathLike) -> Path:
    """Returns the path of a run's folder: as `local_path`, or in a bucket (gs://bucket/folder).

    A path in a bucket has the methods of a Path; files are written with the functions here alone.

    Raises:
        WrongPath: it is empty or another URL.
        ConfigError: it is no folder in a bucket. Whether there is such a bucket, and whether this
            machine can reach it, says the first method that asks.
    """
    if in_bucket(path):
        from harness import buckets

        return buckets.bucket_path(key, os.fspath(path))
    try:
        return local_path(key, path)
    except WrongPath:
        if not (text := os.fspath(path)).strip() or not _URL.match(text):
            raise
        what = "a URL: copy remote files to this machine first"
        raise WrongPath(problem(key, text, what, "a path, gs://bucket/folder")) from None


def user_cache() -> Path:
    """Returns the folder for what can be made or fetched again, of all programs of this user."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def must_be_local(key: str, path: Path, why: str) -> None:
    """Raises WrongPath for a path in a bucket."""
    if in_bucket(path):
        raise WrongPath(
            problem(key, os.fspath(path), f"in a bucket, {why}", "a path on this machine")
        )


def check_writable(key: str, path: Path, suffixes: tuple[str, ...] = ()) -> None:
    """Raises WrongPath if no file can be written there, for what takes long before it writes.

    Args:
        key: what the path is the value of.
        path: of the file.
        suffixes: that its name may have; empty: any.
    """
    what = ""
    if path.is_dir():
        what = "is a folder"
    elif suffixes and path.suffix not in suffixes:
        what = f"the name must end with {' or '.join(suffixes)}"
    elif not path.parent.is_dir():
        what = f"there is no such folder: {path.parent}"
    elif not in_bucket(path) and not os.access(path.parent, os.W_OK | os.X_OK):
        what = f"no file can be written in {path.parent}"
    if what:
        raise WrongPath(f"{key}={path}: {what}")


def check_folder(key: str, folder: Path) -> None:
    """Raises WrongPath if no files can be written in a folder, which may have to be made first."""
    there = folder
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise WrongPath(f"{key}={folder}: {there} is no folder")
    check_writable(key, there / "file")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path next to `path` that replaces it when the block succeeds.

    If the block raises, what was at `path` stays and the temporary file is removed. Of several who
    write the same file at once, each has its own, and the last one's stays. The new file
    and its name are on the disk when this returns: a power cut leaves the old file or the new one.
    In a bucket the temporary file is on this machine, and its upload is all or nothing by itself.

    Raises:
        OSError: the file cannot be written or moved.
        LostLock: another process has taken a lease of this one.
    """
    check_leases()
    if in_bucket(path):
        from harness import buckets

        with tempfile.TemporaryDirectory() as folder:
            yield (temporary := Path(folder) / path.name)
            buckets.upload(path, temporary.read_bytes())
        return
    # Not all of a long name, so that this one is not too long for the file system.
    token = f"{machine_token()}-{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f"{path.name[:40]}.{token}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Returns whether a name is that of a temporary file of `replacing`."""
    return bool(_TEMPORARY.search(path.name))


def remove_stale(folder: Path) -> None:
    """Removes the temporary files in a folder, and in those in it, of processes that were killed.

    Of a process on another machine nobody can say whether it lives: its files go after an hour.
    """
    if in_bucket(folder):  # where there are none
        return
    for pattern in ("*.tmp", "*/*.tmp", "*/*/*.tmp"):
        for path in folder.glob(pattern):
            if match := _TEMPORARY.search(path.name):
                with contextlib.suppress(OSError):  # another has been faster, or may not
                    is_ours = match[1] == machine_token() and has_ended(int(match[2]))
                    if is_ours or time.time() - path.stat().st_mtime > _STALE_SECONDS:
                        path.unlink()


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk, where one can wait."""
    if in_bucket(path):
        return
    with contextlib.suppress(PermissionError):  # a folder that one may write to but not list
        descriptor = os.open(path, os.O_RDONLY)
        try:
            _sync(descriptor)
        finally:
            os.close(descriptor)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # there is no such thing there
            raise


def write_text(path: Path, text: str) -> None:
    """Writes a whole text file as UTF-8.

    Bytes in names of files and folders that are not valid text are kept as they are.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "surrogateescape"))


class Appended:
    """A text file that grows, such as metrics.jsonl.

    `flush` says that what has been written must be there now, also after a power cut: before a
    checkpoint that counts on it. A bucket has no append. There the whole is uploaded again, not
    more often than every few seconds and more rarely the larger it is. What a killed process had
    not uploaded is of steps after its last checkpoint, which are made again.

    Args:
        path: of the file, made if absent.
    """

    _SECONDS, _BYTES_PER_SECOND = 5.0, 200_000

    def __init__(self, path: Path):
        self._path, self._file, self._waiting = path, None, False
        if in_bucket(path):
            from harness import buckets

            self._content, self._generation = buckets.download(path) or (b"", 0)
            self._next = 0.0
        else:
            self._file = path.open("a", encoding="utf-8")

    def write(self, text: str) -> None:
        """Appends to the file."""
        check_leases()
        if self._file is not None:
            self._file.write(text)
            self._file.flush()
            return
        self._content += text.encode("utf-8", "surrogateescape")
        self._waiting = True
        if time.monotonic() >= self._next:
            self.flush()

    def flush(self) -> None:
        """Returns when everything written is on the disk, or in the bucket."""
        check_leases()
        if self._file is not None:
            _sync(self._file.fileno())
        elif self._waiting:
            self._upload()

    def _upload(self) -> None:
        from harness import buckets

        self._waiting = False  # also if it fails, which ends the run: not to wait once more
        self._generation = buckets.upload(self._path, self._content, generation=self._generation)
        pause = max(self._SECONDS, len(self._content) / self._BYTES_PER_SECOND)
        self._next = time.monotonic() + pause

    def close(self) -> None:
        """Writes the rest."""
        if self._file is not None:
            self._file.close()
        else:
            self.flush()


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
