"""One file over HTTP, resumed where it broke off."""

import contextlib
import http.client
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import tqdm

from harness.errors import one_line

PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds before another try; it is over when none brought a byte
TIMEOUT = 30.0  # seconds without an answer
_CHUNK = 2**18
_SAY_EVERY = 10.0  # seconds, where there is no terminal for a bar


class DownloadError(ValueError):
    """What has kept a file from being downloaded, in a few words."""


class _Broken(Exception):
    """The connection broke; the rest may come at another try."""


def download(url: str, part: Path, title: str) -> None:
    """Downloads a file, or the rest of it; progress goes to stderr.

    What an earlier call left at `part` is continued if the server has the same file still, which it
    says by its validator (ETag or date); else the file is fetched from its start.

    Args:
        url: http or https.
        part: where the bytes are collected. Its validator lies beside it.
        title: what is downloaded, for people.

    Raises:
        DownloadError: the server cannot be reached, refuses, or stops again and again.
        OSError: the file cannot be written.
    """
    tries = 0
    while True:
        before = _size(part)
        try:
            _transfer(url, part, title)
            return
        except _Broken as error:
            tries = 1 if _size(part) > before else tries + 1
            never_there = (
                before == 0
                and _size(part) == 0
                and isinstance(error.__cause__, urllib.error.URLError)
            )
            if never_there or tries > len(PAUSES):
                raise DownloadError(str(error)) from error
            pause = PAUSES[tries - 1]
            print(f"{title}: {error}; again in {pause:g} s", file=sys.stderr, flush=True)
            time.sleep(pause)


def validator_of(part: Path) -> Path:
    """Returns where the validator of a part lies."""
    return part.with_name(f"{part.name}.validator")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _transfer(url: str, part: Path, title: str) -> None:
    start, validator = _size(part), ""
    with contextlib.suppress(OSError):
        validator = validator_of(part).read_text()
    headers = {"User-Agent": "nest_tnt_jax", "Accept-Encoding": "identity"}
    if start and validator:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    request = urllib.request.Request(url, headers=headers)
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # there is nothing after what is here: it is another file
            part.unlink(missing_ok=True)
            raise _Broken("what was there is of another file") from error
        if error.code >= 500 or error.code == 429:
            raise _Broken(f"the server answers {error.code}, {error.reason}") from None
        raise DownloadError(f"the server answers {error.code}, {error.reason}") from error
    except urllib.error.URLError as error:
        raise _Broken(str(getattr(error.reason, "strerror", None) or error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(f"the connection broke ({one_line(error)})") from error
    with answer:
        _receive(answer, part, start, title)


def _receive(answer: http.client.HTTPResponse, part: Path, start: int, title: str) -> None:
    """Writes what comes: the rest of the file, or, if the server sends it whole, all of it."""
    if answer.headers.get_content_type() == "text/html":
        raise DownloadError("a web page comes instead, perhaps the login page of a network")
    first = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    resumes = answer.status == 206 and first is not None and int(first[1]) == start
    if answer.status == 206 and not resumes:
        part.unlink(missing_ok=True)
        raise _Broken("the server sent another part than was asked for")
    length = answer.headers.get("Content-Length", "")
    total = int(length) + (start if resumes else 0) if length.isdigit() else None
    etag = answer.headers.get("ETag", "")
    if etag.startswith("W/"):  # a weak one, which vouches for no bytes
        etag = ""
    with part.open("ab" if resumes else "wb") as file, _Progress(title, file.tell(), total) as told:
        validator_of(part).write_text(etag or answer.headers.get("Last-Modified", ""))
        for chunk in _chunks(answer):
            file.write(chunk)
            told.add(len(chunk))
        if total is not None and file.tell() < total:
            raise _Broken(f"the connection broke after {file.tell():,} of {total:,} bytes")


def _chunks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yields what comes; what fails here is the network's fault, not that of the disk."""
    try:
        while chunk := answer.read(_CHUNK):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(f"the connection broke ({one_line(error)})") from error


class _Progress:
    """A bar on a terminal, a line now and then elsewhere."""

    def __init__(self, title: str, done: int, total: int | None):
        self._title, self._done, self._total = title, done, total
        self._next = time.monotonic() + _SAY_EVERY
        self._bar = tqdm.tqdm(
            total=total,
            initial=done,
            desc=title,
            unit="B",
            unit_scale=True,
            leave=False,
            disable=not sys.stderr.isatty(),
        )

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def add(self, count: int) -> None:
        self._done += count
        self._bar.update(count)
        if self._bar.disable and time.monotonic() >= self._next:
            self._next = time.monotonic() + _SAY_EVERY
            of = f" of {self._total / 1e6:,.1f}" if self._total else ""
            print(f"{self._title}: {self._done / 1e6:,.1f}{of} MB", file=sys.stderr, flush=True)
