"""Compiled programs kept on disk, so that the second start of a run compiles nothing."""

import contextlib
import errno
import hashlib
import os
import platform
import sys
import time
from pathlib import Path

import jax

from harness.errors import ConfigError
from harness.files import local_path

KEEP_DAYS = 30


def _user_cache() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


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
                _keep_in(_user_cache() / "nest_tnt_jax" / _processor())
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
    _forget_old(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _forget_old(folder: Path) -> None:
    """Removes what was not written in the last KEEP_DAYS: JAX itself removes nothing."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another process was first, or it is not ours
            if path.is_file() and time.time() - path.stat().st_mtime > KEEP_DAYS * 24 * 3600:
                path.unlink()
