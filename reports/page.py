"""A page of sections, and how it becomes one HTML file that needs nothing else.

Everything that comes from a run is text: Jinja2 escapes it in HTML, `figure_json` in what plotly
reads, and `plain` in what plotly shows, where some tags would count.
"""

import base64
import dataclasses
import functools
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import ConfigError, printable
from harness.files import write_text
from workdirs.records import write_record

TEMPLATES = Path(__file__).parent / "templates"
INSTALL = "reports need jinja2 and plotly: pip install -r requirements.txt"


@dataclasses.dataclass(frozen=True)
class Text:
    """A sentence or two. `kind` is "plain", "note" for what is missing, or "code" for a command."""

    text: str
    kind: str = "plain"


@dataclasses.dataclass(frozen=True)
class Tile:
    """A number to see at a glance, with a word on what it is and perhaps a line below it."""

    title: str
    value: str
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Numbers side by side."""

    tiles: Sequence[Tile]


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: shown.
        value: number to sort by, shown to the right; None: sorted as text.
        link: path relative to the page, "" for none.
        kind: "" or the name of a status, which colours it.
    """

    text: str
    value: float | None = None
    link: str = ""
    kind: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table whose columns sort when their titles are clicked; `folded` shows it on demand.

    One that is not wide stands next to the figure before it.
    """

    titles: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    folded: bool = False
    is_wide: bool = True


@dataclasses.dataclass(frozen=True)
class Figure:
    """A plotly figure, and what it shows in words. `is_wide` takes the width of the page."""

    figure: Any
    title: str
    is_wide: bool = False
    height: int = 300


@dataclasses.dataclass(frozen=True)
class Image:
    """An image, as a data URI, what it is, and (top, left, bottom, right, colour) drawn into it."""

    uri: str
    title: str = ""
    boxes: Sequence[tuple[float, float, float, float, str]] = ()


@dataclasses.dataclass(frozen=True)
class Picture:
    """Images of one size side by side, with lines below them.

    Attributes:
        images: from left to right.
        size: height and width of each in pixels.
        lines: below them, the first in bold.
        hint: shown when pointed at.
        is_large: shown as wide as the page allows.
    """

    images: Sequence[Image]
    size: tuple[int, int]
    lines: Sequence[str]
    hint: str = ""
    is_large: bool = False


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures side by side."""

    pictures: Sequence[Picture]


Block = Text | Tiles | Table | Figure | Pictures


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a page."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        """Name to link to within the page."""
        return re.sub("[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclasses.dataclass(frozen=True)
class Page:
    """What a report says.

    Attributes:
        title: names the run or the sweep.
        subtitle: what it is, in a line.
        status: a word, shown in colour.
        sections: in order; those without blocks are left out.
        made: when and of what, at the end of the page.
    """

    title: str
    subtitle: str
    status: str
    sections: Sequence[Section]
    made: str = ""


def plain(text: str) -> str:
    """Returns text that plotly shows as it is: tags such as <b> and <a href> would count."""
    text = printable(text).replace("&", "&amp;")
    return text.replace("<", "&lt;").replace(">", "&gt;")


def figure_json(figure: Any) -> str:
    """Returns a plotly figure as JSON that may stand in a <script>; NaN is null."""
    text = figure.to_json(engine="json")
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def data_uri(image: np.ndarray) -> str:
    """Returns uint8 [h, w, 1 or 3] as a PNG in a URI."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


@functools.cache
def _environment():
    try:
        import jinja2
    except ImportError:
        raise ConfigError(INSTALL) from None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["figure_json"] = lambda figure: jinja2.utils.markupsafe.Markup(
        figure_json(figure)
    )
    environment.globals["kind_of"] = lambda block: type(block).__name__
    return environment


def render(page: Page) -> str:
    """Returns the page as HTML; plotly.js is in it once, if there is a figure."""
    sections = [section for section in page.sections if section.blocks]
    has_figures = any(isinstance(block, Figure) for s in sections for block in s.blocks)
    plotly_script = ""
    if has_figures:
        from plotly.offline import get_plotlyjs

        plotly_script = get_plotlyjs()
    return (
        _environment()
        .get_template("page.html")
        .render(
            page=dataclasses.replace(page, title=printable(page.title)),
            sections=sections,
            plotly_script=plotly_script,
        )
    )


def write(page: Page, path: Path) -> None:
    """Writes the page as one file, in a workdir with its checksum."""
    write = write_record if (path.parent / "config.json").is_file() else write_text
    write(path, render(page))


def as_cell(value: Any) -> Cell:
    """Returns a value of a config or a metric as a cell."""
    if isinstance(value, bool) or value is None:
        return Cell(str(value))
    if isinstance(value, int | float):
        return Cell(number(value), value)
    return Cell(value if isinstance(value, str) else json.dumps(value))


def number(value: float | None, digits: int = 4) -> str:
    """Returns a number for a table: 1,234,567, 0.0123, 1.2e-05; "–" for None."""
    if value is None:
        return "–"
    if isinstance(value, int) or (abs(value) < 1e15 and value == int(value) and abs(value) >= 10):
        return f"{int(value):,}"
    return f"{value:.{digits}g}"


def percent(value: float | None, digits: int = 2) -> str:
    """Returns a share in percent; "–" for None."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def metric(name: str, value: float | None) -> str:
    """Returns a metric as a person reads it: shares in percent."""
    is_share = re.search("accuracy|recall|precision|classes_named|f1$", name)
    return percent(value) if is_share else number(value)
