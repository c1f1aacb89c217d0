"""What single channels show at several depths, of one model or two (TNT paper, figure 3a)."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from harness.arguments import problem
from inference.pictures import style

Maps = Mapping[str, np.ndarray]
COLUMNS = 4


def choose_channels(
    count: int, total: int, seed: int, chosen: Sequence[int] | None = None
) -> list[int]:
    """Draws channels by a seed, in order; `chosen` ones are checked instead.

    Raises:
        ValueError: there is no such channel.
    """
    for channel in chosen or ():
        if not 0 <= channel < total:
            raise ValueError(problem("--channels", channel, "out of range", f"0 to {total - 1}"))
    if chosen:
        return list(chosen)
    rng = np.random.default_rng(seed)
    return sorted(rng.choice(total, min(count, total), replace=False).tolist())


@style.styled
def draw(
    images: Sequence[np.ndarray],
    maps: Mapping[str, Maps],
    channels: Mapping[str, Mapping[str, Sequence[int]]],
) -> Figure:
    """Draws one row per model: the image, and for each depth a sheet of channels.

    Args:
        images: of each model, uint8 [height, width, channels].
        maps: name of a model -> depth in words -> [h, w, c].
        channels: the same with the numbers of the channels to show.
    """
    most = max(len(numbers) for rows in channels.values() for numbers in rows.values())
    columns = min(COLUMNS, most)
    depths = max(map(len, maps.values()))
    aspect = max(image.shape[0] / image.shape[1] for image in images)
    lines = -(-most // columns)
    sheet = 1.85 * 3 / max(depths, 3)  # inches, width
    height = len(maps) * (sheet * aspect * lines / columns + 0.75) + 0.75
    figure = style.new_figure(height, "Feature maps")
    rows = figure.subfigures(len(maps), 1, squeeze=False)[:, 0]
    last = []
    for row, image, (name, planes) in zip(rows, images, maps.items(), strict=True):
        grid = row.subplots(1, 1 + depths, width_ratios=[0.6, *(1,) * depths])
        row.suptitle(name, fontsize=9, fontweight="bold")
        style.show_image(grid[0], image, "image")
        for axes in grid[1:]:
            axes.set_axis_off()
        for axes, (depth, plane) in zip(grid[1:], planes.items(), strict=False):
            axes.set_axis_on()
            shown = np.moveaxis(plane[..., channels[name][depth]], -1, 0)
            gap = max(1, plane.shape[1] // 12)
            style.show_map(axes, style.tile(style.to_unit(shown), columns, gap), depth)
            axes.set_xlabel(_listed(channels[name][depth]), fontsize=8)
        last = grid[1:]
    style.scale_bar(
        rows[-1],
        style.relative_scale(),
        last,
        "value of each map, scaled by itself",
        ends=style.RELATIVE,
        location="bottom",
        shrink=0.4,
        pad=0.08,
    )
    return figure


def _listed(channels: Sequence[int]) -> str:
    """Returns the numbers, a line per half, so that they fit below a sheet."""
    half = -(-len(channels) // 2) if len(channels) > 6 else len(channels)
    lines = [" ".join(map(str, part)) for part in (channels[:half], channels[half:]) if part]
    return "channels " + "\n".join(lines)
