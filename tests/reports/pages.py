"""A page read back without a browser: its tags, its scripts and the figures in it."""

import json
from html.parser import HTMLParser

VOID = {"meta", "link", "image", "rect", "input", "br", "img"}
NASTY = (
    "<script>alert(1)</script>",
    '</script><img src=x onerror="alert(2)">',
    "<b>bold</b> & <a href='javascript:alert(3)'>link</a>",
    "]]>--><!-- %{x} {{ 7 * 7 }}",
)


class ParsedPage(HTMLParser):
    """Tags with their attributes, texts, and the contents of scripts, of a page."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.texts, self.scripts, self.open = [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
            if tag == "script":
                self.scripts.append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (tag, self.open[-3:], self.getpos())
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    @property
    def figures(self):
        kinds = [attributes.get("type") for tag, attributes in self.tags if tag == "script"]
        texts = zip(kinds, self.scripts, strict=True)
        return [json.loads(text) for kind, text in texts if kind == "application/json"]

    @property
    def sections(self):
        return [attributes["id"] for tag, attributes in self.tags if tag == "section"]


def check_self_contained(html):
    """Returns the parsed page after looking for all that would need another file or a network."""
    page = ParsedPage(html)
    assert page.open == []
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert tag not in ("iframe", "object", "embed", "base", "form"), tag
        for name in ("src", "srcset", "action", "data", "poster"):
            assert name not in attributes, (tag, attributes)
        link = attributes.get("href")
        if link is not None:
            is_own = link.startswith(("#", "data:image/png;base64,", "./")) or link == "data:,"
            assert is_own, (tag, link)
    code = [script for script in page.scripts if not script.startswith('{"data"')]
    with_plotly = [script for script in code if len(script) > 1e6]
    assert len(with_plotly) == (1 if page.figures else 0), "plotly.js is embedded once"
    assert len(code) == len(with_plotly) + 1
    style = html.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style

    def no_constant(name):
        raise AssertionError(f"{name} is not JSON")

    for script in page.scripts:
        if script.startswith('{"data"'):
            json.loads(script, parse_constant=no_constant)
            assert "<" not in script
    return page
