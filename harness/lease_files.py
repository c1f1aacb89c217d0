"""The file of a lease: read, written if nobody else has written it since, removed.

A version is an object's generation in a bucket and the file's content elsewhere.
"""

import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any


def in_bucket(path: str | os.PathLike) -> bool:
    """Returns whether a path leads into a bucket."""
    return os.fspath(path).startswith("gs://")


class Taken(Exception):
    """The file is not as it was."""


def read(path: Path) -> tuple[dict[str, Any], Any] | None:
    """Returns the record in a file, empty if it is damaged, and its version; None: no file."""
    if in_bucket(path):
        from harness import buckets

        found = buckets.download(path)
        if found is None:
            return None
        content, version = found
    else:
        try:
            content = version = path.read_bytes()
        except FileNotFoundError:
            return None
    try:
        record = json.loads(content)
    except ValueError:  # half written
        record = None
    return record if isinstance(record, dict) else {}, version


def write(path: Path, content: bytes, version: Any, *, own: bool = False) -> Any:
    """Writes a lease that is as `version` says, None: not there; returns its new version.

    Args:
        path, content: of the file.
        version: that it must have.
        own: it is this process's already. Outside of buckets nobody else writes it then.

    Raises:
        Taken: it is otherwise.
    """
    if in_bucket(path):
        from harness import buckets

        try:
            return buckets.upload(path, content, generation=version or 0)
        except buckets.Changed:
            raise Taken from None
    try:
        if version is None:
            return _create(path, content)
        if not own:
            return _take_over(path, content, version)
        if path.read_bytes() != version:
            raise Taken
        aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        aside.write_bytes(content)
        aside.replace(path)
        return content
    except (FileExistsError, FileNotFoundError):
        raise Taken from None


def _take_over(path: Path, content: bytes, version: bytes) -> bytes:
    """Replaces an expired lease, which is there all the time: a gap would be free for others."""
    claim = claim_path(path, version)
    _create(claim, content)  # of several that take this version, one gets it
    try:
        if path.read_bytes() != version:
            raise Taken  # another has been faster
        claim.replace(path)
    finally:
        claim.unlink(missing_ok=True)
    return content


def claim_path(path: Path, version: bytes) -> Path:
    """Returns the file that a process makes to take over a lease that has expired."""
    return path.with_name(f"{path.name}.{hashlib.sha256(version).hexdigest()[:8]}")


def _create(path: Path, content: bytes) -> bytes:
    with path.open("xb") as file:
        try:
            file.write(content)
            file.flush()
        except OSError:  # of a full disk; an empty one would be waited for
            path.unlink(missing_ok=True)
            raise
    return content


def remove(path: Path, version: Any) -> None:
    """Removes a file of that version."""
    if in_bucket(path):
        from harness import buckets

        buckets.remove(path, generation=version, seconds=5)
    elif path.read_bytes() == version:
        path.unlink()


def forget_claim(path: Path, version: Any) -> None:
    """Removes what a process has left that crashed while it took over a version of a lease."""
    if isinstance(version, bytes):
        claim_path(path, version).unlink(missing_ok=True)
