"""Where each run of a sweep stands, from what it and its launcher have written."""

import contextlib
import dataclasses
import functools
import json
import math
import os
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from absl import logging

from harness.errors import ConfigError, Interrupted, printable
from harness.files import write_text
from harness.steps import steps_of
from sweeps.runs import Run
from workdirs.claims import is_claimed
from workdirs.config_file import read_record
from workdirs.records import read_json
from workdirs.results import parse_metrics, read_done

Status = Literal["done", "running", "interrupted", "failed", "pruned", "waiting"]
_END = 4096  # bytes of a file that are enough for its last lines


@dataclasses.dataclass(frozen=True)
class State:
    """A run of a sweep, now."""

    status: Status
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)  # of the last evaluation
    step: int = 0
    total_steps: int | None = None
    seconds: float = 0.0  # of all attempts so far
    last_line: str = ""  # of the log of a failed run

    @property
    def share(self) -> float:
        """How much of the run is done, from 0 to 1."""
        if self.status == "done":
            return 1.0
        return min(self.step / self.total_steps, 1.0) if self.total_steps else 0.0


def state_of(folder: Path, run: Run) -> State:
    """Returns where a run stands.

    Args:
        folder: of the sweep.
        run: of its manifest.
    """
    workdir, running = folder / run.name, is_running(folder, run)  # first: it may end meanwhile
    record = read_note(folder, run)
    last = _last_records(workdir)
    until = None if running else _last_write(folder, run)
    known = {"step": max((r["step"] for r in last), default=0)}
    known["seconds"] = _seconds(record, until)
    try:
        done = read_done(workdir)
    except ConfigError as error:
        return State(status="failed", last_line=printable(str(error)), **known)
    if done is not None:
        return State(status="done", metrics=done, **known)
    known["metrics"] = next((_numbers(r) for r in reversed(last) if r["kind"] == "eval"), {})
    if known["step"]:
        known["total_steps"] = _total_steps(workdir)
    if running:
        return State(status="running", **known)
    code = record.get("exit_code")
    if record.get("pruned"):
        return State(status="pruned", **known)
    if code not in (None, Interrupted.exit_code):
        return State(status="failed", last_line=_last_line(folder, run, code), **known)
    return State(status="interrupted" if record or known["step"] else "waiting", **known)


def count(states: Iterable[State]) -> dict[str, int]:
    """Returns how many runs have each status, in the order of a run's life."""
    statuses = [state.status for state in states]
    order = ("done", "pruned", "running", "interrupted", "failed", "waiting")
    return {status: statuses.count(status) for status in order if status in statuses}


def in_words(counts: Mapping[str, int]) -> str:
    """Returns "3 done, 9 waiting"."""
    return ", ".join(f"{number} {status}" for status, number in counts.items())


def is_running(folder: Path, run: Run) -> bool:
    """Returns whether a process is at the run: it trains, or has been started on this machine."""
    if is_claimed(folder / run.name):
        return True
    return pid_of(folder, run) is not None


def pid_of(folder: Path, run: Run) -> int | None:
    """Returns the number of a run's process, if it was started on this machine and is alive."""
    record = read_note(folder, run)
    if "exit_code" in record or record.get("host") != socket.gethostname():
        return None
    start = _process_start(record.get("pid"))
    return record["pid"] if start is not None and start == record.get("process_start") else None


def read_note(folder: Path, run: Run) -> dict[str, Any]:
    """Returns what launchers noted about a run, {} where there is nothing readable."""
    try:
        return read_json(_note_path(folder, run), "delete it", _is_note) or {}
    except ConfigError as error:  # the workdir says where the run stands
        _warn(str(error))
        return {}


def _is_note(record: Any) -> bool:
    numbers = ("pid", "process_start", "started", "attempts", "seconds", "exit_code")
    return isinstance(record, dict) and all(
        isinstance(record.get(key, 0), int | float | None) for key in numbers
    )


@functools.cache  # a live table reads it every second
def _warn(text: str) -> None:
    logging.warning(text)


def note_start(folder: Path, run: Run, pid: int) -> None:
    """Notes that a process was started for a run."""
    before = read_note(folder, run)
    record = {
        "host": socket.gethostname(),
        "pid": pid,
        "process_start": _process_start(pid),
        "started": time.time(),
        "attempts": before.get("attempts", 0) + 1,
        "seconds": _seconds(before, _last_write(folder, run)),
    }
    _write_note(folder, run, record)


def note_end(folder: Path, run: Run, exit_code: int, **more: Any) -> None:
    """Notes how the process of a run ended.

    Args:
        folder: of the sweep.
        run: the run.
        exit_code: of the process; minus the number of the signal that killed it.
        **more: what else there is to know, such as pruned=True.
    """
    record = read_note(folder, run)
    seconds = _seconds(record, None)
    _write_note(folder, run, {**record, "exit_code": exit_code, "seconds": seconds, **more})


def _note_path(folder: Path, run: Run) -> Path:
    return folder / "states" / f"{run.name}.json"


def _write_note(folder: Path, run: Run, record: dict[str, Any]) -> None:
    path = _note_path(folder, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(record) + "\n")


def _seconds(record: Mapping[str, Any], until: float | None) -> float:
    """Returns the time of all attempts.

    Args:
        record: of the run.
        until: when the last attempt ended if nobody noted it, seconds since 1970; None: now.
    """
    seconds = record.get("seconds", 0.0)
    if "started" in record and "exit_code" not in record:
        seconds += max((time.time() if until is None else until) - record["started"], 0.0)
    return round(seconds, 3)


def _last_write(folder: Path, run: Run) -> float:
    """Returns when a run wrote something last, seconds since 1970; 0 if it never did."""
    paths = (folder / run.name / "metrics.jsonl", folder / run.name / "DONE")
    times = [0.0]
    for path in (*paths, folder / f"{run.name}.log"):
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)


def _process_start(pid: int | None) -> int | None:
    """Returns when a process was started, in ticks since boot: a number may be used again.

    Returns:
        None for a process that is no more. Where there is no /proc, 0 for any that is.
    """
    try:
        os.kill(pid, 0)
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else int(fields[19])
    except PermissionError:
        return None
    except FileNotFoundError:
        return 0 if not Path("/proc").is_dir() else None
    except (OSError, TypeError, ValueError, IndexError):
        return None


def _last_records(workdir: Path) -> list[dict[str, Any]]:
    """Returns the last readable lines of metrics.jsonl, an evaluation among them if any."""
    records = []
    for size in (_END, 64 * _END, None):
        records = _records(workdir, size)
        if any(record["kind"] == "eval" for record in records):
            break
    return records


def _records(workdir: Path, size: int | None) -> list[dict[str, Any]]:
    text = _end_of(workdir / "metrics.jsonl", size)
    return [record for record in parse_metrics(text) if record is not None]


def evaluations(workdir: Path) -> list[dict[str, Any]]:
    """Returns the evaluations of a run so far, as metrics.jsonl has them."""
    return [record for record in _records(workdir, None) if record["kind"] == "eval"]


def _end_of(path: Path, size: int | None = _END) -> str:
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - size) if size else 0)
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _last_line(folder: Path, run: Run, exit_code: int) -> str:
    lines = _end_of(folder / f"{run.name}.log").replace("\r", "\n").splitlines()
    line = next((printable(line.strip()) for line in reversed(lines) if line.strip()), "")
    killed = f"killed by signal {-exit_code}: " if exit_code < 0 else ""
    return f"{killed}{line}" or f"exit code {exit_code}"


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    is_metric = {k: v for k, v in record.items() if isinstance(v, int | float) and k != "step"}
    return {name: value for name, value in is_metric.items() if math.isfinite(value)}


def _total_steps(workdir: Path) -> int | None:
    try:
        record = read_record(workdir)
    except ConfigError:
        return None
    steps = steps_of(record["config"], record.get("num_examples"))
    return steps.total if steps else None
