"""GradCAT's way down the tree of blocks (NesT paper, section "Interpretability")."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from inference.pictures import style

QUADRANTS = ("above left", "above right", "below left", "below right")


def step_colour(step: int) -> str:
    """Returns the colour of a step, 0 at the top."""
    return style.COLOURS[step % len(style.COLOURS)]


@style.styled
def draw(
    images: np.ndarray,
    scores: np.ndarray,
    path: np.ndarray,
    boxes: np.ndarray,
    names: Sequence[str],
    model: str,
) -> Figure:
    """Draws a row per image: the blocks chosen, the scores of each step, the tree with its path.

    Args:
        images: uint8 [b, height, width, channels].
        scores: [b, steps, 2, 2], the top level's first.
        path: [b, steps], the quadrant that each step chooses.
        boxes: [b, steps, 4]: (top, left, bottom, right) in pixels of each choice.
        names: of the classes.
        model: its name.
    """
    steps = path.shape[1]
    aspect = images.shape[1] / images.shape[2]
    widths = [1.5, *(1.0,) * steps, 1.9]
    unit = style.WIDTH / sum(widths)
    tree = 1.9 * unit / 4.8 * (aspect + steps * (aspect + 0.5) + 0.2)  # see _draw_tree
    row_height = max(1.5 * unit * aspect, tree) + 0.25
    figure = style.new_figure(len(images) * row_height + 0.95, f"GradCAT in {model}")
    grid = figure.subplots(len(images), 2 + steps, squeeze=False, width_ratios=widths)
    for row, image, score, chosen, box, name in zip(
        grid, images, scores, path, boxes, names, strict=True
    ):
        style.show_image(row[0], image, style.wrapped(name, widths[0] * unit))
        _draw_boxes(row[0], box)
        for step in range(steps):
            _draw_scores(row[1 + step], score[step], chosen[step], step, aspect)
        _draw_tree(row[-1], image, chosen, box)
    for step in range(steps):
        grid[0, 1 + step].set_title(_step_name(step, steps), pad=3)
    grid[0, -1].set_title("tree of blocks", pad=3)
    shown = ScalarMappable(Normalize(-1, 1), style.DIVERGING)
    label = "score of a quadrant, in units of the largest of its step"
    style.scale_bar(
        figure, shown, grid[:, 1:-1].ravel().tolist(), label, location="bottom", shrink=0.9
    )
    return figure


@style.styled
def draw_mosaic(
    image: np.ndarray,
    boxes: np.ndarray,
    names: Sequence[str],
    model: str,
    own: Sequence[int | None],
) -> Figure:
    """Draws an image of several objects, and the path of each class in a copy of it.

    Args:
        image: uint8 [height, width, channels].
        boxes: [classes, steps, 4]: (top, left, bottom, right) in pixels of each choice.
        names: of the classes.
        model: its name.
        own: quadrant that each class lies in; None: not known.
    """
    columns = min(5, 1 + len(names))
    rows = -(-(1 + len(names)) // columns)
    height, width = image.shape[:2]
    side = style.WIDTH / columns
    figure = style.new_figure(
        rows * (side * height / width + 0.2) + 0.6, f"GradCAT of each class in {model}"
    )
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[1 + len(names) :]:
        axes.set_axis_off()
    style.show_image(grid.flat[0], image, "image")
    grid.flat[0].axhline(height / 2 - 0.5, color="white", linewidth=1)
    grid.flat[0].axvline(width / 2 - 0.5, color="white", linewidth=1)
    for axes, way, name, quadrant in zip(grid.flat[1:], boxes, names, own, strict=False):
        style.show_image(axes, image, style.wrapped(name, side))
        if quadrant is not None:
            _shade_others(axes, quadrant, height, width)
        _draw_boxes(axes, way)
    steps = boxes.shape[1]
    lines = [
        Line2D([], [], color=step_colour(step), linewidth=2, label=_step_name(step, steps))
        for step in range(steps)
    ]
    if any(quadrant is not None for quadrant in own):
        lines.append(Rectangle((0, 0), 1, 1, color="#888888", label="not the class's quadrant"))
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False)
    return figure


def _step_name(step: int, steps: int) -> str:
    """Returns the number of a step, and the level whose map and gradient it uses."""
    return f"step {step + 1}: level {steps + 1 - step}"


def _draw_boxes(axes: Axes, boxes: np.ndarray) -> None:
    for step, box in enumerate(boxes):
        style.draw_box(axes, box, step_colour(step), width=2.2 - 0.3 * step, zorder=3 + step)


def _shade_others(axes: Axes, quadrant: int, height: int, width: int) -> None:
    """Darkens the three quadrants that do not hold the class."""
    for other in set(range(4)) - {quadrant}:
        row, column = divmod(other, 2)
        corner = (column * width / 2 - 0.5, row * height / 2 - 0.5)
        axes.add_patch(Rectangle(corner, width / 2, height / 2, color="#888888", alpha=0.7, lw=0))


def _draw_scores(axes: Axes, score: np.ndarray, chosen: int, step: int, aspect: float) -> None:
    """Draws 2 x 2 scores in units of the largest, and frames the one chosen."""
    largest = float(np.abs(score).max()) or 1.0
    style.show_map(axes, score / largest, cmap=style.DIVERGING, vmin=-1, vmax=1)
    axes.set_aspect(aspect)
    for row, column in np.ndindex(2, 2):
        value = score[row, column]
        colour = "white" if abs(value) > 0.55 * largest else "black"
        text = style.number(value / largest, 2)
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_xlabel(f"1 is {style.number(largest, 2)}")
    row, column = divmod(int(chosen), 2)
    style.draw_box(axes, (row, column, row + 1, column + 1), step_colour(step), width=2.2)


def _draw_tree(axes: Axes, image: np.ndarray, path: np.ndarray, boxes: np.ndarray) -> None:
    """Draws the blocks along the path as small pictures, each above its four parts."""
    height, width = image.shape[:2]
    aspect = height / width
    down = aspect + 0.5  # from one row of blocks to the next, in widths of a block
    shown = image.repeat(3, axis=-1) if image.shape[-1] == 1 else image

    def picture(box, x, y):
        top, left, bottom, right = box
        extent = (x - 0.5, x + 0.5, y + aspect / 2, y - aspect / 2)
        axes.imshow(shown[top:bottom, left:right], extent=extent, aspect="equal", zorder=2)

    def frame(x, y, colour, line):
        corner = (x - 0.5, y - aspect / 2)
        axes.add_patch(
            Rectangle(corner, 1, aspect, fill=False, ec=colour, lw=line, zorder=4, clip_on=False)
        )

    parent, x, y = (0, 0, height, width), 1.8, 0.0
    picture(parent, x, y)
    for step, (quadrant, box) in enumerate(zip(path, boxes, strict=True)):
        top, left, bottom, right = parent
        middle = ((top + bottom) // 2, (left + right) // 2)
        chosen_x = 0.0
        for child in range(4):
            row, column = divmod(child, 2)
            part = (
                *((top, middle[0])[row], (left, middle[1])[column]),
                *((middle[0], bottom)[row], (middle[1], right)[column]),
            )
            at = 1.2 * child
            picture(part, at, y + down)
            is_chosen = child == quadrant
            colour, line = (step_colour(step), 2) if is_chosen else ("#999999", 0.6)
            ends = [y + aspect / 2, y + down - aspect / 2]
            axes.plot([x, at], ends, color=colour, linewidth=line, zorder=1 + is_chosen)
            frame(at, y + down, colour, line)
            chosen_x = at if is_chosen else chosen_x
        parent, x, y = tuple(box), chosen_x, y + down
    axes.set_xlim(-0.6, 4.2)
    axes.set_ylim(y + aspect / 2 + 0.1, -aspect / 2 - 0.1)
    style.bare(axes)
