"""What a run leaves besides its checkpoints: metrics.jsonl, DONE, bad_images.jsonl."""

import json
from pathlib import Path
from typing import Any

import jax

from harness.errors import ConfigError, record_errors
from harness.files import write_text


def parse_metrics(text: str) -> list[dict[str, Any] | None]:
    """Returns the lines of metrics.jsonl; None for one that is cut off or damaged."""
    records = []
    for line in text.splitlines():
        try:
            record = json.loads(line)
            is_sound = record["kind"] in ("train", "eval") and type(record["step"]) is int
        except (ValueError, TypeError, KeyError):
            is_sound = False
        records.append(record if is_sound else None)
    return records


def bad_images_path(workdir: Path) -> Path:
    """Returns the path of the list of images that this process could not read."""
    process = jax.process_index()
    return workdir / f"bad_images{f'_{process}' if process else ''}.jsonl"


def read_done(workdir: Path) -> dict[str, float] | None:
    """Returns the final metrics of a finished run, None for others."""
    path = workdir / "DONE"
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is unreadable ({error}); delete it to continue") from None


def write_done(workdir: Path, metrics: dict[str, float]) -> None:
    """Marks the run as finished."""
    if jax.process_index() == 0:
        with record_errors(workdir / "DONE"):
            write_text(workdir / "DONE", json.dumps(metrics) + "\n")
