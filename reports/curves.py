"""Figures of what a run logs: metrics and speed over epochs."""

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from reports.page import Figure, plain
from reports.run_record import NO_METRICS, TIMINGS, RunRecord

# In the middle between light and dark, and different for the colour-blind (Okabe and Ito).
COLOURS = ("#2f86c9", "#e08a1e", "#1a9e77", "#c96fa6", "#d5573b", "#5f9ea0", "#a88f1f", "#7d7f83")
MOST_POINTS = 1500  # of a curve; a page of many runs stays quick
LAYOUT = {
    "template": {},
    "margin": {"l": 58, "r": 14, "t": 12, "b": 44},
    "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    "hovermode": "closest",
    "font": {"size": 12},
}
_LOGARITHMIC = ("loss", "grad_norm")


def new_figure(x_title: str, y_title: str = "", **layout) -> go.Figure:
    """Returns an empty figure with the look of all; titles are shown as they are."""
    axes = {
        "xaxis": {"title": {"text": plain(x_title)}, "zeroline": False, "automargin": True},
        "yaxis": {
            "title": {"text": plain(y_title)},
            "zeroline": False,
            "automargin": True,
            "exponentformat": "power",
        },
    }
    figure = go.Figure(layout=LAYOUT | axes)
    return figure.update_layout(**layout)


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns at most about MOST_POINTS of a curve: of each stretch its lowest and highest."""
    if len(points) <= MOST_POINTS:
        return list(points)
    size = -(-2 * len(points) // MOST_POINTS)
    kept = []
    for start in range(0, len(points), size):
        stretch = range(start, min(start + size, len(points)))
        known = [i for i in stretch if _is_finite(points[i][1])] or [start]
        chosen = {min(known, key=lambda i: points[i][1]), max(known, key=lambda i: points[i][1])}
        kept += sorted(chosen | {i for i in stretch if not _is_finite(points[i][1])})
    kept = sorted({0, *kept, len(points) - 1})
    return [points[i] for i in kept]


def panels(run: RunRecord) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Returns metric -> curve ("train", "eval", "eval EMA") -> points (epoch or step, value)."""
    steps = run.steps
    per_epoch = steps.per_epoch if steps else 1.0
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for record in (*run.train, *run.evaluations):
        for name, value in record.items():
            # "iou/cat": of one class of many; the table of the last evaluation has them.
            left_out = name in (*NO_METRICS, *TIMINGS) or "/" in name
            if left_out or not isinstance(value, int | float):
                continue
            panel = name.removeprefix("ema_")
            curve = record["kind"] + (" EMA" if name != panel else "")
            found.setdefault(panel, {}).setdefault(curve, []).append(
                (record["step"] / per_epoch, value)
            )
    return found


def curve_figures(runs: Mapping[str, RunRecord]) -> list[Figure]:
    """Draws a figure per metric; of several runs, their curves over each other.

    Args:
        runs: name for the legend, "" for a single run -> its record.
    """
    of_runs = {name: panels(run) for name, run in runs.items()}
    names = dict.fromkeys(panel for found in of_runs.values() for panel in found)
    curves = {
        name: {c for found in of_runs.values() for c in found.get(name, ())} for name in names
    }
    order = sorted(names, key=lambda name: (-len(curves[name]), name != "loss", name))
    return [_curve_figure(name, of_runs, _unit(runs.values())) for name in order]


def _unit(runs) -> str:
    return "epoch" if all(run.steps for run in runs) else "step"


def _curve_figure(name: str, of_runs: Mapping[str, Mapping], unit: str) -> Figure:
    figure, values = new_figure(unit), []
    is_single = len(of_runs) == 1
    for number, (run, found) in enumerate(of_runs.items()):
        for curve, points in sorted(found.get(name, {}).items(), reverse=True):
            points = thinned(points)
            values += [y for _, y in points]
            is_eval = curve != "train"
            kind = ("train", "eval", "eval EMA", "train EMA").index(curve)
            dash = "solid" if is_single else ("dot", "solid", "dash", "dashdot")[kind]
            figure.add_scatter(
                x=[x for x, _ in points],
                y=[y for _, y in points],
                name=plain(curve if is_single else f"{run} {curve}"),
                mode="lines+markers" if is_eval and len(points) < 60 else "lines",
                line={"color": COLOURS[kind if is_single else number % len(COLOURS)], "dash": dash},
                marker={"size": 5},
                hovertemplate=f"%{{y:.5g}}<br>{unit} %{{x:.4g}}<extra>%{{fullData.name}}</extra>",
            )
    finite = [value for value in values if _is_finite(value)]
    if "accuracy" in name:
        few = finite and min(finite) < 0.9
        figure.update_yaxes(tickformat=".0%" if few else ".1%")
        figure.update_yaxes(autorangeoptions={"clipmin": 0, "clipmax": 1.003 if not few else 1.02})
    elif name.endswith(_LOGARITHMIC) and finite and max(finite) > 4 * min(finite) > 0:
        few = max(finite) < 50 * min(finite)  # powers of ten alone would be one or two
        figure.update_yaxes(type="log", tickformat=".3~g", dtick="D2" if few else None)
    figure.update_layout(showlegend=len(figure.data) > 1)
    return Figure(figure, name.replace("_", " "))


def speed_figures(run: RunRecord) -> list[Figure]:
    """Draws images per second, and the share of the time spent waiting for input."""
    figures = []
    titles = {"images_per_second": "images per second", "input_wait": "waiting for input"}
    steps = run.steps
    for number, (key, title) in enumerate(titles.items()):
        points = [
            (record["step"] / (steps.per_epoch if steps else 1), record[key])
            for record in run.train
            if isinstance(record.get(key), int | float)
        ]
        if not points:
            continue
        figure = new_figure(_unit([run]))
        points = thinned(points)
        figure.add_scatter(
            x=[x for x, _ in points],
            y=[y for _, y in points],
            mode="lines" if len(points) > 60 else "lines+markers",
            line={"color": COLOURS[2 + number]},
            name=title,
        )
        figure.update_yaxes(rangemode="tozero", tickformat=".1%" if key == "input_wait" else None)
        figures.append(Figure(figure, title))
    return figures


def _is_finite(value: float) -> bool:
    return math.isfinite(value)
