"""What a workdir holds, as far as it can be read; what cannot is said in a sentence."""

import contextlib
import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, NonFiniteError, printable
from harness.steps import Steps, steps_of
from sweeps.metric import metric_of_config
from sweeps.runs import MANIFEST, read_runs
from sweeps.states import State, read_note, state_of
from workdirs.claims import is_claimed
from workdirs.class_file import own_classes
from workdirs.config_file import read_record
from workdirs.records import Lines
from workdirs.results import read_bad_images, read_done, read_metrics

TIMINGS = ("images_per_second", "input_wait")
SAMPLES = re.compile(r"(?P<kind>.+)_(?P<step>\d{7,})\.png")  # what an evaluation draws
NO_METRICS = ("kind", "step", "num_examples", "num_samples", "protocol")


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """A run, read from its workdir.

    Attributes:
        workdir: its folder.
        status: "done"; "running"; "interrupted", which stands for all that ended early where nobody
            noted why; "diverged", if a logged number is not finite; or as sweeps.states says of a
            run in a sweep.
        config: resolved, {} if it cannot be read.
        record: what else config.json has: command, git_commit, versions, devices, num_examples.
        train, evaluations: lines of metrics.jsonl, in order.
        done: contents of DONE, None of an unfinished run.
        class_names: in the order of the labels, None if not known.
        bad_images: entries of bad_images.jsonl.
        samples: pictures that evaluations have drawn, by step.
        last_line: of the log of a failed run in a sweep, else empty.
        problems: sentences on what is missing or damaged.
    """

    workdir: Path
    status: str
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    record: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    train: list[dict] = dataclasses.field(default_factory=list)
    evaluations: list[dict] = dataclasses.field(default_factory=list)
    done: Mapping[str, float] | None = None
    class_names: tuple[str, ...] | None = None
    bad_images: list[dict] = dataclasses.field(default_factory=list)
    samples: list[Path] = dataclasses.field(default_factory=list)
    last_line: str = ""
    problems: list[str] = dataclasses.field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return printable(self.workdir.name)

    def section(self, name: str) -> Mapping[str, Any]:
        """Returns a section of the config, {} if there is none."""
        found = self.config[name] if name in self.config else {}
        return found if isinstance(found, Mapping) else {}

    @property
    def steps(self) -> Steps | None:
        """The plan of the run, None where config.json does not tell."""
        return steps_of(self.config, self.record.get("num_examples"))

    @property
    def step(self) -> int:
        """The last step that is logged."""
        return max((record["step"] for record in (*self.train, *self.evaluations)), default=0)

    @property
    def metrics(self) -> dict[str, Any]:
        """The last evaluation's metrics: those of DONE, or of a run under way those so far."""
        found = self.done if self.done is not None else (self.evaluations or [{}])[-1]
        return {
            name: value
            for name, value in found.items()
            if name not in NO_METRICS
            and not name.startswith("best_")
            and isinstance(value, int | float)
        }

    @property
    def best(self) -> tuple[str, float, float] | None:
        """Name, value and step of the best evaluation by config.checkpoint.best_metric."""
        metric = metric_of_config(self.section("checkpoint"))
        found = [r for r in self.evaluations if _is_finite(metric.value(r))]
        if not found:
            return None
        best = max(found, key=metric.rank)
        return metric.name, metric.value(best), best["step"]

    @property
    def training_seconds(self) -> float | None:
        """Time spent in training steps, from the speeds logged; None without any."""
        steps, seconds, before = self.steps, 0.0, 0
        for record in self.train:
            speed = record.get("images_per_second")
            if steps is not None and _is_finite(speed) and speed > 0:
                seconds += (record["step"] - before) * steps.batch_size / speed
            before = record["step"]
        return seconds or None


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def read_run(workdir: Path) -> RunRecord:
    """Reads a workdir.

    Raises:
        ConfigError: it is not the folder of a run: nothing of one is there.
    """
    there = ("config.json", "metrics.jsonl", "DONE", "checkpoints")
    if not any((workdir / name).exists() for name in there):
        raise ConfigError(
            f"{workdir} is not the folder of a run: it has none of {', '.join(there)}"
        )
    problems: list[str] = []
    record: dict[str, Any] = {"config": {}}
    try:
        record = read_record(workdir)
    except ConfigError as error:
        problems.append(f"The config is left out: {error}.")
    records = _read_metrics(workdir / "metrics.jsonl", problems)
    done = None
    try:
        done = read_done(workdir)
    except ConfigError as error:
        problems.append(f"The final metrics are left out: {error}.")
    state, exit_code = _state_in_sweep(workdir)
    return RunRecord(
        workdir=workdir,
        status=_status(workdir, done, records, state, exit_code),
        config=record.pop("config"),
        record=record,
        train=[line for line in records if line["kind"] == "train"],
        evaluations=[line for line in records if line["kind"] == "eval"],
        done=done,
        class_names=_class_names(workdir, problems),
        bad_images=_bad_images(workdir, problems),
        samples=sorted(path for path in workdir.glob("*.png") if SAMPLES.fullmatch(path.name)),
        last_line=state.last_line if state else "",
        problems=problems,
    )


def _read_metrics(path: Path, problems: list[str]) -> list[dict]:
    """Returns the readable lines of metrics.jsonl; of a run under way the last may be cut off."""
    try:
        found = read_metrics(path.parent)
    except ConfigError as error:
        problems.append(f"There are no curves: {error}.")
        return []
    records = found.sound
    whole = found.records[:-1] if found.is_cut else found.records  # the last may be being written
    if damage := Lines(whole, []).damage:
        problems.append(f"Of {path.name}, what is not readable is left out: {damage}.")
    if not records:
        problems.append("Nothing is logged yet.")
    return records


def _status(
    workdir: Path,
    done: dict | None,
    records: list[dict],
    state: State | None,
    exit_code: int | None,
) -> str:
    if done is not None:
        return "done"
    if is_claimed(workdir):
        return "running"
    numbers = [value for value in (records or [{}])[-1].values() if isinstance(value, float)]
    if exit_code == NonFiniteError.exit_code or not all(map(math.isfinite, numbers)):
        return "diverged"
    return "interrupted" if state is None or state.status == "waiting" else state.status


def _state_in_sweep(workdir: Path) -> tuple[State | None, int | None]:
    """Returns how a run of a sweep stands, and its process's exit code; None for any other run."""
    folder = workdir.parent
    if (folder / MANIFEST).is_file():
        with contextlib.suppress(ConfigError):
            runs = {run.name: run for run in read_runs(folder)}
            if run := runs.get(workdir.name):
                return state_of(folder, run), read_note(folder, run).get("exit_code")
    return None, None


def _class_names(workdir: Path, problems: list[str]) -> tuple[str, ...] | None:
    try:
        return own_classes(workdir)
    except ConfigError as error:
        problems.append(f"The names of the classes are left out: {error}.")
        return None


def _bad_images(workdir: Path, problems: list[str]) -> list[dict]:
    entries = []
    for path in sorted(workdir.glob("bad_images*.jsonl")):
        try:
            found = read_bad_images(path)
        except ConfigError as error:
            problems.append(f"{error}.")
            continue
        entries += found.sound
        if found.damage:
            problems.append(f"Of {path.name}, what is not readable is left out: {found.damage}.")
    return entries
