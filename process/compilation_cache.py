"""Compiled programs kept on disk, so that the second start of a run compiles nothing."""

import contextlib
import errno
import hashlib
import os
import platform
import time
from pathlib import Path

import jax

from harness.errors import ConfigError
from harness.files import local_path, user_cache

KEEP_DAYS = 30


def _processor() -> str:
    """Names what the processor can do: the key of a program that JAX compiles for it does not."""
    try:
        text = Path("/proc/cpuinfo").read_text()
        flags = next(line for line in text.splitlines() if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        flags = platform.node()
    return f"{platform.machine()}-{hashlib.sha256(flags.encode()).hexdigest()[:12]}"


def keep_compiled_programs(folder: str | None) -> None:
    """Makes JAX keep what takes it more than a second to compile, for KEEP_DAYS.

    Args:
        folder: None: the user's cache folder, unless JAX_COMPILATION_CACHE_DIR names one. Empty:
            nothing is kept. Processors that differ have folders of their own in it.

    Raises:
        ConfigError: the folder is a URL, or cannot be written to.
    """
    if folder is None:
        if not jax.config.jax_compilation_cache_dir:
            with contextlib.suppress(OSError, RuntimeError):  # no home, or not ours to write to
                _keep_in(user_cache() / "nest_tnt_jax" / _processor())
    elif folder:
        try:
            _keep_in(local_path("--compilation_cache", folder) / _processor())
        except OSError as error:
            raise ConfigError(f"--compilation_cache={folder}: {error.strerror}") from error
    else:
        jax.config.update("jax_compilation_cache_dir", None)


def _keep_in(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    _tidy(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _tidy(folder: Path) -> None:
    """Removes what was not written in the last KEEP_DAYS, and what was written in part.

    JAX removes nothing. Of a program that a killed process or a full disk left incomplete it would
    warn at each start, and compile it each time.
    """
    now, marker = time.time(), folder / "complete_until"
    checked = marker.stat().st_mtime if marker.exists() else 0
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another process was first, or it is not ours
            written = path.stat().st_mtime
            is_old = path.is_file() and now - written > KEEP_DAYS * 24 * 3600
            if is_old or (path.name.endswith("-cache") and written >= checked and _is_part(path)):
                path.unlink()
    with contextlib.suppress(OSError):
        marker.touch()
        os.utime(marker, (now, now))


def _is_part(path: Path) -> bool:
    content = path.read_bytes()
    try:
        from jax._src.compilation_cache import decompress_executable
    except ImportError:  # it is none of JAX's public functions
        return False
    try:
        decompress_executable(content)
    except Exception:  # those of zlib or zstandard, whichever JAX has found
        return True
    return False
