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

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for index, (others, groups) in enumerate(series.items()):
        done = [group for group in groups if group.results]
        x = [place[group.values[key]] for group in done]
        color = f"C{index % 10}"
        axes.errorbar(
            x,
            [group.mean for group in done],
            yerr=[group.spread or 0.0 for group in done],
            fmt="o-" if is_number else "o",
            capsize=4,
            color=color,
            label=others or None,
        )
        for at, group in zip(x, done, strict=True):
            axes.scatter([at] * len(group.results), group.results, s=12, alpha=0.4, color=color)
    if is_number:
        positive = [n for n in numbers if n > 0]
        if len(positive) == len(numbers) and max(positive) / min(positive) >= 30:
            axes.set_xscale("log")
    else:
        axes.set_xticks(range(len(texts)), texts)
        axes.set_xlim(-0.5, len(texts) - 0.5)
        if sum(map(len, texts)) > 60:
            axes.tick_params(axis="x", rotation=30)
    if metric.is_share:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(key)
    axes.set_ylabel(metric.name.replace("_", " "))
    axes.grid(alpha=0.3)
    if len(series) > 1 and len(series) <= _MOST_LINES:
        axes.legend()
    return figure
