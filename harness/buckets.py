"""Paths in a bucket of Google Cloud Storage (gs://bucket/folder), and how storage fails.

Not a file system: an object is written whole, there is no lock, no append and no rename.
"""

import errno
import functools
import logging
import os
import re
import types
from typing import Any

from etils.epath import gpath

from harness.arguments import problem
from harness.errors import ConfigError, RunError, Unavailable, one_line

# That a failing request is tried again for: less than a scheduler waits before it kills.
RETRY_SECONDS = 60.0
# What Orbax, TensorStore and gcsfs all take as it is; "?" and "#" end a name in a URL.
_PATH = re.compile(r"gs://[a-z0-9][a-z0-9._-]+(/[A-Za-z0-9._=+@,-]+)+")
_PASSING_CODES = (408, 429)
_INSTALL = "pip install -r requirements-buckets.txt"
_ALLOWED = "gs://bucket/folder, of letters, digits and . _ = + @ , - /"


class BucketError(OSError):
    """A request to a bucket has failed; `passing` says whether it may succeed later.

    Its errno is as of a disk, for those who tell errors apart by that: EIO or EACCES.
    """

    def __init__(self, message: str, *, passing: bool):
        super().__init__(errno.EIO if passing else errno.EACCES, message)
        self.passing = passing

    def __str__(self):
        return self.strerror


class Changed(BucketError):
    """Another process has written the object."""


def is_passing(error: BaseException) -> bool | None:
    """Returns whether storage may take the same request later; None: the error is not storage's.

    Whatever library it comes from: Google's client, gcsfs, or TensorStore, which has only text.
    """
    module, code = type(error).__module__.partition(".")[0], getattr(error, "code", None)
    if isinstance(error, BucketError):
        return error.passing
    if module in ("google", "gcsfs") and str(code).isdigit():
        return int(code) >= 500 or int(code) in _PASSING_CODES
    if module == "google":
        return bool(getattr(error, "retryable", True))  # RetryError is one that passes
    if module == "gcsfs" or module in ("requests", "urllib3", "aiohttp"):
        return True
    if isinstance(error, ValueError) and re.search(r"gs://|storage/v1|\bgcs\b", str(error)):
        if re.search(r"UNAVAILABLE|RESOURCE_EXHAUSTED|DEADLINE|CURL|retries", str(error)):
            return True
        return False if re.search(r"PERMISSION_DENIED|UNAUTHENTICATED", str(error)) else None
    return None


def as_run_error(error: BaseException) -> RunError | None:
    """Returns what ends a run for an error that storage caused, None for all others."""
    first, seen = error, []
    while error is not None and error not in seen:
        if (passing := is_passing(error)) is not None:
            says_it = isinstance(first, RunError)
            text = str(first) if says_it else f"the storage of the workdir: {one_line(error)}"
            if passing:
                return Unavailable(f"{text}; the same command resumes from the last checkpoint")
            return ConfigError(text)
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None


def _guarded(method):
    @functools.wraps(method)
    def guarded(self, *args, **kwargs):
        _reach(self.parts[2])
        try:
            result = method(self, *args, **kwargs)
            return iter(list(result)) if method.__name__ in ("iterdir", "glob") else result
        except Exception as error:
            if isinstance(error, FileNotFoundError):  # gcsfs leaves its number out
                what = os.strerror(errno.ENOENT)
                raise FileNotFoundError(errno.ENOENT, what, str(self)) from None
            if isinstance(error, BucketError) or is_passing(error) is None:
                raise
            raise _bucket_error(error, self) from error

    return guarded


def _bucket_error(error: Exception, path: Any) -> OSError:
    passing = is_passing(error)
    return BucketError(f"{path}: {one_line(error)}", passing=bool(passing))


class BucketPath(gpath.PosixGPath):
    """A path in a bucket, with the methods of pathlib's; its requests raise only OSError."""

    for _method in ("exists", "is_dir", "iterdir", "glob", "unlink", "read_bytes", "open"):
        locals()[_method] = _guarded(getattr(gpath.PosixGPath, _method))

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: a folder is there once there is an object in it."""

    @_guarded
    def stat(self) -> Any:
        found = super().stat()
        values = {"st_size": found.length, "st_mtime": found.mtime, **vars(found)}
        return types.SimpleNamespace(**values)

    @_guarded
    def files(self) -> list[str]:
        """Returns the names of the objects in this folder and those below, relative to it."""
        names = (blob.name.removeprefix(f"{self._key}/") for blob in self._blobs())
        return [name for name in names if name and name[-1] != "/"]  # some mark a folder

    @_guarded
    def rmtree(self, missing_ok: bool = True) -> None:  # a folder without objects is no folder
        for blob in self._blobs():
            remove(f"gs://{blob.bucket.name}/{blob.name}")

    @_guarded
    def rename(self, target: "BucketPath") -> "BucketPath":
        """Copies each object and then deletes all: what is cut short leaves the old ones."""
        for blob in self._blobs() or [_blob(self)]:
            name = target._key + blob.name.removeprefix(self._key)
            blob.bucket.copy_blob(blob, blob.bucket, name, timeout=30, retry=_retry())
        self.rmtree()
        remove(self)
        return target

    @property
    def _key(self) -> str:
        return "/".join(self.parts[3:])

    def _blobs(self) -> list[Any]:
        bucket = _client().bucket(self.parts[2])
        return list(bucket.list_blobs(prefix=f"{self._key}/", timeout=30, retry=_retry()))

    @property
    def parents(self) -> tuple["BucketPath", ...]:
        return tuple(path for path in super().parents if len(path.parts) > 2)

    def read_text(self, encoding: str | None = None, errors: str = "strict") -> str:
        return self.read_bytes().decode(encoding or "utf-8", errors)

    def is_file(self) -> bool:
        return self.exists() and not self.is_dir()

    def is_symlink(self) -> bool:
        return False

    def write_bytes(self, data: bytes) -> None:
        upload(self, data)


def bucket_path(key: str, text: str) -> BucketPath:
    """Returns a path in a bucket, which its first request will reach for.

    Args:
        key: what the path is the value of, for messages.
        text: "gs://bucket/folder".

    Raises:
        ConfigError: it is no such path.
    """
    text = text.rstrip("/")
    if not _PATH.fullmatch(text) or {".", ".."} & set(text.split("/")):
        raise ConfigError(problem(key, text, "not a folder in a bucket", _ALLOWED))
    return BucketPath(text)


@functools.cache
def _reach(bucket: str) -> None:
    """Sets the libraries up and asks the bucket for one name, before anything else is done there.

    Raises:
        ConfigError: a package is missing, there is no such bucket, or none for these credentials.
        Unavailable: the storage does not answer.
    """
    _prepare()
    try:
        list(_client().list_blobs(bucket, max_results=1, timeout=5, retry=_retry(5)))
    except Exception as error:
        if is_passing(error) is None:
            raise
        if is_passing(error):
            raise Unavailable(f"gs://{bucket} does not answer: {one_line(error)}") from error
        code = getattr(error, "code", None)
        what = {
            404: "there is no such bucket",
            None: "no credentials; gcloud auth application-default login",
        }.get(code, "these credentials may not list the bucket's objects")
        raise ConfigError(f"gs://{bucket}: {what} ({one_line(error)})") from error


def _prepare() -> None:
    """Sets the libraries up, before the first of them is used."""
    os.environ.setdefault("EPATH_USE_TF", "false")  # gcsfs also where TensorFlow is installed
    try:
        import fsspec
        import gcsfs  # noqa: F401
        from google.cloud import storage  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"gs://... needs {error.name}: {_INSTALL}") from None
    from orbax.checkpoint._src.serialization import tensorstore_utils

    # Listings are not kept: TensorStore and other processes write there as well.
    fsspec.config.conf.setdefault("gs", {}).update(use_listings_cache=False)
    for name in ("gcsfs", "fsspec"):  # they log whole tracebacks of what they raise, too
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # A minute in all (1 + 2 + 4 + ... s), like the others; TensorStore's own is a quarter of an
    # hour, which the end of a run would wait for. Orbax has no argument for it.
    for name in ("_BASE_TS_CONTEXT", "_DEFAULT_OCDBT_TS_CONTEXT"):
        getattr(tensorstore_utils, name, {})["gcs_request_retries"] = {"max_retries": 6}


@functools.cache
def _client() -> Any:
    from google.cloud import storage

    # The project only matters where buckets are made.
    return storage.Client(project=os.environ.get("GOOGLE_CLOUD_PROJECT", "unused"))


def _retry(seconds: float | None = None) -> Any:
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_timeout(seconds or RETRY_SECONDS)


def _blob(path: Any) -> Any:
    _, _, bucket, name = os.fspath(path).split("/", 3)
    _reach(bucket)
    return _client().bucket(bucket).blob(name)


def upload(path: Any, content: bytes, *, generation: int | None = None) -> int:
    """Writes an object, which is there completely or not at all.

    Args:
        path: of the object.
        content: all of it.
        generation: that it must have now, 0: none; None: any.

    Returns:
        The new generation.

    Raises:
        Changed: it has another generation.
        BucketError: of any other kind.
    """
    blob = _blob(path)
    try:
        blob.upload_from_string(
            content,
            content_type="application/octet-stream",
            if_generation_match=generation,
            timeout=min(RETRY_SECONDS, 30),
            retry=_retry(),
        )
    except Exception as error:
        if getattr(error, "code", None) != 412:
            raise _bucket_error(error, path) from error
        found = download(path)  # a request that is tried again meets its own first try
        if found is None or found[0] != content:
            raise Changed(f"{path}: another process has written it", passing=False) from error
        return found[1]
    return blob.generation


def download(path: Any) -> tuple[bytes, int] | None:
    """Returns an object's content and generation, None if it is not there."""
    blob = _blob(path)
    try:
        content = blob.download_as_bytes(timeout=min(RETRY_SECONDS, 30), retry=_retry())
    except Exception as error:
        if getattr(error, "code", None) == 404:
            return None
        raise _bucket_error(error, path) from error
    return content, blob.generation


def remove(path: Any, *, generation: int | None = None, seconds: float | None = None) -> None:
    """Deletes an object, if it is there and, unless that is None, has this generation still."""
    blob = _blob(path)
    try:
        blob.delete(if_generation_match=generation, timeout=5, retry=_retry(seconds))
    except Exception as error:
        if getattr(error, "code", None) not in (404, 412):
            raise _bucket_error(error, path) from error
