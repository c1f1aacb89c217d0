"""The pages in a real browser: pip install playwright, and Debian's chromium; run with -m browser.

No console message, no request to a network, no dialog; figures drawn, tables sorted, text as text.
"""

import shutil

import pytest

from reports.answer_sections import Choices
from reports.comparison import comparison_page
from reports.page import write
from reports.run_record import read_run
from reports.run_sections import run_page
from reports.sweep_sections import sweep_page
from tests.reports.pages import NASTY
from tests.reports.test_page import nasty_page
from tests.reports.workdirs import write_evaluation, write_run, write_sweep

pytestmark = pytest.mark.browser

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory, nasty_workdir):
    """A page of each kind, and one with HTML in all that a run can name."""
    folder = tmp_path_factory.mktemp("pages")
    runs = []
    for i in range(3):
        name = f"sweep/<b>{i}"
        runs.append(write_run(folder / name, changes={"seed": i}))
        write_evaluation(runs[-1], [(0, 0, 0.9), (1, 1 - i % 2, 0.8), (2, 0, 0.7)], NASTY[:3])
    values = {f"<b>{i}": {"model.name": NASTY[i], "seed": str(i)} for i in range(3)}
    write_sweep(folder / "sweep", values)
    made = {
        "run": run_page(read_run(nasty_workdir), Choices(explain="gradcat")),
        "sweep": sweep_page(folder / "sweep"),
        "comparison": comparison_page((read_run(runs[0]), read_run(runs[1]))),
        "nasty": nasty_page(),
    }
    for name, page in made.items():
        write(page, folder / f"{name}.html")
    return folder


@pytest.fixture
def opened(browser, pages):
    """Opens a page and returns it, with what it said and asked for."""
    contexts = []

    def open_page(name, viewport=DESKTOP, scheme="light"):
        is_phone = viewport is PHONE
        contexts.append(
            browser.new_context(
                viewport=viewport, color_scheme=scheme, has_touch=is_phone, is_mobile=is_phone
            )
        )
        page = contexts[-1].new_page()
        page.said, page.asked = [], []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("dialog", lambda dialog: (page.said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: page.asked.append(request.url))
        page.address = (pages / f"{name}.html").as_uri()
        page.goto(page.address)
        page.wait_for_function(
            "() => [...document.querySelectorAll('.plotly-figure')]"
            ".every((place) => place.querySelector('.main-svg'))"
        )
        page.wait_for_timeout(300)  # the colours follow
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("name", ["run", "sweep", "comparison", "nasty"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_opens_quietly(opened, name, viewport, scheme):
    page = opened(name, viewport, scheme)
    assert page.said == []
    assert [url for url in page.asked if not url.startswith("data:")] == [page.address]
    places = page.locator(".plotly-figure")
    assert places.count() >= {"run": 9, "sweep": 2, "comparison": 8, "nasty": 1}[name]
    for place in places.all():
        box = place.locator(".main-svg").first.bounding_box()
        assert box["width"] > 250 and box["height"] > 150
        assert box["x"] >= 0 and box["x"] + box["width"] <= viewport["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    shown = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert shown == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 28)"}[scheme]
    letters = page.evaluate(
        "[...document.querySelectorAll('.plotly-figure .xtick text')]"
        ".map((text) => getComputedStyle(text).fill)"
    )
    assert set(letters) == {{"light": "rgb(28, 33, 40)", "dark": "rgb(228, 232, 238)"}[scheme]}


def test_names_are_text(opened):
    page = opened("run")
    assert page.locator("main b, main i, main img, nav b, h1 b").count() == 0
    labels = page.locator(".xtick text").all_text_contents()
    assert {name[:21] for name in NASTY if len(name) > 22} <= {label[:21] for label in labels}
    page = opened("nasty")
    joined = " ".join(NASTY)
    assert page.title() == joined
    assert page.locator(".xtitle, .ytitle").all_text_contents() == [joined, joined]
    assert page.locator("h1").inner_text().startswith(NASTY[0])
    links = ".plotly-figure .main-svg a, .plotly-figure image, main a[href^=javascript]"
    assert page.locator(links).count() == 0


def test_zoom(opened):
    page = opened("run")
    place = page.locator(".plotly-figure").first
    place.scroll_into_view_if_needed()
    read = "(place) => place.layout.xaxis.range"
    before = place.evaluate(read)
    box = place.locator(".nsewdrag").bounding_box()
    x, y = box["x"], box["y"] + box["height"] / 2
    page.mouse.move(x + 0.3 * box["width"], y)
    page.mouse.down()
    page.mouse.move(x + 0.7 * box["width"], y, steps=5)
    page.mouse.up()
    page.wait_for_timeout(500)
    after = place.evaluate(read)
    share = (after[1] - after[0]) / (before[1] - before[0])
    assert share == pytest.approx(0.4, abs=0.05)


def test_tables_sort(opened):
    page = opened("run")
    table = page.locator("#classes table").first
    title = table.locator("th button", has_text="images")

    def column():
        cells = table.locator("tbody tr td:nth-child(2)").all_text_contents()
        return [int(text) for text in cells]

    title.click()
    assert column() == sorted(column(), reverse=True) and len(set(column())) > 1
    title.click()
    assert column() == sorted(column())
    name = table.locator("th button", has_text="class").first
    name.click()
    name.click()
    texts = table.locator("tbody tr td:first-child").all_text_contents()
    assert sorted(texts) == sorted(NASTY)


def test_colours_follow_the_system(opened):
    page = opened("sweep")
    read = "getComputedStyle(document.querySelector('.xtick text')).fill"
    light = page.evaluate(read)
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(300)
    assert page.evaluate(read) != light


def test_prints(opened, tmp_path):
    """Dark pages are printed light, and figures fit the paper."""
    page = opened("run", DESKTOP, "dark")
    page.emulate_media(media="print")
    page.wait_for_timeout(500)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    text = page.locator(".plotly-figure .xtick text").first
    assert text.evaluate("(text) => getComputedStyle(text).fill") == "rgb(0, 0, 0)"
    widths = [
        p.locator(".main-svg").first.bounding_box()["width"]
        for p in page.locator(".plotly-figure").all()
    ]
    assert max(widths) <= 660 and page.locator("nav").is_hidden()
    page.emulate_media(media="screen")
    page.wait_for_timeout(500)
    wide = page.locator(".plot.wide .main-svg").first.bounding_box()["width"]
    assert wide > 900
    printed = page.pdf(format="A4", print_background=True)
    assert printed.startswith(b"%PDF") and len(printed) > 50_000
    assert page.said == []
