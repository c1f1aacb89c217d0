"""Errors that end a run, and the exit code each one has."""

import contextlib
import errno
import re
from collections.abc import Callable

# What the operating system says of a path that leads to nothing of the kind, now and later.
NO_SUCH_PATH = frozenset(
    (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG)
)
# The same of one that somebody has just given, where nothing has been written before.
WRONG_PATH = NO_SUCH_PATH | {errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL}


class RunError(Exception):
    """Ends a run with one clear line and `exit_code` instead of a traceback."""

    exit_code = 1


class ConfigError(RunError):
    """A wrong configuration or input. Raised before anything is written."""

    exit_code = 2


class BadImage(ConfigError, ValueError):
    """The bytes are not a readable image; the message says why, in one line."""


class BadAnnotation(ConfigError, ValueError):
    """What the data say of an image is wrong; the message names it.

    Not a BadImage, which is replaced: one wrong label mostly means that many are.
    """


class NoSuchData(ValueError):
    """A data set is not where it should be; the message says what to do."""


class NonFiniteError(RunError):
    """Something is not finite, or training has collapsed. The last good checkpoint stays."""

    exit_code = 3


class StorageError(RunError):
    """A disk or server does not do what it should, for a reason that may pass. Nothing is lost."""

    exit_code = 74  # EX_IOERR: schedulers may run the job again, after a look or a while


class Interrupted(RunError):
    """A signal asked the run to stop. Everything is saved; the same command resumes."""

    exit_code = 75  # EX_TEMPFAIL: schedulers may run the job again


class Unavailable(RunError):
    """Something that the run needs does not answer now; the same command resumes."""

    exit_code = 75


class RecordError(StorageError):
    """A record of the run cannot be written. The state is saved, if that is possible."""


@contextlib.contextmanager
def record_errors(path):
    """Turns the OSError of a record that cannot be written into a RecordError."""
    try:
        yield
    except OSError as error:
        raise RecordError(f"{path} cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def before_ending(kinds: tuple[type[RunError], ...], act: Callable[[], object]):
    """Saves, say, before errors of these kinds end the run; says both if that fails, too."""
    try:
        yield
    except kinds as error:
        try:
            act()
        except Exception as other:  # of the same full disk
            raise type(error)(f"{error}; nor is the state saved: {one_line(other)}") from other
        raise


@contextlib.contextmanager
def input_errors():
    """Turns the ValueError or OSError that a wrong input raises into a ConfigError.

    For the build phase only: a ValueError inside the loop is a bug and keeps its traceback.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        if getattr(error, "passing", False):  # of a bucket
            raise Unavailable(f"{error}; try again later") from error
        raise ConfigError(str(error)) from error


def one_line(error: Exception) -> str:
    """Returns an error's message, or its type, as one line of at most 300 characters.

    A longer one loses its middle: libraries wrap messages, and what went wrong comes last. A single
    word, such as a path or a key, says nothing without the type.
    """
    text = " ".join(str(error).split())
    if " " not in text:
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= 300 else f"{text[:120]} ... {text[-175:]}"


def innermost(error: BaseException) -> str:
    """Returns `one_line` of the first cause of an error that has a text."""
    found, seen = error, {id(error)}
    while (error := error.__cause__) is not None and id(error) not in seen:
        seen.add(id(error))
        found = error if str(error).strip() else found
    return one_line(found)


def printable(text: str) -> str:
    """Returns a line that any stream takes: names of files may hold newlines, or be no text."""
    return escaped(" ".join(text.split("\n")))


# Control characters but for tabs and line ends, and what turns the direction of a text.
_CONTROL = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def escaped(text: str) -> str:
    r"""Returns a text whose control characters are written out: "\x1b" for an escape.

    Above 126 they are written as "\u009b", which JSON has too.
    """

    def written(match: re.Match) -> str:
        code = ord(match[0])
        return f"\\x{code:02x}" if code < 0x7F else f"\\u{code:04x}"

    return _CONTROL.sub(written, text)
