"""Who attends to whom: words, patches and the class token (TNT paper, figures 5, 6 and 7)."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure, SubFigure

from inference.pictures import style

Maps = Mapping[str, np.ndarray]
Point = tuple[float, float]


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
        for axes, query, one in zip(row, queries, 100 * weights, strict=True):
            limits = {"vmin": 0, "vmax": 100 * weights.max()}
            shown = style.show_map(axes, one, cmap=style.ATTENTION, **limits)
            style.draw_cross(axes, *divmod(query, side))
        style.scale_bar(right, shown, row.tolist(), "weight in %", aspect=14)
    for axes, query in zip(grid[0], queries, strict=True):
        row, column = divmod(query, side)
        axes.set_title(f"word {row}, {column}", pad=3)
    return figure


@style.styled
def draw_patches(
    images: Sequence[np.ndarray], maps: Mapping[str, Maps], queries: Sequence[Point]
) -> Figure:
    """Draws what some patches attend to: a row per query, a column per depth, models in turn.

    Args:
        images: of each model, uint8 [height, width, channels].
        maps: name of a model -> depth in words -> [queries, h, w]; NaN where nothing can be seen.
        queries: places of the patches, (y, x) in fractions of the image.
    """
    repeated = [image[None].repeat(len(queries), axis=0) for image in images]
    figure, shown = _draw("Attention of patches", "query", repeated, maps)
    for axes, sides in shown:
        for one, query in zip(axes, queries, strict=True):
            size = 7 if sides == images[0].shape[:2] else 5
            style.draw_cross(one, *_place(query, sides), size)
    return figure


@style.styled
def draw_class_token(images: Sequence[np.ndarray], maps: Mapping[str, Maps]) -> Figure:
    """Draws what the class token attends to: a row per image, a column per depth, models in turn.

    Args:
        images: of each model, uint8 [b, height, width, channels].
        maps: name of a model -> depth in words -> [b, h, w].
    """
    return _draw("Attention of the class token", "image", images, maps)[0]


def _draw(
    title: str, what: str, images: Sequence[np.ndarray], maps: Mapping[str, Maps]
) -> tuple[Figure, list[tuple[np.ndarray, tuple[int, int]]]]:
    """Returns the figure, and each column's axes with the sides of what they show."""
    same = [other.shape == images[0].shape and (other == images[0]).all() for other in images]
    with_image = [not one or index == 0 for index, one in enumerate(same)]
    counts = [len(one) + first for one, first in zip(maps.values(), with_image, strict=True)]
    side = min(1.5, style.WIDTH / sum(counts) - 0.06)
    rows, aspect = len(images[0]), images[0].shape[1] / images[0].shape[2]
    figure = style.new_figure(rows * (side * aspect + 0.06) + 1.3, title)
    parts = figure.subfigures(1, len(maps), squeeze=False, width_ratios=counts)[0]
    columns = []
    for part, pixels, first, (name, by_depth) in zip(
        parts, images, with_image, maps.items(), strict=True
    ):
        grid = part.subplots(rows, len(by_depth) + first, squeeze=False).T
        part.suptitle(
            style.wrapped(name, style.WIDTH * len(grid) / sum(counts)),
            fontsize=9,
            fontweight="bold",
        )
        if first:
            for axes, image in zip(grid[0], pixels, strict=True):
                style.show_image(axes, image)
            grid[0, 0].set_title(what, pad=3)
            columns.append((grid[0], pixels.shape[1:3]))
        for column, (depth, weights) in zip(grid[first:], by_depth.items(), strict=True):
            _draw_column(part, column, depth, weights)
            columns.append((column, weights.shape[1:]))
    return figure, columns


def _draw_column(part: SubFigure, column: np.ndarray, depth: str, weights: np.ndarray) -> None:
    """Draws maps [rows, h, w] of one depth below each other, on one scale."""
    limits = style.clipped(100 * weights) | {"vmin": 0}
    for axes, one in zip(column, 100 * weights, strict=True):
        shown = style.show_map(axes, one, cmap=style.ATTENTION, **limits)
        axes.set_facecolor("#dddddd")  # where nothing can be seen
        axes.patch.set_visible(True)
    column[0].set_title(depth.replace(", ", ",\n"), pad=3)
    where = {"location": "bottom", "aspect": 12, "shrink": 0.85, "extend": "max"}
    style.scale_bar(part, shown, column.tolist(), "weight in %", **where)


def _place(point: Point, sides: Sequence[int]) -> tuple[int, int]:
    """Returns the pixel, or the token, at a place."""
    row, column = (min(int(at * side), side - 1) for at, side in zip(point, sides, strict=True))
    return row, column
