"""--restart: what a run has written moves aside, so that another can begin in its workdir.

A file that names the folder to move to is there until all is moved. While it is, the workdir is
neither a finished run nor a new one, and --restart goes on with the move.
"""

import fnmatch
import time
from pathlib import Path

from harness.errors import ConfigError
from harness.files import write_text
from harness.locks import take_lock
from workdirs.results import DONE_ASIDE
from workdirs.step_files import patiently

MARKER = "restarting.txt"
_ASIDE = "before_restart_"
# All that a run, and what reads one, writes into a workdir. Those first decide what a run is taken
# for, those last that there is one.
_FIRST, _LAST = ("DONE", DONE_ASIDE), ("saved.json", "config.json")
_OTHERS = (
    *("classes.txt", "metrics.jsonl", "log_to.json", "bad_images*.jsonl", "stacks_*.txt"),
    *("checksums", "tensorboard", "profile", "events.out.tfevents.*"),
    *(
        "curves.png",
        "parameters.txt",
        f"*_{'[0-9]' * 7}.png",
        "evaluation_latest_*",
        "evaluation_best_*",
        "report.html",
    ),
)
_CHECKPOINTS = ("latest", "best", "unreadable")


def check_not_half_moved(workdir: Path) -> None:
    """Raises ConfigError if a process with --restart was killed before all was moved.

    Raises:
        StorageError: nobody can say.
    """
    if patiently((workdir / MARKER).exists):
        raise ConfigError(
            f"{workdir}: --restart was stopped before all of the old run was moved aside; run the "
            "same command with --restart to finish that"
        )


def set_aside_run(workdir: Path) -> str | None:
    """Moves what a run has written aside; other files stay.

    Checkpoints move inside their own folder, which may be on another disk.

    Returns:
        Where it is now, to show; None if there was nothing.

    Raises:
        ConfigError: a process trains there, it is not the folder of a run, or something cannot be
            moved.
    """
    try:
        if not workdir.is_dir() or not _holds_run(workdir):
            return None
        if (lock := take_lock(workdir / ".lock", seconds=0.3)) is None:
            raise ConfigError(f"another process is training in {workdir}")
        with lock:
            return _move_run(workdir)
    except OSError as error:
        raise ConfigError(f"--restart cannot move the old run aside: {error}") from error


def _holds_run(workdir: Path) -> bool:
    checkpoints = workdir / "checkpoints"
    signs = [*(workdir / name for name in (MARKER, *_LAST)), *_matching(checkpoints, _CHECKPOINTS)]
    if any(sign.exists() for sign in signs):
        return True
    if any(not path.name.startswith((".", _ASIDE, "checkpoints")) for path in workdir.iterdir()):
        raise ConfigError(
            f"{workdir} holds files, but no run (no config.json, saved.json or checkpoints): "
            "without --restart a run begins beside them; nothing was moved"
        )
    return False


def _move_run(workdir: Path) -> str | None:
    marker, checkpoints = workdir / MARKER, workdir / "checkpoints"
    if checkpoints.is_symlink() and not checkpoints.exists():
        raise ConfigError(f"{checkpoints} leads nowhere: is its disk mounted?")
    name = marker.read_bytes().decode(errors="replace").strip() if marker.is_file() else ""
    if not name.startswith(_ASIDE):
        name = f"{_ASIDE}{time.time_ns() // 1_000_000}"
        write_text(marker, name + "\n")
    _move(workdir, _FIRST, name)
    _move(checkpoints, _CHECKPOINTS, name)
    if checkpoints.is_file():  # in its place
        _move(workdir, (checkpoints.name,), name)
    for patterns in (_OTHERS, *((last,) for last in _LAST)):
        _move(workdir, patterns, name)
    marker.unlink()
    moved = [folder / name for folder in (checkpoints, workdir) if (folder / name).is_dir()]
    return ", ".join(str(path) for path in moved) or None


def _move(folder: Path, patterns: tuple[str, ...], name: str) -> None:
    for path in _matching(folder, patterns):
        (folder / name).mkdir(exist_ok=True)
        path.rename(folder / name / path.name)


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    """Returns what is in a folder under such names, or was to get them when a run was killed."""
    patterns = (*patterns, *(f"{pattern}*.tmp" for pattern in patterns))
    return [
        path
        for path in (sorted(folder.iterdir()) if folder.is_dir() else ())
        if any(fnmatch.fnmatchcase(path.name, pattern) for pattern in patterns)
    ]
