"""Files that are there completely or not at all."""

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
