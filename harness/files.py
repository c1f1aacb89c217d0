"""Files that are there completely or not at all, and lists that people write."""

import codecs
import contextlib
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path next to `path` that replaces it when the block succeeds.

    If the block raises, what was at `path` stays and the temporary file is removed.

    Raises:
        OSError: the file cannot be written or moved.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = content.decode("utf-16")
    else:
        text = content.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    return text.replace("\r\n", "\n").rstrip("\n").split("\n")
