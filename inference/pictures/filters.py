"""The filters of a model's first layer."""

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from inference.pictures import style

MOST = 128


@style.styled
def draw(filters: np.ndarray, name: str, channels: list[int] | None = None) -> Figure:
    """Draws filters as small pictures, all on one scale.

    Args:
        filters: [count, height, width, 1 or 3].
        name: of the model.
        channels: their numbers, for a title; None: they are the first ones.
    """
    count, h, w, depth = filters.shape
    columns = 16 if count > 48 else 12 if count > 24 else min(8, count)
    rows = -(-count // columns)
    limit = float(np.quantile(np.abs(filters), 0.995)) or 1.0
    height = style.WIDTH * rows * (h + 0.1 * w) / (columns * 1.1 * w) + 1.1
    figure = style.new_figure(height, f"Filters of the stem of {name}")
    axes = figure.add_subplot()
    which = f"{count} filters of {h} x {w} pixels"
    if channels:
        which = f"{which}: {' '.join(map(str, channels))}"
    sheet, _ = style.tile(filters, columns)
    norm = Normalize(-limit, limit)
    if depth == 1:
        shown = style.show_map(axes, sheet[..., 0], which, cmap=style.DIVERGING, norm=norm)
        label = "weight"
    else:
        colours = np.where(np.isnan(sheet), 1, norm(np.nan_to_num(sheet)).clip(0, 1))
        axes.imshow(colours)
        style.bare(axes, which)
        shown = ScalarMappable(norm, matplotlib.colormaps["gray"])
        label = "weight of red, green and blue"
    style.scale_bar(figure, shown, axes, label, location="bottom", shrink=0.4, extend="both")
    return figure
