"""The part of a sweep's page that is about a search: how it went, and which keys matter."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.errors import printable
from reports.curves import COLOURS, new_figure
from reports.page import Block, Cell, Figure, Table, Text, metric, plain
from sweeps.collect import Row, number_of
from sweeps.metric import Metric
from sweeps.search import JOURNAL
from sweeps.search_plan import Plan
from sweeps.search_results import results
from sweeps.values import Interval, parse_space


def search_blocks(folder: Path, found: Plan, rows: Sequence[Row], chosen: Metric) -> list[Block]:
    """Returns the trials over time, what each key did to the metric, and how much each matters.

    Args:
        folder: of the sweep.
        found: what is searched.
        rows: its runs, in the order of the trials.
        chosen: the metric.
    """
    known = [row for row in rows if chosen.value(row.state.metrics) is not None]
    ranges = [[Cell(printable(key)), Cell(printable(text))] for key, text in found.spaces.items()]
    blocks: list[Block] = [Table(["key", "searched in"], ranges)]
    if not known:
        return [*blocks, Text("No trial has a result yet.")]
    blocks.append(history(rows, chosen))
    blocks += [key_figure(key, found, known, chosen) for key in found.spaces]
    # Opening a study makes it, if it is not there.
    if shares := results(folder).importance if (folder / JOURNAL).is_file() else {}:
        blocks.append(importance_figure(shares))
    return blocks


def history(rows: Sequence[Row], chosen: Metric) -> Figure:
    """Draws the result of each trial, and the best one so far; pruned trials are hollow."""
    figure = new_figure("trial", chosen.name.replace("_", " "))
    best, line = None, []
    for number, row in enumerate(rows):
        value = chosen.value(row.state.metrics)
        if row.state.status == "done" and value is not None:
            better = max if chosen.is_better_higher else min
            best = value if best is None else better(best, value)
            line.append((number, best))
    figure.add_scatter(
        x=[number for number, _ in line],
        y=[value for _, value in line],
        mode="lines",
        line={"shape": "hv", "color": COLOURS[1]},
        name="the best so far",
        hoverinfo="skip",
    )
    places = {row.run.name: number for number, row in enumerate(rows)}
    known = [row for row in rows if chosen.value(row.state.metrics) is not None]
    _add_trials(figure, [places[row.run.name] for row in known], known, chosen)
    figure.update_layout(showlegend=True)
    return Figure(figure, "trials in their order; hollow: not trained to the end", is_wide=True)


def key_figure(key: str, found: Plan, known: Sequence[Row], chosen: Metric) -> Figure:
    """Draws the result of each trial over its value of a key."""
    figure = new_figure(key, chosen.name.replace("_", " "))
    space, texts = (
        parse_space(key, found.spaces[key]),
        [row.run.values.get(key, "") for row in known],
    )
    numbers = [number_of(text) for text in texts]
    if not isinstance(space, Interval) or None in numbers:
        listed = () if isinstance(space, Interval) else space
        choices = list(dict.fromkeys((*listed, *texts)))
        numbers = [choices.index(text) for text in texts]
        figure.update_xaxes(
            tickvals=list(range(len(choices))),
            ticktext=[plain(text) for text in choices],
            range=[-0.5, len(choices) - 0.5],
            showgrid=False,
        )
    elif space.is_log:
        figure.update_xaxes(type="log", exponentformat="power")
    _add_trials(figure, numbers, known, chosen)
    return Figure(figure, printable(f"{chosen.name.replace('_', ' ')} by {key}"))


def _add_trials(figure, x: Sequence[float], known: Sequence[Row], chosen: Metric) -> None:
    values = [chosen.value(row.state.metrics) for row in known]
    is_done = [row.state.status == "done" for row in known]
    figure.add_scatter(
        x=list(x),
        y=values,
        mode="markers",
        marker={
            "color": COLOURS[0],
            "size": 8,
            "symbol": ["circle" if done else "circle-open" for done in is_done],
        },
        name="a trial",
        customdata=[
            [plain(row.run.name), row.state.status, metric(chosen.name, value)]
            for row, value in zip(known, values, strict=True)
        ],
        hovertemplate="%{customdata[0]}, %{customdata[1]}<br>%{customdata[2]}<extra></extra>",
    )
    figure.update_yaxes(tickformat=".1%" if chosen.is_share else None)
    figure.update_layout(showlegend=False)


def importance_figure(shares: Mapping[str, float]) -> Figure:
    """Draws how much of a metric's variation each key of a search explains, shares of one."""
    order = sorted(shares, key=shares.get)
    figure = new_figure("share of the variation")
    figure.add_bar(
        x=[shares[key] for key in order],
        y=list(range(len(order))),
        orientation="h",
        marker={"color": COLOURS[0]},
        hovertemplate="%{x:.1%}<extra></extra>",
    )
    figure.update_xaxes(tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(
        tickvals=list(range(len(order))), ticktext=[plain(key) for key in order], showgrid=False
    )
    return Figure(figure, "how much each key matters (fANOVA)")
