"""How cost grows with image side, depth, batch and sequence length: predicted and measured.

The prediction is the multiply-adds (zoo/costs.py); measured is the forward pass. Points of all
curves take turns, and the quickest round counts: other programs only slow one down.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.jax_steps import Work, create_measured, ours
from harness.files import replacing
from zoo.cost_tables import total
from zoo.costs import model_costs


@dataclasses.dataclass(frozen=True)
class Point:
    """A model at one place of a curve.

    Attributes:
        axis: name of the picture.
        curve: name of the line in it.
        x: where it is on the axis.
        work: what is measured.
        fields: of the model.
    """

    axis: str
    curve: str
    x: float
    work: Work
    fields: dict[str, Any]


AXES = {
    "image side": "side of the image, pixels",
    "sequence length": "tokens that attend to each other",
    "depth": "layers",
    "batch": "images in a batch",
}


BATCHED = {
    "NesT-T": "nest_tiny_s196_224",
    "TNT-S": "tnt_s_patch16_224",
    "DeiT-S": "deit_s_patch16_224",
}


def _work(model: str, side: int, batch_size: int = 1) -> Work:
    return Work("forward", model, batch_size, (side, side, 3), 1000, "float32")


def points() -> list[Point]:
    """Returns the points of all pictures; what an axis does not change is the variant's own."""
    made = []

    def add(axis: str, curve: str, x: float, work: Work, **fields: Any) -> None:
        made.append(Point(axis, curve, x, work, fields))

    for levels in (2, 3, 4, 5):  # blocks of 14 x 14 tokens: with the side, the tree grows
        side = 28 * 2**levels
        tree = {"dims": (96,) * levels, "depths": (2,) * levels, "num_heads": (3,) * levels}
        add("image side", "NesT, 14 x 14", side, _work("nest_tiny_s196_224", side), **tree)
        add("image side", "DeiT-Ti", side, _work("deit_ti_patch16_224", side))
    for side in (7, 14, 28, 56):  # one block an image, 3136 tokens in all
        one = {"dims": (192,), "depths": (4,), "num_heads": (3,)}
        work = _work("nest_tiny_s196_224", 4 * side, (56 // side) ** 2)
        add("sequence length", "4 layers of NesT", side**2, work, **one)
    for layers in (3, 6, 12):
        add("depth", "TNT-S", layers, _work("tnt_s_patch16_224", 224), depth=layers)
        add("depth", "DeiT-S", layers, _work("deit_s_patch16_224", 224), depth=layers)
        nest = _work("nest_tiny_s196_224", 224)
        add("depth", "NesT-T, top level", layers, nest, depths=(2, 2, layers))
    for size in (1, 2, 4, 8):
        for curve, model in BATCHED.items():
            add("batch", curve, size, _work(model, 224, size))
    return made


def run(axes: Sequence[str], *, rounds: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measures the points of some axes in turns.

    Args:
        axes: of AXES.
        rounds: how often; the quickest counts.
        say: prints a line.

    Returns:
        A record per point: axis, curve, x, multiply-adds and milliseconds of its whole batch.
    """
    chosen = [point for point in points() if point.axis in axes]
    contenders, records = [], []
    for point in chosen:
        model = create_measured(point.work, point.fields)
        cost = total(model_costs(model, point.work.image_shape)).multiply_adds
        contenders.append(ours(point.work, point.fields))
        records.append(
            {
                "axis": point.axis,
                "curve": point.curve,
                "x": point.x,
                "batch_size": point.work.batch_size,
                "multiply_adds": cost * point.work.batch_size,
                "device": jax.devices()[0].device_kind,
                "rounds": [],
            }
        )
        say(f"{point.axis}: {point.curve}, {point.x}: {cost / 1e9:.2f} G multiply-adds an image")
    for _ in range(rounds):
        for contender, record in zip(contenders, records, strict=True):
            started = time.perf_counter()
            contender.run(1)
            record["rounds"].append(1e3 * (time.perf_counter() - started))
    for record in records:
        record["milliseconds"] = min(record["rounds"])
    return records


def curves(records: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Returns (axis, curve) -> its records, by x."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in sorted(records, key=lambda record: record["x"]):
        found.setdefault((record["axis"], record["curve"]), []).append(record)
    return {key: found[key] for key in sorted(found, key=lambda key: list(AXES).index(key[0]))}


def exponents(curve: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Returns the predicted and the measured power of x that the cost grows with, at the end."""
    before, last = curve[-2:]
    step = math.log(last["x"] / before["x"])
    return tuple(
        math.log(last[what] / before[what]) / step for what in ("multiply_adds", "milliseconds")
    )


def draw(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws measured points and predicted lines, a panel for each axis.

    A line is the multiply-adds, moved up or down to the middle of its curve's points.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure, panels = pyplot.subplots(2, 2, figsize=(10, 8), layout="constrained")
    for panel, (axis, label) in zip(panels.flat, AXES.items(), strict=True):
        for (its_axis, name), curve in curves(records).items():
            if its_axis != axis:
                continue
            x = [record["x"] for record in curve]
            times = [record["milliseconds"] for record in curve]
            costs = [record["multiply_adds"] for record in curve]
            rate = math.prod(t / c for t, c in zip(times, costs, strict=True)) ** (1 / len(x))
            (points_,) = panel.plot(x, times, "o", label=name)
            panel.plot(x, [rate * cost for cost in costs], "--", color=points_.get_color())
        panel.set(xscale="log", yscale="log", xlabel=label, ylabel="milliseconds a batch")
        ticks = sorted({record["x"] for record in records if record["axis"] == axis})
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.xaxis.set_minor_locator(ticker.NullLocator())
        panel.yaxis.set_minor_formatter(ticker.LogFormatter(minor_thresholds=(2, 0.5)))
        panel.grid(alpha=0.3)
        panel.legend()
    figure.suptitle("Forward pass: measured (points), and multiply-adds (dashed, moved to fit)")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png", metadata={"Software": None})
    pyplot.close(figure)
