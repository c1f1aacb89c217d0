"""TNT's word embeddings over the image, at several depths (TNT paper, figure 4)."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from inference.pictures import style


@style.styled
def draw(images: np.ndarray, words: Mapping[str, np.ndarray], name: str) -> Figure:
    """Draws one row per image: the image, and the mean word over its channels for each depth.

    Args:
        images: uint8 [b, height, width, channels].
        words: depth in words -> [b, h, w, c], laid out on the image.
        name: of the model.
    """
    columns = 1 + len(words)
    aspect = images.shape[1] / images.shape[2]
    height = len(images) * (style.WIDTH / columns * aspect + 0.08) + 1.15
    figure = style.new_figure(height, f"Word embeddings of {name}")
    grid = figure.subplots(len(images), columns, squeeze=False)
    for axes, image in zip(grid[:, 0], images, strict=True):
        style.show_image(axes, image)
    grid[0, 0].set_title("image", pad=3)
    for column, (depth, planes) in zip(grid.T[1:], words.items(), strict=True):
        means = planes.mean(axis=-1)  # [b, h, w]
        limits = style.clipped(means)
        for axes, mean in zip(column, means, strict=True):
            shown = style.show_map(axes, mean, **limits)
        column[0].set_title(depth, pad=3)
        style.scale_bar(
            figure,
            shown,
            column.tolist(),
            "mean over channels",
            location="bottom",
            shrink=0.85,
            aspect=16,
            extend="both",
        )
    return figure
