"""Who attends to whom: words, patches and the class token (TNT paper, figures 5, 6 and 7)."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure, SubFigure

from inference.pictures import style

Maps = Mapping[str, np.ndarray]
Point = tuple[float, float]
_LABEL = "attention weight"


@style.styled
def draw_words(
    image: np.ndarray, box: Sequence[int], maps: Maps, queries: Sequence[int], name: str
) -> Figure:
    """Draws the attention of some words of a patch: a row per depth, a cross on the query.

    Args:
        image: uint8 [height, width, channels].
        box: the patch, (top, left, bottom, right) in pixels.
        maps: depth in words -> [queries, s, s].
        queries: numbers of the words that attend, row by row.
        name: of the model.
    """
    side = next(iter(maps.values())).shape[-1]
    columns = 1 + len(queries)
    height = max(2, len(maps)) * (5.6 / columns) + 0.75
    figure = style.new_figure(height, f"Attention of words in {name}")
    left, right = figure.subfigures(1, 2, width_ratios=[1.5, len(queries) + 0.6])
    whole, patch = left.subplots(2, 1)
    style.show_image(whole, image, "image")
    style.draw_box(whole, box, style.COLOURS[0])
    top, at, bottom, end = box
    style.show_image(patch, image[top:bottom, at:end], "the patch")
    style.draw_box(patch, (0, 0, bottom - top, end - at), style.COLOURS[0])
    grid = right.subplots(len(maps), len(queries), squeeze=False)
    for row, (depth, weights) in zip(grid, maps.items(), strict=True):
        style.row_label(row[0], depth)
        for axes, query, one in zip(row, queries, weights, strict=True):
            limits = {"vmin": 0, "vmax": weights.max()}
            shown = style.show_map(axes, one, cmap=style.ATTENTION, **limits)
            style.draw_cross(axes, *divmod(query, side))
        style.scale_bar(right, shown, row.tolist(), _LABEL, aspect=14)
    for axes, query in zip(grid[0], queries, strict=True):
        row, column = divmod(query, side)
        axes.set_title(f"word {row}, {column}", pad=3)
    return figure


@style.styled
def draw_patches(
    images: Sequence[np.ndarray],
    maps: Mapping[str, Maps],
    queries: Sequence[Point],
) -> Figure:
    """Draws what some patches attend to: for each model a row per query, a column per depth.

    Args:
        images: of each model, uint8 [height, width, channels].
        maps: name of a model -> depth in words -> [queries, h, w]; NaN where nothing can be seen.
        queries: places of the patches, (y, x) in fractions of the image.
    """
    columns = 1 + max(map(len, maps.values()))
    side = style.WIDTH / (columns + 0.2)
    aspect = images[0].shape[0] / images[0].shape[1]
    height = len(maps) * (len(queries) * (side * aspect + 0.06) + 1.0) + 0.3
    figure = style.new_figure(height, "Attention of patches")
    parts = figure.subfigures(len(maps), 1, squeeze=False)[:, 0]
    for part, image, (name, by_depth) in zip(parts, images, maps.items(), strict=True):
        grid = _grid(part, name, len(queries), columns)
        for row, axes in enumerate(grid[:, 0]):
            style.show_image(axes, image, "query" if row == 0 else "")
            style.draw_cross(axes, *_place(queries[row], image.shape[:2]))
        for column, (depth, weights) in zip(grid.T[1:], by_depth.items(), strict=False):
            _column(part, column, depth, weights)
            for axes, query in zip(column, queries, strict=True):
                style.draw_cross(axes, *_place(query, weights.shape[1:], snap=True), size=4)
    return figure


@style.styled
def draw_class_token(
    images: Sequence[np.ndarray],
    maps: Mapping[str, Maps],
) -> Figure:
    """Draws what the class token attends to: for each model a row per image, a column per depth.

    Args:
        images: of each model, uint8 [b, height, width, channels].
        maps: name of a model -> depth in words -> [b, h, w].
    """
    columns = 1 + max(map(len, maps.values()))
    side = style.WIDTH / (columns + 0.2)
    aspect = images[0].shape[1] / images[0].shape[2]
    height = len(maps) * (len(images[0]) * (side * aspect + 0.06) + 1.0) + 0.3
    figure = style.new_figure(height, "Attention of the class token")
    parts = figure.subfigures(len(maps), 1, squeeze=False)[:, 0]
    for part, shown, (name, by_depth) in zip(parts, images, maps.items(), strict=True):
        grid = _grid(part, name, len(shown), columns)
        for row, (axes, image) in enumerate(zip(grid[:, 0], shown, strict=True)):
            style.show_image(axes, image, "image" if row == 0 else "")
        for column, (depth, weights) in zip(grid.T[1:], by_depth.items(), strict=False):
            _column(part, column, depth, weights)
    return figure


def _grid(part: SubFigure, name: str, rows: int, columns: int) -> np.ndarray:
    part.suptitle(name, fontsize=9, fontweight="bold")
    grid = part.subplots(rows, columns, squeeze=False)
    for axes in grid[:, 1:].flat:
        axes.set_visible(False)  # until something is drawn
    return grid


def _column(part: SubFigure, column: np.ndarray, depth: str, weights: np.ndarray) -> None:
    """Draws maps [rows, h, w] of one depth below each other, on one scale."""
    limits = {"vmin": 0, "vmax": float(np.nanquantile(weights, 0.995))}  # a few peaks hide the rest
    for axes, one in zip(column, weights, strict=True):
        axes.set_visible(True)
        shown = style.show_map(axes, one, cmap=style.ATTENTION, **limits)
        axes.set_facecolor("#dddddd")
        axes.patch.set_visible(True)
    column[0].set_title(depth, pad=3)
    style.scale_bar(
        part,
        shown,
        column.tolist(),
        _LABEL,
        location="bottom",
        shrink=0.85,
        aspect=16,
        extend="max",
    )


def _place(point: Point, sides: Sequence[int], *, snap: bool = False) -> tuple[float, float]:
    """Returns where a place lies in an image of `sides` pixels, or in the middle of its pixel."""
    if snap:
        return tuple(
            float(min(int(at * side), side - 1)) for at, side in zip(point, sides, strict=True)
        )
    return tuple(at * side - 0.5 for at, side in zip(point, sides, strict=True))
