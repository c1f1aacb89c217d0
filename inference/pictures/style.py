"""One look for all pictures: sizes, fonts, colours, scale bars, and writing them.

Sizes are for print: a figure is as wide as a page's text, and its letters can be read at half size.
All maps of colours can be told apart by the colour-blind and still mean something in grey.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, FigureBase
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator

from harness.errors import printable
from harness.files import replacing

WIDTH = 7.0  # inches: the text of a page
SUFFIXES = (".png", ".svg")
SEQUENTIAL = "viridis"  # from little to much
ATTENTION = "cividis"  # weights, which begin at 0
DIVERGING = "RdBu_r"  # where 0 matters: white
# Okabe and Ito's colours, for the steps of a path and for groups of points.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2")
CROSS = "#FF3B30"
RELATIVE = ("least", "largest")  # ends of a scale whose numbers differ from map to map

_SETTINGS = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "figure.titlesize": 10,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "image.interpolation": "nearest",
    "svg.fonttype": "none",  # letters stay letters: they can be searched and edited
    "svg.hashsalt": "pictures",  # the same picture is the same file
    "text.parse_math": False,  # names of classes and files are no formulas
}
styled = matplotlib.rc_context(_SETTINGS)  # a decorator


def new_figure(height: float, title: str) -> Figure:
    """Returns an empty figure as wide as a page's text; `height` is in inches."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)  # the object interface: pyplot would keep state, and may open a window
    figure.suptitle(wrapped(title, WIDTH))
    return figure


def wrapped(text: str, width: float) -> str:
    """Breaks a title, such as a long name of a class, into lines of `width` inches."""
    return textwrap.fill(printable(text), max(8, int(width / 0.085)))


def show_image(axes: Axes, image: np.ndarray, title: str = "") -> None:
    """Shows uint8 [h, w, 1 or 3] without axes."""
    image = image.repeat(3, axis=-1) if image.shape[-1] == 1 else image
    axes.imshow(image)
    bare(axes, title)


def show_map(
    axes: Axes, values: np.ndarray, title: str = "", *, cmap: str = SEQUENTIAL, **limits
) -> AxesImage:
    """Shows [h, w] in colours without axes; NaN stays blank. `limits`: vmin and vmax, or norm."""
    shown = axes.imshow(values, cmap=cmap, **limits)
    bare(axes, title)
    return shown


def number(value: float, digits: int = 3) -> str:
    """Returns a number as briefly as so many digits allow, with a true minus sign."""
    return f"{value:.{digits}g}".replace("-", "\N{MINUS SIGN}")


def bare(axes: Axes, title: str = "") -> None:
    """Takes ticks and frame away."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_anchor("N")  # a row's pictures begin at one height
    if title:
        axes.set_title(title, pad=3)


def scale_bar(
    figure: FigureBase,
    shown: ScalarMappable,
    axes: Axes | Sequence[Axes],
    label: str,
    *,
    ends: tuple[str, str] | None = None,
    **where,
) -> Colorbar:
    """Adds the scale of `shown` beside `axes`.

    Args:
        figure: that the axes are in.
        shown: what the colours are of.
        axes: that the colours are in.
        label: what is measured, with its unit.
        ends: words for both ends, where maps are scaled each on its own.
        **where: location, shrink, aspect and so on, as for `Figure.colorbar`.
    """
    where = {"pad": 0.02, "aspect": 30, "panchor": False} | where
    bar = figure.colorbar(shown, ax=axes, **where)
    bar.outline.set_linewidth(0.4)
    bar.set_label(label)
    if ends:
        bar.set_ticks([shown.norm.vmin, shown.norm.vmax], labels=ends)
    else:
        bar.locator = MaxNLocator(3, steps=[1, 2, 5, 10])
        bar.formatter = FuncFormatter(lambda value, _: number(value))
        bar.update_ticks()
    return bar


def relative_scale(cmap: str = SEQUENTIAL) -> ScalarMappable:
    """Returns the scale of maps that are each moved to 0..1, see `to_unit`."""
    return ScalarMappable(Normalize(0, 1), cmap)


def to_unit(maps: np.ndarray) -> np.ndarray:
    """Moves each map of [..., h, w] to 0..1; one that is the same everywhere becomes 0."""
    low, high = (f(maps, axis=(-2, -1), keepdims=True) for f in (np.min, np.max))
    return (maps - low) / np.where(high > low, high - low, 1)


def tile(maps: np.ndarray, columns: int) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Lays maps out in rows, with blank gaps in proportion to them: one picture.

    Args:
        maps: [n, h, w] or [n, h, w, channels].
        columns: maps per row; the last row may be shorter.

    Returns:
        The sheet, in which every value may be several pixels, and where the rows and the columns of
        maps have their centres.
    """
    factor = -(-16 // max(maps.shape[1:3]))
    maps = maps.repeat(factor, axis=1).repeat(factor, axis=2)
    count, height, width = maps.shape[:3]
    gap = max(1, round(max(height, width) / 10))
    rows = -(-count // columns)
    sides = (rows * (height + gap) - gap, columns * (width + gap) - gap)
    sheet = np.full((*sides, *maps.shape[3:]), np.nan, np.float32)
    for index, one in enumerate(maps):
        row, column = divmod(index, columns)
        top, left = row * (height + gap), column * (width + gap)
        sheet[top : top + height, left : left + width] = one
    centres = (
        np.arange(number) * (side + gap) + (side - 1) / 2
        for number, side in ((rows, height), (columns, width))
    )
    return sheet, tuple(centres)


def draw_box(axes: Axes, box: Sequence[float], colour: str, width: float = 2, **style) -> None:
    """Frames (top, left, bottom, right), pixels with exclusive ends, visible on any ground."""
    top, left, bottom, right = (side - 0.5 for side in box)
    frame = Rectangle(
        (left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=width
    )
    frame.set(path_effects=[withStroke(linewidth=width + 1.4, foreground="white")], **style)
    frame.set_clip_on(False)  # frames along the image's edge keep their width
    axes.add_patch(frame)


def draw_cross(axes: Axes, y: float, x: float, size: float = 7) -> None:
    """Marks a place with a red cross of `size` points."""
    line = 0.25 * size
    (cross,) = axes.plot(x, y, "x", color=CROSS, markersize=size, markeredgewidth=line)
    cross.set(path_effects=[withStroke(linewidth=line + 1, foreground="white")], clip_on=False)


def row_label(axes: Axes, text: str) -> None:
    """Writes what a row is to the left of its first picture, in lines at its commas."""
    axes.set_ylabel(printable(text).replace(", ", ",\n"), labelpad=4)


def clipped(values: np.ndarray) -> dict[str, float]:
    """Returns limits of a scale that a few outliers do not stretch."""
    low, high = np.nanquantile(values, [0.005, 0.995])
    return {"vmin": float(low), "vmax": float(high)}


@styled
def save(figure: Figure, path: Path) -> None:
    """Writes a figure; the suffix, one of SUFFIXES, says how."""
    kind = path.suffix.removeprefix(".")
    metadata = {"Date": None} if kind == "svg" else {}  # the same picture is the same file
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=200, format=kind, metadata=metadata)
