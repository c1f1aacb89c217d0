"""From the name of released weights to the file or folder on this machine: fetched and verified."""

import contextlib
import hashlib
import json
import os
import re
import sys
from pathlib import Path

from harness.files import local_path, user_cache, write_text
from harness.locks import is_locked, locked
from zoo.released.download import DownloadError, download, validator_of
from zoo.released.table import MARK, RELEASED, File

FOLDER_VARIABLE = "NEST_TNT_WEIGHTS_DIR"
_RECORD = "sha256.json"  # file -> hash of what was there first


def is_released(path: str | os.PathLike) -> bool:
    """Returns whether a text is the name of released weights; ./NAME is a path."""
    return os.fspath(path) in RELEASED


def cache_folder() -> Path:
    """Returns the folder of downloaded weights: $NEST_TNT_WEIGHTS_DIR, or the user's cache."""
    if folder := os.environ.get(FOLDER_VARIABLE):
        return local_path(f"${FOLDER_VARIABLE}", folder)
    return user_cache() / "nest_tnt_jax" / "weights"


def released_folder(file: Path) -> Path | None:
    """Returns the folder of released weights in the cache that a file belongs to, if any."""
    folders = (cache_folder() / name for name in RELEASED)
    return next((folder for folder in folders if file.is_relative_to(folder)), None)


def named_checkpoint(index: Path) -> str | None:
    """Returns the name of the newest checkpoint by the file `checkpoint` of TensorFlow, or None.

    That file holds a path on the machine that wrote it, so only the last part counts.
    """
    text = index.read_text(errors="replace") if index.is_file() else ""
    named = re.search(r'^model_checkpoint_path:\s*"(?:.*/)?([^/"]+)"', text, re.MULTILINE)
    return named and named[1]


def find_cached(name: str) -> Path | None:
    """Returns the file or folder of released weights if it is here whole; reads no contents."""
    released, folder = RELEASED[name], cache_folder() / name
    names = [_file_name(folder, file) for file in released.files]
    if not all(known and (folder / known).is_file() for known in names):
        return None
    return folder if released.is_folder else folder / names[0]


def locate(name: str) -> Path:
    """Returns the file or folder of released weights, downloading what is not here yet.

    What was published of their hashes is compared at each use; otherwise the hash of what came
    first is. Of several processes on one disk, one downloads and the others wait.

    Args:
        name: key of RELEASED.

    Raises:
        ValueError: in one line: it cannot be downloaded (says which file to put where), or is not
            the file that was published.
    """
    released, folder = RELEASED[name], cache_folder() / name
    if find_cached(name) is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = folder / "lock"
            if is_locked(lock):
                print(f"{name}: another process downloads it; waiting", file=sys.stderr, flush=True)
            with locked(lock):
                for file in released.files:
                    _fetch(name, folder, file)
        except OSError as error:
            what = f"weights {name}: {folder}: {error.strerror or error}"
            raise ValueError(f"{what}; ${FOLDER_VARIABLE} can name another folder") from error
    for file in released.files:
        _check(name, folder, file)
    return find_cached(name)


def _file_name(folder: Path, file: File) -> str | None:
    """Returns the name of a file in the cache; None while the file that tells it is not there."""
    if MARK not in file.name:
        return file.name
    checkpoint = named_checkpoint(folder / "checkpoint")
    return checkpoint and file.name.replace(MARK, checkpoint)


def _fetch(name: str, folder: Path, file: File) -> None:
    known = _file_name(folder, file)
    if known is None:
        raise ValueError(f"weights {name}: {folder / 'checkpoint'} names no checkpoint; delete it")
    if (target := folder / known).is_file():
        return
    url = file.url.replace(file.name, known)
    part = folder / f"{known}.part"
    print(f"{name}: downloading {url}{_in_words(file)}", file=sys.stderr, flush=True)
    try:
        download(url, part, name)
    except DownloadError as error:
        raise ValueError(_by_hand(name, folder, url, target, error)) from error
    digest, expected = _digest(part), _expected(folder, file, known)
    if not digest.startswith(expected):
        part.unlink()
        todo = "another file has taken its place"
        if not file.sha256:
            todo += f", or what came first was wrong: then delete {folder}"
        raise ValueError(
            f"weights {name}: {url} came with SHA-256 {digest}, not {expected}; it is not kept. "
            f"Try again; if it comes so again, {todo}"
        )
    _note(folder, known, digest)
    os.replace(part, target)
    validator_of(part).unlink(missing_ok=True)


def _in_words(file: File) -> str:
    return f" ({file.size})" if file.size else ""


def _by_hand(name: str, folder: Path, url: str, target: Path, error: Exception) -> str:
    what = f"weights {name}: cannot be downloaded ({error}); fetch {url} and put it at {target}"
    if RELEASED[name].is_folder and target.name == "checkpoint":
        flax = url.replace("checkpoint", "ckpt-N.flax")
        what += f", and {flax} beside it, ckpt-N being the name in that file"
    return f"{what} (${FOLDER_VARIABLE} can name another folder)"


def _check(name: str, folder: Path, file: File) -> None:
    known = _file_name(folder, file)
    digest, expected = _digest(folder / known), _expected(folder, file, known)
    if not digest.startswith(expected):
        was = "was published" if file.sha256 else "was there first"
        raise ValueError(
            f"weights {name}: {folder / known} has SHA-256 {digest}, not {expected}, which {was}; "
            "delete it, and it is downloaded again"
        )
    if not expected:
        with contextlib.suppress(OSError):  # put there by hand, perhaps where nobody else may write
            _note(folder, known, digest)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _record(folder: Path) -> dict[str, str]:
    try:
        return dict(json.loads((folder / _RECORD).read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _expected(folder: Path, file: File, known: str) -> str:
    """Returns the hash that a file must have, or how it must begin; "" for any."""
    return file.sha256 or _record(folder).get(known, "")


def _note(folder: Path, known: str, digest: str) -> None:
    write_text(folder / _RECORD, json.dumps(_record(folder) | {known: digest}, indent=1) + "\n")
