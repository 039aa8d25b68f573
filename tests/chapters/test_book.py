"""The book: it builds without a warning, and in a browser every page loads, typesets and answers, all from the disk."""

import importlib.util
import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from minidat import ops

CHAPTERS = Path(__file__).resolve().parents[2] / "chapters"


def load(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script():
    for module in ("sphinx", "myst_nb", "furo", "sphinx_copybutton", "jupytext"):
        pytest.importorskip(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(CHAPTERS))  # the script's own folder, as when it is run
        yield load(CHAPTERS / "book.py")


@pytest.fixture(scope="module")
def book(script, tmp_path_factory):
    """The built site."""
    out = tmp_path_factory.mktemp("book") / "html"
    assert script.main(out) == 0
    return out


@pytest.mark.filterwarnings("ignore")  # the site builder's own
def test_every_page_and_every_local_link_is_there(book):
    pages = sorted(book.glob("*.html"))
    assert {file.stem for file in CHAPTERS.glob("src/[0-9]*.py")} | {"index", "notation", "search"} <= {
        page.stem for page in pages
    }
    for page in pages:
        text = page.read_text("utf-8")
        for link in re.findall(r'(?:href|src)="([^"]+)"', text):
            path, _, part = unquote(link).partition("#")
            if path.startswith(("data:", "http:", "https:", "mailto:")):
                continue
            target = page if not path else (page.parent / path.split("?")[0])
            assert target.exists(), f"{page.name} leads to {link}"
            if part and target.suffix == ".html":
                assert f'id="{part}"' in target.read_text("utf-8"), f"{page.name} leads to {link}"


def test_every_picture_has_its_text(book):
    for page in book.glob("[0-9]*.html"):
        pictures = re.findall(r"<img [^>]*_images[^>]*>", page.read_text("utf-8"))
        assert pictures and '<details class="alt">' not in page.read_text("utf-8")
        assert all(len(re.search(r'alt="([^"]*)"', picture)[1]) > 20 for picture in pictures), page.name


def test_solutions_are_folded_under_their_stubs(book):
    text = (book / "06_bilinear_kernel.html").read_text("utf-8")
    assert text.count('<details class="solution">') == 9 == text.count("not attempted yet")
    stub, answer = text.index("your turn"), text.index('<details class="solution">')
    assert stub < answer < text.index("6.1 ✓") and "BEGIN SOLUTION" not in text


@pytest.fixture(scope="module")
def browser():
    chromium = load(Path(__file__).with_name("browser.py"))
    if chromium.executable() is None:
        pytest.skip("no Chromium on this machine")
    with chromium.Browser() as running:
        running.send("Emulation.setDeviceMetricsOverride", width=1100, height=900, deviceScaleFactor=1, mobile=False)
        yield running


def test_in_a_browser_every_page_is_whole(book, browser):
    for page in sorted(book.glob("*.html")):
        browser.open(page.as_uri())
        assert browser.failures() == [], page.name
        outside = [url for url in browser.requests() if not url.startswith(("file:", "data:", "about:", "blob:"))]
        assert outside == [], page.name
        told = browser.run(
            "[document.querySelectorAll('.math').length, document.querySelectorAll('mjx-container').length]"
        )
        assert told[1] >= told[0], f"{page.name}: {told[0]} formulas, {told[1]} typeset"
        wrong = "[...document.querySelectorAll('mjx-container :is([data-mml-node=merror], [fill=red])')].map(e => e.textContent)"
        assert browser.run(wrong) == [], page.name
        broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src)"
        assert browser.run(broken) == [], page.name


def test_in_a_browser_search_finds_a_chapter(book, browser):
    browser.open((book / "search.html").as_uri() + "?q=bilinear")
    browser.until("document.querySelectorAll('#search-results li a').length > 0")
    assert browser.run(
        "[...document.querySelectorAll('#search-results li a')].some(a => a.href.includes('06_bilinear'))"
    )


def test_in_a_browser_an_exercise_is_found_by_its_number(book, browser):
    browser.open((book / "search.html").as_uri() + "?q=6.2")
    browser.until("location.pathname.endsWith('exercises.html') && document.readyState === 'complete'")
    assert browser.run("document.getElementById('exercise-6-2').getAttribute('href')") == (
        "06_bilinear_kernel.html#exercise-6-2"
    )
    browser.open((book / "06_bilinear_kernel.html").as_uri())
    assert browser.run("document.getElementById('exercise-6-2') !== null")


WIDTHS = (360, 768, 1100, 1320, 1380, 1440, 1920)


def test_in_a_browser_pages_fit_every_width(book, browser):
    browser.open((book / "06_bilinear_kernel.html").as_uri())
    try:
        for width in WIDTHS:
            browser.send(
                "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
            )
            assert browser.run("document.documentElement.scrollWidth") <= width, width
            right = browser.run("document.querySelector('.content').getBoundingClientRect().right")
            assert right <= width, f"{width}: the text ends at {right}"
            browser.until(f"{FRAME}.clientHeight >= {FRAME}.contentDocument.body.scrollHeight")
    finally:
        browser.send("Emulation.setDeviceMetricsOverride", width=1100, height=900, deviceScaleFactor=1, mobile=False)


def test_in_a_browser_figures_are_dark_on_dark_pages(book, browser):
    dark = f"{FRAME}.contentDocument.documentElement.classList.contains('dark')"
    browser.open((book / "06_bilinear_kernel.html").as_uri())
    browser.run("document.body.dataset.theme = 'light'")
    browser.until(f"!{dark}")
    browser.run("document.body.dataset.theme = 'dark'")
    browser.until(dark)


def test_in_a_browser_code_can_be_copied_and_pictures_enlarged(book, browser):
    browser.open((book / "06_bilinear_kernel.html").as_uri())
    assert browser.run("document.querySelectorAll('.cell_input button.copybtn').length") > 20
    browser.run("document.querySelector('.cell_output img').click()")
    # but for a scroll bar
    assert browser.run("document.querySelector('img.large').getBoundingClientRect().width") > 1000
    browser.run("document.querySelector('img.large').click()")
    assert browser.run("document.querySelector('img.large')") is None


FRAME = "document.querySelector('iframe.minidat-figure')"


def read(browser, name):
    return browser.run(f"{FRAME}.contentDocument.getElementById('{name}').textContent")


def test_in_a_browser_the_bilinear_figure_answers(book, browser):
    browser.open((book / "06_bilinear_kernel.html").as_uri())
    browser.run(f"{FRAME}.scrollIntoView({{behavior: 'instant', block: 'center'}})")
    assert (read(browser, "at"), read(browser, "value"), read(browser, "slope")) == (
        "(1.40, 1.75)",
        "3.500",
        "(2.50, 2.80)",
    )
    assert read(browser, "weights").split("   ") == ["z[1, 1]: 0.15", "z[1, 2]: 0.45", "z[2, 1]: 0.10", "z[2, 2]: 0.30"]

    place = f"""(() => {{ const frame = {FRAME}, map = frame.contentDocument.getElementById('map');
        const outer = frame.getBoundingClientRect(), inner = map.getBoundingClientRect();
        return [outer.left + inner.left, outer.top + inner.top, inner.width / 9] }})()"""  # 7 pixels, and one more on each side
    left, top, side = browser.run(place)

    def at(row, col):
        return left + (col + 1.5) * side, top + (row + 1.5) * side

    browser.mouse("mousePressed", *at(1.4, 1.75))
    browser.mouse("mouseMoved", *at(2.5, 3.5))
    browser.mouse("mouseReleased", *at(2.5, 3.5))
    row, col = map(float, read(browser, "at").strip("()").split(","))
    assert abs(row - 2.5) < 0.03 and abs(col - 3.5) < 0.03
    assert abs(float(read(browser, "value")) - (9 + 5 + 6 + 4) / 4) < 0.1

    down, right = map(float, read(browser, "slope").strip("()").split(","))
    assert abs(down - (6 + 4 - 9 - 5) / 2) < 0.2 and abs(right - (5 + 4 - 9 - 6) / 2) < 0.2

    before = col
    browser.key("ArrowRight")
    assert 0.02 < float(read(browser, "at").strip("()").split(",")[1]) - before < 0.08
    for _ in range(3):
        browser.mouse("mousePressed", *at(-1.3, 2))
        browser.mouse("mouseReleased", *at(-1.3, 2))
    assert (read(browser, "value"), read(browser, "weights")) == ("0.000", "none: the point is lost")


def inside(browser, expression):
    """The value of an expression in the figure's own frame."""
    return browser.run(f"{FRAME}.contentWindow.eval({expression!r})")


def middle_of(browser, query):
    """Where an element of the figure's frame has its middle, in the window."""
    left, top = browser.run(f"(r => [r.left, r.top])({FRAME}.getBoundingClientRect())")
    box = f"{FRAME}.contentDocument.querySelector({query!r}).getBoundingClientRect()"
    x, y = browser.run(f"(r => [r.left + r.width / 2, r.top + r.height / 2])({box})")
    return left + x, top + y


def show_figure(book, browser, page):
    browser.open((book / page).as_uri())
    browser.run(f"{FRAME}.scrollIntoView({{behavior: 'instant', block: 'center'}})")


def shown_bias(browser):
    """(what the figure says, what the package's op says) of the bias of the key and query that it shows"""
    table, key, query = (inside(browser, name) for name in ("table", "[key.row, key.col]", "[query.row, query.col]"))
    row, col = (np.array([float(n)]) for n in query)
    bias, _ = ops.position_bias.raw(np.array([table]), np.array([[[key]]]), row, col)
    return float(read(browser, "value").replace("−", "-")), float(bias.squeeze())


def test_in_a_browser_the_table_figure_answers(book, browser):
    show_figure(book, browser, "10_position_bias.html")
    seen = [shown_bias(browser)]
    before = inside(browser, "key.col")
    x, y = middle_of(browser, "[data-name=key]")
    browser.mouse("mousePressed", x, y)
    browser.mouse("mouseMoved", x + 30, y + 20)
    browser.mouse("mouseReleased", x + 30, y + 20)
    assert inside(browser, "key.col") > before + 0.3
    seen.append(shown_bias(browser))
    browser.key("ArrowLeft")
    seen.append(shown_bias(browser))
    assert len({told for told, _ in seen}) == 3
    for told, expected in seen:
        assert abs(told - expected) < 1e-3


def test_in_a_browser_a_query_under_the_pointer_shows_its_keys(book, browser):
    show_figure(book, browser, "14_looking_inside.html")
    x, y = middle_of(browser, "#map")
    told = []
    for away in (0, 60):
        browser.mouse("mouseMoved", x + away, y + away)
        told.append((inside(browser, "[...query]"), read(browser, "at"), read(browser, "most")))
        sizes = inside(browser, "[...document.querySelectorAll('#keys circle')].map(c => +c.getAttribute('r'))")
        assert len(set(sizes)) > 3
    (first, at, most), (second, later_at, later_most) = told
    assert second[0] > first[0] and second[1] > first[1]
    assert at != later_at and most != later_most
    browser.run(f"{FRAME}.contentDocument.getElementById('map').focus()")
    browser.key("ArrowUp")
    assert inside(browser, "query[0]") == second[0] - 1
