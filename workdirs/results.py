"""What a run leaves besides its checkpoints: metrics.jsonl, DONE, bad_images.jsonl."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from absl import logging

from harness.errors import record_errors
from harness.files import Appended, replacing
from workdirs.records import (
    Lines,
    checksum_path,
    json_line,
    parse_lines,
    read_json,
    read_lines,
    write_record,
)

DONE_ASIDE = "DONE_before_extension"


def is_metrics(record: dict[str, Any]) -> bool:
    """Returns whether a line of metrics.jsonl has its shape; only "kind" is text."""
    return (
        record.get("kind") in ("train", "eval")
        and type(record.get("step")) is int
        and not any(isinstance(value, str) for key, value in record.items() if key != "kind")
    )


def is_bad_image(record: dict[str, Any]) -> bool:
    """Returns whether a line of bad_images.jsonl has its shape."""
    texts = [record.get(key) for key in ("split", "name", "reason")]
    return record.keys() == {"split", "index", "name", "reason"} and all(
        isinstance(text, str) for text in texts
    )


def parse_metrics(text: str | bytes) -> list[dict[str, Any] | None]:
    """Returns the lines of metrics.jsonl; None for one that is cut off or damaged."""
    return parse_lines(text, is_metrics).records


def read_metrics(workdir: Path) -> Lines:
    """Returns the lines of metrics.jsonl.

    Raises:
        ConfigError: it is a folder, or cannot be read now.
    """
    path = workdir / "metrics.jsonl"
    return read_lines(path, "move it away; the run then goes on without its curves", is_metrics)


def keep_metrics(workdir: Path, step: int) -> list[dict[str, Any]]:
    """Leaves in metrics.jsonl what a run has logged that goes on from a step.

    Args:
        workdir: of the run.
        step: that is saved; its evaluation will be made again. Damaged lines are left out, which
            a warning says.

    Returns:
        The records that are left; new `json_line`s can follow.

    Raises:
        ConfigError: it is a folder, or cannot be read now.
    """
    path = workdir / "metrics.jsonl"
    kept = _rewrite(
        path,
        read_metrics(workdir),
        lambda r: r["step"] < step or (r["step"], r["kind"]) == (step, "train"),
    )
    if step and not kept:
        logging.warning("%s holds nothing of the steps before %d", path, step)
    return kept


def _rewrite(path: Path, found: Lines, is_kept: Callable[[dict[str, Any]], bool]) -> list[dict]:
    if found.damage:
        logging.warning("%s: %s cannot be read and is left out", path, found.damage)
    pairs = zip(found.records, found.lines, strict=True)
    kept = [(record, line) for record, line in pairs if record is not None and is_kept(record)]
    if len(kept) < len(found.lines) or found.is_cut or not path.exists():
        with replacing(path) as temporary:
            temporary.write_bytes(b"".join(line for _, line in kept))
    return [record for record, _ in kept]


def bad_images_path(workdir: Path) -> Path:
    """Returns the path of the list of images that this process could not read."""
    process = jax.process_index()
    return workdir / f"bad_images{f'_{process}' if process else ''}.jsonl"


class BadImagesFile:
    """A list of the images that a process could not read, one JSON object a line."""

    def __init__(self, path: Path):
        self.path = path

    def entries(self) -> list[dict[str, Any]]:
        """Returns what the file lists, and those of the run's other processes next to it.

        Its damaged lines are dropped, since their images are met again.

        Raises:
            ConfigError: it is a folder, or cannot be read now.
            RecordError: it cannot be written without them.
        """
        found = read_bad_images(self.path)
        with record_errors(self.path):
            own = _rewrite(self.path, found, lambda entry: True) if found.lines else []
            if found.lines and not own:
                self.path.unlink(missing_ok=True)  # empty, it would count as damaged
        others = sorted(set(self.path.parent.glob("bad_images*.jsonl")) - {self.path})
        return own + [entry for path in others for entry in read_bad_images(path).sound]

    def append(self, entry: dict[str, Any]) -> None:
        """Adds an entry."""
        with record_errors(self.path), contextlib.closing(Appended(self.path)) as file:
            file.write(json_line(entry))


def read_bad_images(path: Path) -> Lines:
    """Returns the lines of one bad_images.jsonl.

    Raises:
        ConfigError: it is a folder, or cannot be read now.
    """
    return read_lines(path, "move it away; its images count again when they are met", is_bad_image)


def read_done(workdir: Path) -> dict[str, float] | None:
    """Returns the final metrics of a finished run, None for others.

    Raises:
        ConfigError: DONE is damaged.
    """

    def is_sound(value: Any) -> bool:
        return isinstance(value, dict) and not any(isinstance(v, str) for v in value.values())

    return read_json(workdir / "DONE", "delete it to continue from the last checkpoint", is_sound)


def write_done(workdir: Path, metrics: dict[str, float]) -> None:
    """Marks the run as finished."""
    if jax.process_index() == 0:
        with record_errors(workdir / "DONE"):
            write_record(workdir / "DONE", json.dumps(metrics) + "\n")
            _remove(workdir / DONE_ASIDE)


def set_done_aside(workdir: Path) -> None:
    """Keeps the DONE of a run that goes on under another name, until it has a new one."""
    if (metrics := read_done(workdir)) is None:
        return
    with record_errors(workdir / DONE_ASIDE):
        write_record(workdir / DONE_ASIDE, json.dumps(metrics) + "\n")
        _remove(workdir / "DONE")


def _remove(path: Path) -> None:
    for file in (path, checksum_path(path)):
        file.unlink(missing_ok=True)
