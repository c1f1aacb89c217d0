"""Steps whose loss or gradient is not finite, and losses that stand out: found, named, counted.

All scalars of a step stay on the device until some of the run's are written, so looking at each of
them costs no synchronisation.
"""

import dataclasses
import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from harness.arguments import check_range
from harness.errors import NonFiniteError
from tasks.metrics import mean_scalars, to_numbers
from tasks.skipping import SKIPPED

Rows = list[dict[str, float | str]]  # scalars of one step each; what is not finite as text

MEDIAN_OF, LEAST_LOSSES = 100, 20  # steps that a loss is compared with
# The spread counts as no less than this share of the median, or this much: a loss near 0 jumps.
LEAST_SHARE, LEAST_SPREAD = 0.1, 0.01
MOST_NAMED, MOST_RECORDS_SAID = 10, 32


def read_rows(window: list[dict]) -> Rows:
    """Fetches a window's scalars, ready for JSON, which has no NaN."""
    return [
        {
            name: value if isinstance(value, str) or math.isfinite(value) else str(value)
            for name, value in row.items()
        }
        for row in to_numbers(window)
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NumericFaults:
    """What a run has met so far; the config's section `faults` is the first two arguments.

    Attributes:
        max_skipped_updates: updates with a non-finite loss or gradient are left out, and counted,
            up to this many in the run; one more stops it. 0: the first one stops it.
        spike_factor: a loss is logged as a spike if it lies above the median of the 100 steps
            before by more than this many times their spread (1.4826 times the median absolute
            deviation, and at least a tenth of the median); 0 or None: none is.
        records_of: step -> numbers of the records in its batch.
        workdir: of the run, for messages.
        skipped: number of updates left out.
        losses: name -> the last losses, which the next are compared with.
    """

    max_skipped_updates: int = 0
    spike_factor: float | None = 6.0
    records_of: Callable[[int], list[int]]
    workdir: Path
    skipped: int = 0
    losses: dict[str, list[float]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        check_range("config.faults.max_skipped_updates", self.max_skipped_updates, 0)
        check_range("config.faults.spike_factor", self.spike_factor or 0, 0)

    def record(self) -> dict[str, Any]:
        """Returns what a resumed run has to know, ready for JSON."""
        return {"skipped": self.skipped, "losses": self.losses}

    def resumed(self, record: dict[str, Any]) -> "NumericFaults":
        """Returns the faults of a run that goes on from what `record` returned; {}: unknown."""
        return dataclasses.replace(self, **record)

    def check(self, rows: Rows, step: int) -> None:
        """Raises NonFiniteError, naming step and records, if a step stops the run.

        Args:
            rows: of the steps since then.
            step: the last of them.
        """
        skipped = self.skipped
        for number, row in enumerate(rows, start=step - len(rows) + 1):
            skipped += _is_faulty(row)
            if _is_faulty(row) and skipped > self.max_skipped_updates:
                raise NonFiniteError(self._stopped(row, number, skipped))

    def look(
        self, rows: Rows, step: int
    ) -> tuple[dict[str, float], list[dict[str, Any]], "NumericFaults"]:
        """Looks at the steps since the last log.

        Args:
            rows: of the steps since then.
            step: the last of them.

        Returns:
            averages: of the updates that were made; counts are those of the last one.
            found: of each update left out and each spike, at most 10: its step and records.
            faults: with these steps.

        Raises:
            NonFiniteError: as `check`.
        """
        self.check(rows, step)
        skipped, losses, found = self.skipped, {k: list(v) for k, v in self.losses.items()}, []
        for number, row in enumerate(rows, start=step - len(rows) + 1):
            if _is_faulty(row):
                skipped += 1
                found.append({"kind": "skipped", "step": number, "not_finite": _not_finite(row)})
                continue
            for name in (name for name in row if name.endswith("loss")):
                before = losses.setdefault(name, [])
                if self._is_spike(row[name], before):
                    median = float(np.median(before))
                    what = {"name": name, "value": row[name], "median": median}
                    found.append({"kind": "spike", "step": number, **what})
                losses[name] = [*before, row[name]][-MEDIAN_OF:]
        averages = mean_scalars([row for row in rows if not _is_faulty(row)] or [{}])
        if self.max_skipped_updates:
            averages[SKIPPED] = skipped
        found.sort(key=lambda one: one["kind"] != "spike")  # updates left out are counted, too
        found = [one | {"records": self.records_of(one["step"])} for one in found[:MOST_NAMED]]
        return averages, found, dataclasses.replace(self, skipped=skipped, losses=losses)

    def _is_spike(self, loss: float, before: list[float]) -> bool:
        if not self.spike_factor or len(before) < LEAST_LOSSES:
            return False
        median = np.median(before)
        spread = 1.4826 * np.median(np.abs(before - median))
        least = max(spread, LEAST_SHARE * abs(median), LEAST_SPREAD)
        return bool(loss - median > self.spike_factor * least)

    def _stopped(self, row: Rows, step: int, skipped: int) -> str:
        values = ", ".join(f"{name}={row[name]}" for name in _not_finite(row))
        records = self.records_of(step)
        shown = ", ".join(map(str, records[:MOST_RECORDS_SAID]))
        more = f", ... ({len(records):,} in all)" if len(records) > MOST_RECORDS_SAID else ""
        hint = "config.faults.max_skipped_updates=N would leave out N such updates"
        if self.max_skipped_updates:
            hint = f"config.faults.max_skipped_updates={self.max_skipped_updates} before it"
        return (
            f"step {step}: {values}; stopped, the last good checkpoint stays ({hint}); "
            f"its batch has the records {shown}{more}: {draw_command(self.workdir, step)}"
        )


def draw_command(workdir: Path, step: int) -> str:
    """Returns the command that draws the batch of a step."""
    return f"python tools/visualize.py batch --workdir={shlex.quote(str(workdir))} --step={step}"


def in_words(fault: dict[str, Any], workdir: Path) -> str:
    """Returns a fault that `look` has found as a line."""
    step = fault["step"]
    if fault["kind"] == "skipped":
        what = f"left out, {', '.join(fault['not_finite'])} not finite"
    else:
        what = f"{fault['name']} jumps to {fault['value']:.4g} (median {fault['median']:.4g})"
    return f"step {step}: {what}; its batch: {draw_command(workdir, step)}"


def _not_finite(row: dict[str, float | str]) -> list[str]:
    return [name for name, value in row.items() if isinstance(value, str)]


def _is_faulty(row: dict[str, float | str]) -> bool:
    return bool(_not_finite(row))
