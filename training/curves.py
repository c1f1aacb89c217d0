"""The curves of a run as a picture."""

from pathlib import Path

from harness.files import replacing

# Logged with the training metrics, but of the machine: not drawn, and different in every run.
TIMINGS = ("images_per_second", "input_wait")
_NOT_DRAWN = {"step", "num_examples", "num_samples", *TIMINGS}


def draw_curves(records: list[dict], path: Path, steps_per_epoch: float) -> None:
    """Draws one panel per metric, training and evaluation together, over epochs.

    Args:
        records: lines of metrics.jsonl.
        path: of the PNG.
        steps_per_epoch: converts steps.
    """
    # The object interface: pyplot would keep global state and may open a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for record in records:
        for name, value in record.items():
            # "iou/cat": of one class of many.
            if name in _NOT_DRAWN or "/" in name or not isinstance(value, int | float):
                continue
            panel = name.removeprefix("ema_")
            curve = record["kind"] + (" EMA" if name != panel else "")
            point = (record["step"] / steps_per_epoch, value)
            panels.setdefault(panel, {}).setdefault(curve, []).append(point)
    if not panels:
        return
    order = sorted(panels, key=lambda name: (-len(panels[name]), name != "loss", name))
    columns = min(3, len(order))
    rows = -(-len(order) // columns)
    figure = Figure(figsize=(4.5 * columns, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for index, name in enumerate(order):
        axes = figure.add_subplot(rows, columns, index + 1)
        for curve, points in sorted(panels[name].items(), reverse=True):
            x, y = zip(*points, strict=True)
            style = {"marker": ".", "linewidth": 1.5} if "eval" in curve else {"linewidth": 1}
            style["color"] = {"train": "tab:blue", "eval": "tab:orange"}.get(curve, "tab:green")
            axes.plot(x, y, label=curve, **style)
        axes.set_title(name.replace("_", " "))
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.legend()
        positive = all(y > 0 for points in panels[name].values() for _, y in points)
        if name in ("loss", "grad_norm") and positive:
            axes.set_yscale("log")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")
