"""The HTML page with rows in a real browser: what a person does in it, and what nothing in it may.

Without a browser these tests are skipped, and say so.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moderate.cli.main import run
from moderate.text import printable
from moderate.types import CATEGORIES
from tests.support.browser import MISSING, Browser, browsing, find_browser
from tests.support.scored import write_results

pytestmark = pytest.mark.skipif(find_browser() is None, reason=MISSING)

COUNT = 120
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    "<!--<script>",
    "\"'`><svg/onload=alert(3)>",
    "two\nlines\r",
    "\x1b[31mred\x1b[0m\x07\x9b1A",
    "right\u202egnp.exe\u2066\u200f",
    "שלום-العربية.png",
    "\u2028\u2029\x00\x85",
    "${alert(4)}{{5*5}}",
    "javascript:alert(5)",
    "__proto__",
    "constructor",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser")) as found:
        found.emulate()
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COUNT scored images, 0 the mildest for nudity and the worst for violence, and ten errors."""
    folder = tmp_path_factory.mktemp("page")
    rising = np.linspace(0, 0.99, COUNT, dtype=np.float32)
    # The violent ones do not reach what would make an image nude.
    scores = {CATEGORIES[0]: rising, CATEGORIES[3]: 0.4 - rising * 0.4}
    results = write_results(folder / "r.jsonl", scores, errors=10)
    assert run(["report", str(results), "--out", str(folder / "x.html")]) == 0
    return folder / "x.html"


@pytest.fixture
def opened(browser: Browser, page: Path) -> Browser:
    browser.open(page)
    return browser


def names(browser: Browser) -> list[str]:
    """The paths that the page of rows shows."""
    found: list[str] = browser.run(
        "Array.from(document.querySelectorAll('#body button.name'), (each) => each.textContent)"
    )
    return found


def text(browser: Browser, name: str) -> str:
    return str(browser.run(f"document.getElementById('{name}').textContent"))


def choose(browser: Browser, name: str, value: str) -> None:
    browser.run(
        f"document.getElementById('{name}').value = {json.dumps(value)};"
        f"document.getElementById('{name}').dispatchEvent(new Event('change'))"
    )
    assert browser.run(f"document.getElementById('{name}').value") == value


def active(browser: Browser) -> str:
    return str(browser.run("document.activeElement.textContent"))


def test_the_most_severe_come_first_page_by_page(opened: Browser) -> None:
    assert names(opened) == [f"./{COUNT - 1 - n}.jpg" for n in range(50)]
    assert text(opened, "count") == "Rows 1 to 50 of 130"
    assert text(opened, "page") == "page 1 of 3"
    opened.run("document.getElementById('last').click()")
    assert text(opened, "count") == "Rows 101 to 130 of 130"
    assert opened.run("document.getElementById('next').disabled")
    choose(opened, "size", "1000")
    assert len(names(opened)) == 130
    assert opened.complaints() == []
    assert opened.requests() == []


def test_filters_narrow_the_rows_down(opened: Browser) -> None:
    choose(opened, "decision", "block")
    blocked = [f"./{n}.jpg" for n in reversed(range(COUNT)) if n * 0.99 / (COUNT - 1) >= 0.85]
    assert names(opened) == blocked
    some = len(blocked)
    assert text(opened, "count") == f"Rows 1 to {some} of {some} (130 without filters)"
    choose(opened, "category", "violence")
    assert text(opened, "count") == "No row fits the filters (130 without filters)"
    choose(opened, "decision", "")
    violent = [n for n in range(COUNT) if 0.4 - n * 0.99 / (COUNT - 1) * 0.4 >= 0.3]
    assert sorted(names(opened)) == sorted(f"./{n}.jpg" for n in violent)
    opened.run("document.querySelector('#filters [type=reset]').click()")
    opened.wait_for("document.getElementById('count').textContent === 'Rows 1 to 50 of 130'")
    choose(opened, "error", "=truncated")
    assert names(opened) == [f"./bad-{n}.jpg" for n in range(10)]
    choose(opened, "error", "none")
    assert text(opened, "count") == "Rows 1 to 50 of 120 (130 without filters)"
    options = opened.run(
        "Array.from(document.getElementById('error').options, (each) => each.textContent)"
    )
    assert options == ["all rows", "none (120)", "any (10)", "truncated (10)"]


def test_rows_are_sorted_by_names_order_and_scores(opened: Browser) -> None:
    choose(opened, "sort", "path")
    assert names(opened) == sorted([*(f"./{n}.jpg" for n in range(COUNT)),
                                    *(f"./bad-{n}.jpg" for n in range(10))])[:50]  # fmt: skip
    choose(opened, "sort", "number")
    assert names(opened) == [f"./{n}.jpg" for n in range(50)]
    opened.run("document.querySelector('[data-sort=violence] button').click()")
    assert names(opened)[:2] == ["./0.jpg", "./1.jpg"]
    head = "document.querySelector('[data-sort=violence]').getAttribute('aria-sort')"
    assert opened.run(head) == "descending"
    opened.run("document.getElementById('last').click()")
    assert names(opened)[-1].startswith("./bad-")  # without scores: last


def test_a_search_takes_all_its_words(opened: Browser) -> None:
    opened.press("/")
    assert opened.run("document.activeElement.id") == "text"
    opened.press(*"0.91 NUDITY bloc")
    rising = np.linspace(0, 0.99, COUNT, dtype=np.float32)
    fitting = [f"./{n}.jpg" for n, score in enumerate(rising) if f"{score:.2f}" == "0.91"]
    some = f"Rows 1 to {len(fitting)} of {len(fitting)} (130 without filters)"
    opened.wait_for(f"document.getElementById('count').textContent === {json.dumps(some)}")
    assert sorted(names(opened)) == sorted(fitting) != []
    opened.press("Escape")
    assert text(opened, "count") == "Rows 1 to 50 of 130"
    opened.press(*"bad-7", "Enter")
    assert names(opened) == ["./bad-7.jpg"]
    assert active(opened) == "./bad-7.jpg"


def test_the_keyboard_suffices(opened: Browser) -> None:
    opened.press("j")
    assert active(opened) == "./119.jpg"
    opened.press("j", "ArrowDown")
    assert active(opened) == "./117.jpg"
    opened.press("k")
    assert active(opened) == "./118.jpg"
    opened.press("Enter")
    details = opened.run("document.querySelector('tr.more').textContent")
    assert "nudity 0.98 >= block 0.85" in details
    assert "review from 0.3, block from 0.85" in details
    assert "row119" in details
    assert opened.run("document.activeElement.getAttribute('aria-expanded')") == "true"
    opened.press("Enter")
    assert opened.run("document.querySelector('tr.more')") is None
    opened.press("End")
    assert active(opened) == "./70.jpg"
    opened.press("j")  # on to the next page
    assert active(opened) == "./69.jpg"
    assert text(opened, "page") == "page 2 of 3"
    opened.press("k")
    assert active(opened) == "./70.jpg"
    opened.press("n", "n", "n")
    assert text(opened, "page") == "page 3 of 3"
    opened.press("p")
    assert text(opened, "page") == "page 2 of 3"
    # One stop of the tabulator for all rows, after the controls and before the pages' buttons.
    assert opened.run("document.querySelectorAll('#body [tabindex=\"0\"]').length") == 1
    opened.press("/", "j")
    assert opened.run("document.getElementById('text').value") == "j"


def test_the_tabulator_goes_through_the_controls_in_reading_order(opened: Browser) -> None:
    stops = []
    for _ in range(18):
        opened.press("Tab")
        stops.append(opened.run("document.activeElement.id || document.activeElement.className"))
    assert stops[:6] == ["text", "decision", "category", "error", "sort", "size"]
    assert stops.index("name") < stops.index("next") < stops.index("last")
    assert stops.count("name") == 1


def test_bars_have_their_thresholds_drawn(opened: Browser) -> None:
    bar = "document.querySelector('#body td[data-name=nudity] svg')"
    limits = opened.run(f"Array.from({bar}.querySelectorAll('.limit'), (e) => e.getAttribute('d'))")
    assert limits == ["M30 0V10", "M85 0V10"]
    width = opened.run(f"{bar}.querySelector('rect.bad').getAttribute('width')")
    assert float(width) == pytest.approx(99)
    assert opened.run(f"{bar}.getAttribute('aria-label')") == (
        "nudity 0.990 (block); review from 0.3, block from 0.85"
    )


def test_a_page_without_rows_says_so(browser: Browser, tmp_path: Path) -> None:
    results = write_results(tmp_path / "r.jsonl", {CATEGORIES[0]: np.zeros(0)})
    assert run(["report", str(results), "--out", str(tmp_path / "x.html"), "--thumbnails"]) == 0
    browser.open(tmp_path / "x.html")
    browser.press("j", "v", "n", "/", "a", "Enter", "Enter")
    assert text(browser, "count") == "No row fits the filters (0 without filters)"
    assert browser.complaints() == []


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of results with hostile text in every column of text."""
    folder = tmp_path_factory.mktemp("hostile")
    results = write_results(
        folder / "r.jsonl",
        {CATEGORIES[0]: np.linspace(0.9, 0.99, len(HOSTILE), dtype=np.float32)},
        errors=1,
    )
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    for row, evil in zip(rows, (*HOSTILE, HOSTILE[0]), strict=True):
        row["path"] = f"./in/{evil}"
        for name in ("reasons", "warnings", "format", "highest_at", "embedded", "duplicate_of"):
            row[name] = evil
        row["sha256"] = row["sha256"] and evil
        if row["status"] == "error":
            row["error_code"] = row["error_message"] = evil
    results.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = folder / "x.html"
    assert run(["report", str(results), "--out", str(out), "--thumbnails"]) == 0
    return out


def test_hostile_names_are_shown_and_do_nothing(browser: Browser, hostile: Path) -> None:
    browser.open(hostile)
    shown = names(browser)
    assert sorted(shown) == sorted(f"./in/{printable(evil)}" for evil in (*HOSTILE, HOSTILE[0]))
    browser.run("document.querySelectorAll('button.name').forEach((each) => each.click())")
    for name in ("decision", "category", "error", "sort"):
        values = browser.run(
            f"Array.from(document.getElementById('{name}').options, (each) => each.value)"
        )
        for value in values:
            choose(browser, name, value)
            browser.run("document.querySelectorAll('button.name').forEach((each) => each.click())")
        choose(browser, name, values[0])
    browser.press("/", *"alert", "Enter", "Enter")
    assert browser.run("document.querySelectorAll('tr.more').length") == 1
    assert browser.run("document.querySelectorAll('img, iframe, object, a').length") == 0
    assert browser.run("document.querySelectorAll('script').length") == 3
    assert browser.complaints() == []
    assert browser.requests() == []


def test_what_gets_into_the_page_all_the_same_cannot_run(browser: Browser, hostile: Path) -> None:
    """The page's own policy, tried from within: no further script, no network, no markup."""
    browser.open(hostile)
    browser.run(
        "(() => { const script = document.createElement('script');"
        "try { script.textContent = 'window.ran = 1' } catch (error) { window.refused = 1 }"
        "document.body.append(script); })()"
    )
    browser.run(
        "(() => { const image = new Image(); image.src = 'http://127.0.0.1:9/x.png';"
        "document.body.append(image);"
        "try { document.body.insertAdjacentHTML('beforeend', '<b onclick=alert(1)>') }"
        "catch (error) { window.parsed = String(error) } })()"
    )
    assert browser.run("window.ran") is None
    assert browser.run("window.refused") == 1
    assert "TrustedHTML" in browser.run("window.parsed")
    browser.wait_for("document.querySelector('body > img').complete")
    assert any("Content Security Policy" in each for each in browser.complaints())


def test_thumbnails_are_blurred_until_they_are_revealed(
    browser: Browser, page: Path, tmp_path: Path
) -> None:
    file = io.BytesIO()
    Image.new("RGB", (96, 48), (200, 30, 30)).save(file, "JPEG")
    thumbnails = json.dumps({"0": base64.b64encode(file.getvalue()).decode()})
    written = _with_thumbnails(page, tmp_path)
    made = written.read_text().replace('id="thumbnails">{}', f'id="thumbnails">{thumbnails}')
    written.write_text(made)
    browser.open(written)
    assert browser.run("document.querySelectorAll('button.thumb').length") == 1
    state = "document.querySelector('button.thumb').getAttribute('aria-pressed')"
    drawn = "getComputedStyle(document.querySelector('button.thumb img')).filter"
    assert browser.run(drawn) == "grayscale(1) blur(7px)"
    assert browser.run("document.querySelector('button.thumb img').naturalWidth") == 96
    browser.press("j", "v")
    assert browser.run(state) == "true"
    browser.wait_for(f"{drawn} === 'none'")
    browser.press("v")
    assert browser.run(state) == "false"
    browser.run("document.querySelector('button.thumb').click()")
    assert browser.run(state) == "true"
    browser.press("n", "p")  # a page that is left and come back to is blurred again
    assert browser.run(state) == "false"
    browser.emulate(media="print")
    hidden = "getComputedStyle(document.querySelector('button.thumb')).display"
    assert browser.run(hidden) == "none"
    browser.emulate()
    assert browser.complaints() == []


def _with_thumbnails(page: Path, folder: Path) -> Path:
    """The same page, made for thumbnails; none of its images is there to have one."""
    results = page.parent / "r.jsonl"
    assert run(["report", str(results), "--out", str(folder / "t.html"), "--thumbnails"]) == 0
    return folder / "t.html"


@pytest.mark.parametrize("width", [360, 480, 800, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_width_needs_scrolling_sideways(
    browser: Browser, page: Path, width: int, scheme: str
) -> None:
    browser.emulate(width=width, scheme=scheme)
    browser.open(page)
    browser.press("j", "Enter")
    sizes: list[int] = browser.run(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert sizes[0] <= sizes[1]
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 25, 29)"}[scheme]
    browser.emulate()


def test_paper_is_white_and_has_no_controls(browser: Browser, page: Path, tmp_path: Path) -> None:
    browser.emulate(media="print", scheme="dark", width=794)
    browser.open(page)
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(255, 255, 255)"
    for name in ("filters", "next"):
        assert browser.run(f"document.getElementById('{name}').offsetParent") is None
    assert len(names(browser)) == 50
    browser.emulate()
    browser.pdf(tmp_path / "x.pdf")
    assert (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")


def test_without_scripts_the_figures_and_first_rows_are_shown(browser: Browser, page: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.call("Page.navigate", url=page.as_uri() + "?")
        # Only the page's own scripts are off, not those of the tests.
        browser.wait_for("document.readyState === 'complete'")
        shown: Any = browser.run("document.body.innerText")
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert "130\nrows" in shown
    assert "./119.jpg" in shown
    assert "Without scripts only the first rows are shown" in shown
    assert "Rows per page" not in shown
