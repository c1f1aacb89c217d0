"""The page of a sweep: its runs in a table, the metric over each swept key, what failed."""

import dataclasses
import os
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.errors import ConfigError, printable
from reports.curves import COLOURS, new_figure, thinned
from reports.page import (
    Block,
    Cell,
    Figure,
    Page,
    Section,
    Table,
    Text,
    Tile,
    Tiles,
    metric,
    plain,
)
from reports.run_record import RunRecord, read_run
from reports.run_sections import duration, section
from reports.search_section import search_blocks
from sweeps.collect import SEED, Row, by_key, grouped, in_words, number_of, read_rows, swept_keys
from sweeps.metric import Metric, metric_of
from sweeps.search_plan import read_plan
from sweeps.states import count
from sweeps.states import in_words as counted

MOST_LINES = 12  # runs or settings that have a line of a colour each in the legend


def sweep_page(
    folder: Path,
    metric_name: str | None = None,
    *,
    page_folder: Path | None = None,
    more: Sequence[Section] = (),
) -> Page:
    """Returns the page of a sweep.

    Args:
        folder: of the sweep.
        metric_name: to compare by; None: the runs' own.
        page_folder: folder of the page, from which links lead to the runs; None: the sweep's.
        more: further sections, before the runs' curves.

    Raises:
        ConfigError: it is not the folder of a sweep, or no run has the metric.
    """
    rows, found = read_rows(folder), read_plan(folder)
    chosen = metric_of(folder, [row.run for row in rows], metric_name)
    if found and metric_name is None:
        chosen = Metric(found.metric, found.is_better_higher)
    counts = count(row.state for row in rows)
    status = "done" if list(counts) == ["done"] else "running" if "running" in counts else ""
    parts = [
        ("Summary", lambda: summary(rows, chosen)),
        ("Runs", lambda: [runs_table(folder, rows, chosen, page_folder or folder)]),
        ("Failed runs", lambda: failed(folder, rows)),
        ("Search", lambda: search_blocks(folder, found, rows, chosen))
        if found
        else ("Swept keys", lambda: key_figures(rows, chosen)),
    ]
    last = section("Curves", lambda: curves(folder, rows, chosen))
    recipes = ", ".join(dict.fromkeys(row.run.config for row in rows))
    return Page(
        title=printable(folder.name),
        subtitle=printable(f"a sweep of {len(rows)} runs of {recipes}: {counted(counts)}"),
        status=status,
        sections=[*(section(title, blocks) for title, blocks in parts), *more, last],
        made=printable(str(folder)),
    )


def figure_section(title: str, figures: Mapping[str, object], text: str = "") -> Section:
    """Returns a section of plotly figures, title of each -> figure, for `sweep_page`'s `more`.

    Names in the figures are shown as plotly shows them: text of a person goes through page.plain.
    """
    blocks: list[Block] = [Text(text)] if text else []
    return Section(title, [*blocks, *(Figure(figure, name) for name, figure in figures.items())])


def summary(rows: Sequence[Row], chosen: Metric) -> list[Block]:
    """How many runs stand where, the best run and the best setting."""
    tiles = [Tile(status, f"{n:,}") for status, n in count(row.state for row in rows).items()]
    found = [row for row in rows if chosen.value(row.state.metrics) is not None]
    finished = [row for row in found if row.state.status == "done"]
    if finished:
        best = max(finished, key=lambda row: chosen.rank(row.state.metrics))
        name = printable(best.run.name)
        value = metric(chosen.name, chosen.value(best.state.metrics))
        tiles.append(Tile(f"best {chosen.name.replace('_', ' ')}", value, name))
    seconds = sum(row.state.seconds for row in rows)
    tiles += [Tile("time of all runs", duration(seconds))] if seconds else []
    blocks: list[Block] = [Tiles(tiles)]
    groups = [group for group in grouped(rows, chosen) if group.results]
    if any(len(group.results) > 1 for group in groups):
        keys = list(dict.fromkeys(key for group in groups for key in group.values))
        lines = [
            [
                *(value_cell(group.values.get(key, "")) for key in keys),
                Cell(in_words(group, chosen), group.mean),
                Cell(f"{len(group.results)}", len(group.results)),
            ]
            for group in groups
        ]
        lines.sort(key=lambda line: line[-2].value, reverse=chosen.is_better_higher)
        unit = ", %" if chosen.is_share else ""
        titles = [*keys, f"{chosen.name.replace('_', ' ')}{unit}", "runs"]
        title = "Mean and standard deviation over the seeds of each setting, the best first"
        blocks.append(Table([printable(title) for title in titles], lines, title))
    return blocks


def value_cell(text: str) -> Cell:
    """Returns a value of a swept key."""
    return Cell(printable(text), number_of(text))


def runs_table(folder: Path, rows: Sequence[Row], chosen: Metric, page_folder: Path) -> Table:
    """Lists the runs, each with a link to its page, or to its folder if it has none."""
    keys = list(dict.fromkeys(key for row in rows for key in row.run.values))
    known = dict.fromkeys(name for row in rows for name in row.state.metrics)
    best = f"best_{chosen.name}"
    wanted = (chosen.name, best, "loss")
    metrics = [name for name in dict.fromkeys(wanted) if name in known]
    lines = []
    for row in rows:
        state = row.state
        place = folder / row.run.name
        page = place / "report.html"
        link = ""
        if place.is_dir():
            target = os.path.relpath(page if page.is_file() else place, page_folder)
            # "./": a name with a colon is no protocol.
            link = f"./{urllib.parse.quote(os.fsencode(target))}"
        done = f"{state.step:,}" + (f" of {state.total_steps:,}" if state.total_steps else "")
        lines.append(
            [
                Cell(printable(row.run.name), link=link),
                Cell(state.status, kind=state.status),
                *(value_cell(row.run.values.get(key, "")) for key in keys),
                *(
                    Cell(metric(name, state.metrics.get(name)), state.metrics.get(name))
                    for name in metrics
                ),
                Cell(done, state.step),
                Cell(duration(state.seconds) if state.seconds else "–", state.seconds or None),
            ]
        )
    names = [name.replace("_", " ") for name in metrics]
    return Table([printable(t) for t in ("run", "status", *keys, *names, "step", "time")], lines)


def failed(folder: Path, rows: Sequence[Row]) -> list[Block]:
    """Lists the failed runs with their last line."""
    lines = [
        [Cell(printable(row.run.name)), Cell(printable(row.state.last_line))]
        for row in rows
        if row.state.status == "failed"
    ]
    return [Table(["run", "last line of its log"], lines)] if lines else []


def key_figures(rows: Sequence[Row], chosen: Metric) -> list[Block]:
    """Draws the metric over each swept key: the runs as dots, mean and spread over the seeds."""
    figures = []
    for key in swept_keys(rows):
        series = by_key(rows, key, chosen)
        texts = list(dict.fromkeys(g.values[key] for groups in series.values() for g in groups))
        numbers = [number_of(text) for text in texts]
        is_number = None not in numbers
        place = dict(zip(texts, numbers if is_number else range(len(texts)), strict=True))
        figure = new_figure(key, chosen.name.replace("_", " "))
        for i, (others, groups) in enumerate(series.items()):
            groups = [group for group in groups if group.results]
            colour = COLOURS[i % len(COLOURS)]
            at = [place[group.values[key]] for group in groups]
            name = plain(others or "mean")
            figure.add_scatter(
                x=at,
                y=[group.mean for group in groups],
                error_y={"array": [group.spread or 0 for group in groups], "thickness": 1.5},
                mode="lines+markers" if is_number else "markers",
                line={"color": colour},
                marker={"size": 9},
                name=name,
                legendgroup=name,
                customdata=[[in_words(group, chosen), len(group.results)] for group in groups],
                hovertemplate="%{customdata[0]}<br>%{customdata[1]} runs"
                "<extra>%{fullData.name}</extra>",
            )
            dots = [(x, y) for x, g in zip(at, groups, strict=True) for y in g.results]
            figure.add_scatter(
                x=[x for x, _ in dots],
                y=[y for _, y in dots],
                mode="markers",
                marker={"color": colour, "size": 5, "opacity": 0.45},
                name=name,
                legendgroup=name,
                showlegend=False,
                hovertemplate="%{y}<extra>a run</extra>",
            )
        if not any(trace.x for trace in figure.data):
            continue
        if not is_number:
            figure.update_xaxes(
                tickvals=list(range(len(texts))),
                ticktext=[plain(text) for text in texts],
                range=[-0.5, len(texts) - 0.5],
                showgrid=False,
            )
        elif min(numbers) > 0 and max(numbers) / min(numbers) >= 30:
            figure.update_xaxes(type="log", tickvals=numbers, ticktext=texts)
        else:
            figure.update_xaxes(tickvals=numbers, ticktext=[plain(text) for text in texts])
        figure.update_yaxes(tickformat=".1%" if chosen.is_share else None)
        figure.update_layout(showlegend=1 < len(series) <= MOST_LINES)
        title = f"{chosen.name.replace('_', ' ')} by {key}: mean and spread over the seeds"
        figures.append(Figure(figure, printable(title), height=360))
    is_alone = len(figures) == 1
    return [dataclasses.replace(figure, is_wide=is_alone) for figure in figures]


def curves(folder: Path, rows: Sequence[Row], chosen: Metric) -> list[Block]:
    """Draws the metric of all runs over training, those of a setting in one colour."""
    figure, runs = new_figure(""), _records(folder, rows)
    unit = "epoch" if all(run.steps for run in runs.values()) else "step"
    figure.update_xaxes(title={"text": unit})
    settings: dict[str, int] = {}
    for row in rows:
        run = runs.get(row.run.name)
        points = [
            (record["step"], record[chosen.name])
            for record in (run.evaluations if run else ())
            if isinstance(record.get(chosen.name), int | float)
        ]
        if not points:
            continue
        setting = ", ".join(f"{k}={v}" for k, v in row.run.values.items() if k != SEED)
        is_first = setting not in settings
        number = settings.setdefault(setting, len(settings))
        per_epoch = run.steps.per_epoch if unit == "epoch" else 1
        points = thinned(points)
        figure.add_scatter(
            x=[step / per_epoch for step, _ in points],
            y=[value for _, value in points],
            mode="lines+markers" if len(points) < 30 else "lines",
            name=plain(setting or "runs"),
            legendgroup=plain(setting),
            showlegend=is_first,
            line={"color": COLOURS[number % len(COLOURS)], "width": 1.5},
            marker={"size": 4},
            hovertemplate=f"%{{y:.5g}}<br>{unit} %{{x:.4g}}<extra>%{{meta}}</extra>",
            meta=plain(row.run.name),
        )
    if not figure.data:
        return []
    figure.update_yaxes(tickformat=".1%" if chosen.is_share else None)
    figure.update_layout(showlegend=1 < len(settings) <= MOST_LINES)
    title = f"{chosen.name.replace('_', ' ')} of each run while it is trained"
    return [Figure(figure, printable(title), is_wide=True, height=420)]


def _records(folder: Path, rows: Sequence[Row]) -> dict[str, RunRecord]:
    """Returns the runs that have begun, by name."""
    found = {}
    for row in rows:
        try:
            found[row.run.name] = read_run(folder / row.run.name)
        except ConfigError:  # nothing there yet
            continue
    return found
