"""Reads and writes the small files of a workdir: whole, as they were written, of the right shape.

A file written once has its SHA-256 in the folder `checksums` next to it, as `sha256sum -c` reads
it; a line of a .jsonl file ends with a CRC of its own. What has neither, from earlier versions, is
read all the same.
"""

import dataclasses
import hashlib
import json
import random
import re
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, StorageError, one_line
from harness.files import sync, write_text
from workdirs.regular_files import NoRegularFile, read_regular

CHECKSUMS = "checksums"  # folder
_LINE_WITH_CRC = re.compile(rb'(.*), "crc32": "([0-9a-f]{8})"\}', re.DOTALL)


class DamagedFile(ConfigError):
    """A file is not what was written there."""


class CannotRead(ConfigError):
    """A file cannot be read now, which says nothing about what it holds."""

    exit_code = StorageError.exit_code


def checksum_path(path: Path) -> Path:
    """Returns where the checksum of a file is."""
    return path.parent / CHECKSUMS / f"{path.name}.sha256"


def write_record(path: Path, text: str) -> None:
    """Writes a text file with its checksum; a crash in between leaves it without one.

    Of several processes that write it at once, one leaves both.
    """
    checksum, content = checksum_path(path), text.encode("utf-8", "surrogateescape")
    line = _checksum_line(path, content)
    checksum.parent.mkdir(exist_ok=True)
    for _ in range(50):
        if checksum.exists():
            checksum.unlink(missing_ok=True)
            sync(checksum.parent)  # before the new text is there, which it does not fit
        write_text(path, text)
        write_text(checksum, line)
        # Whoever wrote last looks last: a file and a checksum of two writers do not stay.
        if _is(path, content) and _is(checksum, line.encode("utf-8", "surrogateescape")):
            return
        time.sleep(random.uniform(0.0, 0.1))


def _is(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except FileNotFoundError:  # another is about to write it
        return False


def _checksum_line(path: Path, content: bytes) -> str:
    return f"{hashlib.sha256(content).hexdigest()}  {path.name}\n"


def read_bytes(path: Path, todo: str) -> bytes | None:
    """Returns the contents of a file, None if it is not there.

    Args:
        path: of the file.
        todo: what a person can do if it is damaged.

    Raises:
        DamagedFile: it is a folder, or not what its checksum says.
        CannotRead: for a reason that may pass.
    """
    content = _read(path, todo)
    for _ in range(3):
        checksum = _read(checksum_path(path), f"delete it, then {path.name} counts as it is")
        if content is None:
            return None
        expected = _checksum_line(path, content).encode("utf-8", "surrogateescape")
        if checksum in (None, expected):
            return content
        time.sleep(0.05)  # perhaps it is being replaced
        content = _read(path, todo)
    if re.fullmatch(rb"[0-9a-f]{64}  .+\n", checksum, re.DOTALL) is None:
        what = _emptiness(checksum) or "no line of sha256sum"
        raise DamagedFile(
            f"{checksum_path(path)} is {what}: delete it, then {path.name} counts as it is"
        )
    raise DamagedFile(
        f"{path} is {_emptiness(content) or 'not as it was written'}: {todo}; if it was changed on "
        f"purpose, delete {checksum_path(path)}"
    )


def _read(path: Path, todo: str) -> bytes | None:
    try:
        return read_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError as error:
        what = "no regular file" if isinstance(error, NoRegularFile) else "a folder"
        raise DamagedFile(f"{path} is {what} and should be a file: {todo}") from None
    except OSError as error:
        what = error.strerror or one_line(error)
        raise CannotRead(f"{path} cannot be read now ({what}); nothing is changed") from error


def _emptiness(content: bytes) -> str:
    return "empty" if not content.strip() else "" if content.strip(b"\0") else "all zeros"


def read_text(path: Path, todo: str, *, errors: str = "strict") -> str | None:
    """Returns the contents of a text file in UTF-8; see `read_bytes`.

    Args:
        path: of the file.
        todo: what a person can do if it is damaged.
        errors: "surrogateescape" keeps bytes of names that are no text.
    """
    content = read_bytes(path, todo)
    try:
        return None if content is None else content.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise DamagedFile(f"{path} is not UTF-8 (byte {error.start}): {todo}") from None


def read_json(path: Path, todo: str, is_sound: Callable[[Any], bool]) -> Any | None:
    """Returns the value in a JSON file, None if it is not there; see `read_bytes`.

    Args:
        path: of the file.
        todo: what a person can do if it is damaged.
        is_sound: tells whether a value has the shape that is expected there.
    """
    text = read_text(path, todo)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except Exception as error:  # of a parser of text there is no other meaning
        what = _emptiness(text.encode()) or f"no JSON ({one_line(error)})"
        raise DamagedFile(f"{path} is {what}: {todo}") from None
    if not is_sound(value):
        raise DamagedFile(f"{path} is JSON of another shape: {todo}")
    return value


@dataclasses.dataclass(frozen=True)
class Lines:
    """The contents of a .jsonl file.

    Attributes:
        records: of each line; None for one that is damaged or cut off.
        lines: as they are, each with its end.
        unknown: how many have no checksum.
        is_cut: whether the last line has no end, as a crash leaves it.
    """

    records: list[dict[str, Any] | None]
    lines: list[bytes]
    unknown: int = 0
    is_cut: bool = False

    @property
    def sound(self) -> list[dict[str, Any]]:
        """The records of the readable lines."""
        return [record for record in self.records if record is not None]

    @property
    def damage(self) -> str:
        """Which lines are damaged, in a few words; empty if none is."""
        numbers = [str(n) for n, record in enumerate(self.records, start=1) if record is None]
        few = ", ".join(numbers[:5]) + (", ..." if len(numbers) > 5 else "")
        return f"line{'s' if len(numbers) > 1 else ''} {few}" if numbers else ""


def json_line(record: dict[str, Any]) -> str:
    """Returns a record, which is not empty, as a line that ends with its CRC-32."""
    body = json.dumps(record)
    return f'{body[:-1]}, "crc32": "{zlib.crc32(body.encode()):08x}"}}\n'


def parse_lines(content: bytes | str, is_sound: Callable[[dict[str, Any]], bool]) -> Lines:
    """Returns what the lines of a .jsonl file hold, without their checksums.

    Args:
        content: of the file.
        is_sound: tells whether a record has the shape that is expected there. It has to refuse a
            key that it does not know whose value is text: a checksum under a damaged name.
    """
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogateescape")
    *lines, last = content.split(b"\n")
    records, unknown = [], 0
    for line in [*lines, *([last] if last else [])]:
        match = _LINE_WITH_CRC.fullmatch(line)
        body = match[1] + b"}" if match else line
        record = None
        if match is None or zlib.crc32(body) == int(match[2], 16):
            try:
                record = json.loads(body.decode("utf-8"))
            except Exception:  # of a parser of text there is no other meaning
                record = None
        if not (isinstance(record, dict) and "crc32" not in record and is_sound(record)):
            record = None
        unknown += record is not None and match is None
        records.append(record)
    ended = [line + b"\n" for line in [*lines, *([last] if last else [])]]
    return Lines(records, ended, unknown, bool(last))


def read_lines(path: Path, todo: str, is_sound: Callable[[dict[str, Any]], bool]) -> Lines:
    """Returns what `parse_lines` does of a file, no lines if it is not there.

    Raises:
        DamagedFile: it is a folder.
        CannotRead: for a reason that may pass.
    """
    return parse_lines(read_bytes(path, todo) or b"", is_sound)
