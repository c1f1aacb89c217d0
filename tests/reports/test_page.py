"""A page is one valid file, in which all that comes from a run is text."""

import math

import numpy as np
import plotly.graph_objects as go
import pytest

from harness.errors import ConfigError
from reports import page
from reports.curves import MOST_POINTS, new_figure, thinned
from reports.page import (
    Cell,
    Figure,
    Image,
    Page,
    Picture,
    Pictures,
    Section,
    Table,
    Text,
    Tile,
    Tiles,
    data_uri,
    metric,
    number,
    percent,
    plain,
    render,
)
from tests.reports.pages import NASTY, check_self_contained


def nasty_page():
    """A page with tags in everything that a run can name."""
    joined = " ".join(NASTY)
    figure = new_figure(joined, joined)
    figure.add_scatter(x=[0, 1, 2], y=[1.0, math.nan, math.inf], name=plain(joined))
    image = Image(data_uri(np.zeros((4, 6, 1), np.uint8)), joined, [(0, 0, 2, 3, '"/><b>')])
    blocks = [
        *(Text(joined, kind) for kind in ("plain", "note", "code")),
        Tiles([Tile(joined, joined, joined)]),
        Table([joined], [[Cell(joined, link="./a%3Cb"), Cell(joined, 1.0)]], joined),
        Table([joined], [[Cell(joined, kind="done")]], joined, folded=True),
        Figure(figure, joined),
        Pictures([Picture([image], (4, 6), [joined, joined], joined)]),
    ]
    return Page(joined, joined, "done", [Section(joined, blocks), Section("empty", [])], joined)


def test_everything_is_text():
    html = render(nasty_page())
    parsed = check_self_contained(html)
    joined = " ".join(NASTY)
    tags = {tag for tag, _ in parsed.tags}
    assert tags.isdisjoint({"b", "img"}) and "49" not in parsed.text
    # Title, heading, section, texts, tiles, tables, captions: each as it is.
    assert parsed.text.count(joined) >= 18
    (figure,) = parsed.figures
    assert figure["data"][0]["y"] == [1.0, None, None]
    for text in (figure["data"][0]["name"], figure["layout"]["xaxis"]["title"]["text"]):
        assert "<" not in text and "&lt;script&gt;" in text
    assert "empty" not in parsed.sections


def test_a_page_without_figures_is_small():
    html = render(Page("a", "b", "", [Section("Text", [Text("words")])]))
    assert len(html) < 20_000
    check_self_contained(html)


def test_plotly_shows_text_as_it_is():
    assert plain("a & <b>b</b>\nc") == "a &amp; &lt;b&gt;b&lt;/b&gt; c"


def test_arrays_in_figures_are_json():
    """Those of NumPy are written in base64, in which no tag can begin."""
    figure = go.Figure(layout={"template": {}})
    figure.add_scatter(y=np.array([1.0, np.nan]), text=["</script>"])
    text = page.figure_json(figure)
    assert "<" not in text and "NaN" not in text


def test_numbers_as_one_reads_them():
    assert [number(x) for x in (None, 1234567, 0.01234, 1e-5, 12.0, 0.5, math.nan)] == [
        *("–", "1,234,567", "0.01234", "1e-05", "12", "0.5", "nan")
    ]
    assert percent(0.98765) == "98.77 %" and percent(None) == "–"
    assert metric("ema_top1_accuracy", 0.5) == "50.00 %" and metric("loss", 0.5) == "0.5"


def test_long_curves_keep_their_ends_and_peaks():
    points = [(float(x), math.sin(x / 50)) for x in range(100_000)]
    points[12_345] = (12_345.0, 9.0)
    points[54_321] = (54_321.0, math.nan)
    points[99_000] = (99_000.0, -9.0)
    kept = thinned(points)
    assert len(kept) <= 1.1 * MOST_POINTS and kept == sorted(kept)
    assert {points[0], points[-1], points[12_345], points[99_000]} <= set(kept)
    assert any(math.isnan(y) for _, y in kept)
    assert thinned(points[:100]) == points[:100]


def test_without_the_packages(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    page._environment.cache_clear()
    with pytest.raises(ConfigError, match="pip install -r requirements.txt"):
        render(Page("a", "b", "", []))
    page._environment.cache_clear()
