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
    sheet = 6.0 / (depths + 0.6)  # inches, width
    aspect = max(image.shape[0] / image.shape[1] for image in images)
    row = max(sheet * aspect * -(-most // columns) / columns, 0.6 * sheet * aspect)
    figure = style.new_figure(len(maps) * (row + 0.6) + 0.85, "Feature maps")
    ratios = [0.6, *(1,) * depths]
    grid = figure.subplots(len(maps), 1 + depths, squeeze=False, width_ratios=ratios)
    for line, image, (name, planes) in zip(grid, images, maps.items(), strict=True):
        style.show_image(line[0], image, f"{image.shape[0]} x {image.shape[1]} pixels")
        style.row_label(line[0], name)
        for axes in line[1 + len(planes) :]:
            axes.set_axis_off()
        for axes, (depth, plane) in zip(line[1:], planes.items(), strict=False):
            shown = np.moveaxis(plane[..., channels[name][depth]], -1, 0)
            sheet, _ = style.tile(style.to_unit(shown), columns)
            style.show_map(axes, sheet, depth)
            axes.set_xlabel(_listed(channels[name][depth]), fontsize=8)
    style.scale_bar(
        figure,
        style.relative_scale(),
        grid[:, 1:].ravel().tolist(),
        "value, each map scaled by itself",
        ends=style.RELATIVE,
        location="bottom",
        shrink=0.4,
    )
    return figure


def _listed(channels: Sequence[int]) -> str:
    """Returns the numbers, a line per half, so that they fit below a sheet."""
    half = -(-len(channels) // 2) if len(channels) > 6 else len(channels)
    lines = [" ".join(map(str, part)) for part in (channels[:half], channels[half:]) if part]
    return "channels " + "\n".join(lines)
