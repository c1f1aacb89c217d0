"""The results of a sweep as rows, over seeds as mean and spread, as CSV and Markdown."""

import csv
import dataclasses
import io
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.arguments import Override
from harness.files import replacing, write_text
from sweeps.metric import Metric, metric_of
from sweeps.plots import draw_key
from sweeps.runs import Run, read_runs
from sweeps.states import State, state_of

SEED = "seed"


@dataclasses.dataclass(frozen=True)
class Row:
    """A run with its result."""

    run: Run
    state: State


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in the seed alone."""

    values: Mapping[str, str]  # without the seed
    results: tuple[float, ...]  # of those that have one

    @property
    def mean(self) -> float | None:
        """Mean over the seeds; None without results."""
        return statistics.fmean(self.results) if self.results else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds (of a sample: n - 1); None for fewer than two."""
        return statistics.stdev(self.results) if len(self.results) > 1 else None


def read_rows(folder: Path) -> list[Row]:
    """Returns the runs of a sweep with their results.

    Raises:
        ConfigError: it is not the folder of a sweep.
    """
    return [Row(run, state_of(folder, run)) for run in read_runs(folder)]


def grouped(rows: Iterable[Row], metric: Metric) -> list[Group]:
    """Returns the groups of runs that differ in the seed alone, in the order of the runs.

    Only finished runs count.
    """
    groups: dict[tuple, list[float]] = {}
    for row in rows:
        key = tuple((k, v) for k, v in row.run.values.items() if k != SEED)
        results = groups.setdefault(key, [])
        value = metric.value(row.state.metrics)
        if row.state.status == "done" and value is not None:
            results.append(value)
    return [Group(dict(key), tuple(results)) for key, results in groups.items()]


def by_key(rows: Iterable[Row], key: str, metric: Metric) -> dict[str, list[Group]]:
    """Returns how the metric goes with one key, for each setting of the others.

    Args:
        rows: from read_rows.
        key: a swept key.
        metric: of the runs.

    Returns:
        "depth=2" (the other keys; "" if there are none) -> its groups, in the order of the key's
        values: numbers by size, words as they come.
    """
    series: dict[str, list[Group]] = {}
    for group in grouped(rows, metric):
        others = ", ".join(f"{k}={v}" for k, v in group.values.items() if k != key)
        if key in group.values:
            series.setdefault(others, []).append(group)
    for groups in series.values():
        if all(number_of(group.values[key]) is not None for group in groups):
            groups.sort(key=lambda group: number_of(group.values[key]))
    return series


def number_of(text: str) -> float | None:
    """Returns the number that a value is, None for others."""
    value = Override(text).literal
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def swept_keys(rows: Iterable[Row]) -> list[str]:
    """Returns the keys that have more than one value, without the seed."""
    values: dict[str, set[str]] = {}
    for row in rows:
        for key, text in row.run.values.items():
            values.setdefault(key, set()).add(text)
    return [key for key, texts in values.items() if len(texts) > 1 and key != SEED]


def as_csv(rows: list[Row]) -> str:
    """Returns a line per run: name, status, values of the swept keys, seconds, all metrics."""
    keys = list(dict.fromkeys(k for row in rows for k in row.run.values if k != "config"))
    metrics = list(dict.fromkeys(key for row in rows for key in row.state.metrics))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["run", "status", "config", *keys, "step", "seconds", *metrics])
    for row in rows:
        state = row.state
        values = [row.run.values.get(key, "") for key in keys]
        writer.writerow(
            [row.run.name, state.status, row.run.config, *values, state.step, state.seconds]
            + [state.metrics.get(key, "") for key in metrics]
        )
    return file.getvalue()


def as_markdown(rows: list[Row], metric: Metric) -> str:
    """Returns a table with a line for each setting: mean and spread over its seeds."""
    groups = grouped(rows, metric)
    keys = list(dict.fromkeys(key for group in groups for key in group.values))
    lines = [[*keys, metric.name, "runs"]]
    for group in groups:
        values = [group.values.get(key, "").replace("|", "\\|") for key in keys]
        lines.append([*values, in_words(group, metric), str(len(group.results))])
    texts = ["| " + " | ".join(line) + " |" for line in lines]
    texts.insert(1, "|" + "---|" * len(lines[0]))
    return "\n".join(texts) + "\n"


def in_words(group: Group, metric: Metric) -> str:
    """Returns "97.22 ± 0.31", shares in percent, or a dash where nothing is done."""
    if group.mean is None:
        return "–"
    scale, form = (100, ".2f") if metric.is_share else (1, ".4g")
    spread = "" if group.spread is None else f" ± {group.spread * scale:{form}}"
    return f"{group.mean * scale:{form}}{spread}"


def collect(folder: Path, metric_name: str | None = None) -> list[Path]:
    """Writes results.csv, results.md and a plot for each swept key into a sweep's folder.

    Args:
        folder: of the sweep.
        metric_name: None for the runs' own.

    Returns:
        The files.

    Raises:
        ConfigError: it is not the folder of a sweep, or no run has the metric.
    """
    rows = read_rows(folder)
    metric = metric_of(folder, [row.run for row in rows], metric_name)
    written = [folder / "results.csv", folder / "results.md"]
    write_text(written[0], as_csv(rows))
    write_text(written[1], as_markdown(rows, metric))
    for key in swept_keys(rows):
        series = by_key(rows, key, metric)
        if any(group.results for groups in series.values() for group in groups):
            path = folder / f"plot_{key}.png"
            with replacing(path) as temporary:
                draw_key(series, key, metric).savefig(temporary, dpi=120, format="png")
            written.append(path)
    return written
