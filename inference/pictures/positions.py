"""How alike the position embeddings of two places are, at each level."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from inference.pictures import style

MOST = 7  # queries per side


def similarity(plane: np.ndarray) -> tuple[np.ndarray, list[int], list[int]]:
    """Compares the embeddings of evenly spread queries with those of all positions.

    Args:
        plane: [h, w, c].

    Returns:
        Cosines [rows * columns, h, w], and the rows and columns of the queries.
    """
    h, w, _ = plane.shape
    rows, columns = (
        np.unique(((np.arange(n) + 0.5) * side / n).astype(int)).tolist()
        for side, n in ((side, min(side, MOST)) for side in (h, w))
    )
    unit = plane / np.maximum(np.linalg.norm(plane, axis=-1, keepdims=True), 1e-12)
    queries = unit[np.ix_(rows, columns)].reshape(-1, plane.shape[-1])
    return np.einsum("qc,hwc->qhw", queries, unit), rows, columns


@style.styled
def draw(planes: Mapping[str, np.ndarray], name: str) -> Figure:
    """Draws one sheet per table; a sheet has one small map per query, laid out as the queries are.

    Args:
        planes: name of a table -> [h, w, c].
        name: of the model.
    """
    columns = min(3, max(2, len(planes)))
    rows = -(-len(planes) // columns)
    aspect = max(plane.shape[0] / plane.shape[1] for plane in planes.values())
    height = rows * (style.WIDTH / columns * aspect * 0.92 + 0.5) + 0.8
    figure = style.new_figure(height, f"Similarity of position embeddings in {name}")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(planes) :]:
        axes.set_axis_off()
    for axes, (title, plane) in zip(grid.flat, planes.items(), strict=False):
        maps, at_rows, at_columns = similarity(plane)
        h, w, _ = plane.shape
        sheet, (y, x) = style.tile(maps, len(at_columns))
        shown = style.show_map(
            axes, sheet, f"{title}, {h} x {w}", cmap=style.DIVERGING, vmin=-1, vmax=1
        )
        axes.set_xticks(x, at_columns)
        axes.set_yticks(y, at_rows)
        axes.tick_params(length=0)
        axes.set_xlabel("column of the query")
        if axes in grid[:, 0]:
            axes.set_ylabel("row of the query")
    style.scale_bar(
        figure, shown, grid.ravel().tolist(), "cosine with the query", location="bottom", shrink=0.4
    )
    return figure
