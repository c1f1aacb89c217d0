"""A picture of how a metric goes with a swept key."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from harness.arguments import Override
from sweeps.metric import Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_LINES = 8  # with other keys' settings; more have no legend


class _Group(Protocol):  # sweeps/collect.py: Group
    values: Mapping[str, str]
    results: Sequence[float]
    mean: float | None
    spread: float | None


def draw_key(series: Mapping[str, Sequence[_Group]], key: str, metric: Metric) -> "Figure":
    """Draws the mean of each setting with its spread over seeds, and the single runs as dots.

    Args:
        series: from sweeps.collect.by_key.
        key: the swept key.
        metric: what is drawn.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    texts = list(dict.fromkeys(g.values[key] for groups in series.values() for g in groups))
    numbers = [Override(text).literal for text in texts]
    is_number = all(type(n) in (int, float) for n in numbers)
    place = dict(zip(texts, numbers if is_number else range(len(texts)), strict=True))

    # Words are read from left to right: their settings are rows, those of numbers a curve.
    height = 4.2 if is_number else 1.6 + 0.5 * len(texts) + 0.12 * len(texts) * len(series)
    figure = Figure(figsize=(6.4, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for index, (others, groups) in enumerate(series.items()):
        done = [group for group in groups if group.results]
        aside = 0.0 if is_number else 0.6 * ((index + 1) / (len(series) + 1) - 0.5)
        at = [place[group.values[key]] + aside for group in done]
        mean = [group.mean for group in done]
        spread = [group.spread or 0.0 for group in done]
        style = {"capsize": 4, "color": f"C{index % 10}", "label": others or None}
        if is_number:
            axes.errorbar(at, mean, yerr=spread, fmt="o-", **style)
        else:
            axes.errorbar(mean, at, xerr=spread, fmt="o", **style)
        for where, group in zip(at, done, strict=True):
            dots = [where] * len(group.results), group.results
            axes.scatter(
                *(dots if is_number else dots[::-1]), s=12, alpha=0.4, color=style["color"]
            )
    metric_axis, key_axis = (axes.yaxis, axes.xaxis) if is_number else (axes.xaxis, axes.yaxis)
    if is_number:
        positive = [n for n in numbers if n > 0]
        if len(positive) == len(numbers) and max(positive) / min(positive) >= 30:
            axes.set_xscale("log")
    else:
        axes.set_yticks(range(len(texts)), texts)
        axes.set_ylim(len(texts) - 0.5, -0.5)
    if metric.is_share:
        metric_axis.set_major_formatter(PercentFormatter(1.0))
    key_axis.set_label_text(key)
    metric_axis.set_label_text(metric.name.replace("_", " "))
    axes.grid(alpha=0.3)
    if 1 < len(series) <= _MOST_LINES:
        figure.legend(loc="outside upper center", fontsize=8, ncols=2)
    return figure
