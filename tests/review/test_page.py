"""The page of the review in a real browser, by its keys."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from moderate.review.journal import read_journal, standing
from tests.support.browser import MISSING, find_browser
from tests.support.pictures import encode, scene
from tests.support.reviewing import (
    ReviewPage,
    Served,
    animation,
    drawn_queue,
    review_row,
    reviewing_browser,
    wait_until,
    write_queue,
)

pytestmark = pytest.mark.skipif(find_browser() is None, reason=MISSING)

SOON = "new Promise(done => setTimeout(done, 50))"
FILTER = "getComputedStyle(document.querySelector('#frame img')).filter"
ALERT = "document.querySelector('#alert:not([hidden]) #alert-text')?.textContent ?? ''"
SHARP = "none"
GREY = "grayscale(1)"
BLURRED = re.compile(r"blur\(\d+px\) grayscale\(1\)")


@pytest.fixture(scope="module")
def shared_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReviewPage]:
    program = find_browser()
    assert program
    with reviewing_browser(program, tmp_path_factory.mktemp("browser")) as page:
        page.emulate(width=1280)
        yield page


@pytest.fixture
def page(shared_page: ReviewPage) -> Iterator[ReviewPage]:
    """Whatever a test does, the page must not complain of anything that it does not name."""
    shared_page.call("Page.navigate", url="about:blank")
    yield shared_page
    shared_page.call("Page.navigate", url="about:blank")


def decided(results: Path) -> list[tuple[str, str | None]]:
    """The names and decisions that hold, in order."""
    entries = standing(read_journal(f"{results}.decisions.jsonl"))
    return [(Path(entry.path).name, entry.decision) for entry in entries]


def alert(page: ReviewPage, words: str) -> None:
    page.wait_for(f"({ALERT}).includes({words!r})")


def test_a_queue_of_sixty_by_keys_alone(page: ReviewPage, tmp_path: Path) -> None:
    results = drawn_queue(tmp_path, 60)
    names = [f"image-{number:03}.png" for number in range(60)]
    with Served(results) as served:
        page.visit(served.link)
        assert page.shown() == names[0]
        assert page.run("document.activeElement.id") == "stage"

        # Labels, a note, and what was revealed go into the record.
        page.press("1", "2", "2", "3", "3", "3")
        page.press("n", *"ab z", "Escape")
        assert BLURRED.fullmatch(page.run(FILTER))
        page.press("r")
        assert page.run(FILTER) == GREY
        page.decide("b")
        assert BLURRED.fullmatch(page.run(FILTER)), "the next one is blurred again"
        page.decide("u")
        assert page.shown() == names[2]

        # What is skipped comes back at the end; a decision that is taken back comes at once.
        page.tap("ArrowRight")
        page.settled()
        assert page.shown() == names[3]
        page.decide("a")
        page.decide("a")
        assert page.shown() == names[5]
        page.press("z")
        page.wait_for(f"document.querySelector('#path').textContent.endsWith({names[4]!r})")
        page.tap("ArrowLeft")
        assert page.shown() == names[3]
        page.press("a")
        page.run(SOON)
        assert len(decided(results)) == 3, "what is decided is not decided again"
        page.tap("ArrowRight")
        for number in range(4, 60):
            assert page.shown() == names[number]
            page.decide("b" if number % 2 else "a")
        assert page.shown() == names[2]
        page.decide("a")
        page.wait_for("!document.querySelector('#finished').hidden")
        assert "All 60 images are decided" in page.text("#finished-text")

        # A key that is kept down is one decision.
        page.press("z")
        page.wait_for("document.querySelector('#finished').hidden")
        page.settled()
        page.down("u")
        page.down("u")
        page.call("Input.dispatchKeyEvent", type="keyDown", key="u", text="u", autoRepeat=True)
        page.up("u")
        page.wait_for("!document.querySelector('#finished').hidden")
        assert page.complaints() == []
    found = decided(results)
    assert sorted(name for name, _ in found) == names
    assert dict(found)[names[3]] == "approve"
    assert dict(found)[names[59]] == "block"
    assert dict(found)[names[2]] == "unsure"
    first = read_journal(f"{results}.decisions.jsonl")[0]
    assert dict(first.labels) == {"nudity": True, "sexual_activity": False}
    assert (first.note, first.revealed, first.reviewer) == ("ab z", "grey", "ada")
    assert first.seconds > 0
    second = read_journal(f"{results}.decisions.jsonl")[1]
    assert (second.decision, second.revealed, dict(second.labels)) == ("unsure", "blur", {})


def test_images_are_revealed_only_as_far_and_as_long_as_asked(
    page: ReviewPage, tmp_path: Path
) -> None:
    (tmp_path / "a.gif").write_bytes(data := animation(5))
    place = {"nudity": "frame 3, 0.2 s, 10 to 60 % across and 20 to 70 % down"}
    (tmp_path / "b.png").write_bytes(still := encode(scene(), "PNG"))
    rows = [
        review_row(tmp_path / "a.gif", data, 0.9, places=place, decision="block"),
        review_row(tmp_path / "b.png", still),
    ]
    results = write_queue(tmp_path / "r.csv", rows)
    with Served(results, "--queue=all") as served:
        page.visit(served.link)
        image = "document.querySelector('#frame img')"
        assert BLURRED.fullmatch(page.run(FILTER))
        page.down(" ")
        assert page.run(FILTER) == GREY
        page.up(" ")
        assert BLURRED.fullmatch(page.run(FILTER))
        page.down(" ", shift=True)
        assert page.run(FILTER) == SHARP
        page.run("window.dispatchEvent(new Event('blur'))")
        assert BLURRED.fullmatch(page.run(FILTER)), "another window came in front"
        page.up(" ", shift=True)

        # The frame of the highest score comes first, with its box; frames are stills.
        assert "Frame 3, 0.2 s (3 of 5" in page.text("#frame-text")
        assert page.text(".box") == "nudity"
        page.press(".")
        page.wait_for(f"{image}?.src.includes('/3/large')")
        assert page.run("document.querySelectorAll('.box').length") == 0
        assert BLURRED.fullmatch(page.run(FILTER))
        page.press(",")
        page.wait_for(f"{image}?.src.includes('/2/large')")
        page.press("o")
        assert page.run("getComputedStyle(document.querySelector('.box')).display") == "none"
        assert page.run("document.querySelector('video, audio, object, iframe') === null")
        page.press("f")
        assert page.run("document.querySelector('#frame').clientWidth") > page.run(
            "document.querySelector('#canvas').clientWidth"
        )
        assert "0 severe seen" in page.text("#counts")
        page.decide("b")
        assert "1 severe seen" in page.text("#counts")
        assert BLURRED.fullmatch(page.run(FILTER))
        assert page.complaints() == []


def test_a_break_is_suggested_after_a_while(page: ReviewPage, tmp_path: Path) -> None:
    results = drawn_queue(tmp_path, 4)
    clock = "window.shift = 0; const now = Date.now; Date.now = () => now() + window.shift;"
    script = page.call("Page.addScriptToEvaluateOnNewDocument", source=clock)["identifier"]
    is_open = "document.querySelector('#break').open"
    with Served(results) as served:
        page.visit(served.link)
        page.decide("a")
        assert not page.run(is_open)
        for _ in range(40):
            page.run("window.shift += 50_000")
            page.press("o")
        page.decide("a")
        page.wait_for(is_open)
        assert "You have worked for 3" in page.text("#break-text")
        page.press("a")
        page.run(SOON)
        assert "2 of 4 decided" in page.text("#counts"), "keys do not reach what is behind"
        page.press("Escape")
        page.wait_for(f"!{is_open}")
        page.decide("a")
        assert not page.run(is_open)
        page.run("window.shift += 50_000")
    page.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script)


def test_a_grid_for_fast_passes(page: ReviewPage, tmp_path: Path) -> None:
    results = drawn_queue(tmp_path, 30, (60, 40))
    loaded = "document.querySelectorAll('#grid img:not([hidden])').length"
    tile = "getComputedStyle(document.querySelector('#grid [aria-current] img')).filter"
    with Served(results) as served:
        page.visit(served.link)
        page.press("g")
        page.wait_for(f"{loaded} === 24")
        assert BLURRED.fullmatch(page.run(tile))
        page.down(" ")
        assert page.run(tile) == GREY
        page.up(" ")
        page.tap("ArrowRight")
        page.tap("ArrowDown")
        style = "getComputedStyle(document.querySelector('#grid'))"
        columns = page.run(f"{style}.gridTemplateColumns.split(' ').length")
        blocked = f"image-{1 + columns:03}.png"
        assert page.shown() == blocked
        page.press("b")
        page.wait_for("document.querySelector('#counts').textContent.startsWith('1 of')")
        page.press("r", "r")
        assert page.run(tile) == SHARP
        page.tap("A", shift=True)
        page.wait_for("document.querySelector('#confirm').open")
        assert "23 images are approved" in page.text("#confirm-text")
        page.press("Enter")
        page.wait_for("document.querySelector('#counts').textContent.startsWith('24 of')")
        page.wait_for(f"document.querySelectorAll('#grid li').length === 6 && {loaded} === 6")
        assert BLURRED.fullmatch(page.run(tile)), "each grid begins blurred"
        page.press("Enter")
        page.wait_for("!document.querySelector('#single').hidden")
        assert page.complaints() == []
    found = decided(results)
    assert len(found) == 24
    assert [name for name, decision in found if decision == "block"] == [blocked]
    levels = [entry.revealed for entry in read_journal(f"{results}.decisions.jsonl")]
    assert levels.count("colour") == 23


def test_reload_and_two_browsers_at_once(
    page: ReviewPage, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    results = drawn_queue(tmp_path, 12, (60, 40))
    (tmp_path / "tokens").write_text(f"bob {'b' * 30}\n")
    program = find_browser()
    assert program
    with (
        Served(results, "--token-file", str(tmp_path / "tokens")) as served,
        reviewing_browser(program, tmp_path_factory.mktemp("other")) as other,
    ):
        page.visit(served.link)
        page.decide("a")
        page.visit(f"{served.origin}/")
        assert page.shown() == "image-001.png", "a reload goes on where it was"
        other.visit(f"{served.origin}/?token={'b' * 30}")
        assert other.run("location.search") == "", "the token is not in the address any more"
        mine, theirs = page.shown(), other.shown()
        assert mine != theirs
        for _ in range(20):
            for each, key in ((page, "a"), (other, "b")):
                if not each.run("!document.querySelector('#finished').hidden"):
                    each.decide(key)
            if "12 of 12" in page.text("#counts"):
                break
        # One sees that the other has done the rest.
        for each in (page, other):
            each.run("document.querySelector('#look-again').click()")
            each.wait_for("document.querySelector('#finished-text').textContent.includes('All 12')")
        assert page.complaints() == []
    entries = read_journal(f"{results}.decisions.jsonl")
    assert len({entry.row for entry in entries}) == len(entries) == 12
    assert {entry.reviewer for entry in entries} == {"ada", "bob"}


@pytest.mark.parametrize("count", [16, pytest.param(500, marks=pytest.mark.slow)])
def test_two_work_through_a_queue_whose_server_is_killed(
    page: ReviewPage, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, count: int
) -> None:
    """By keys alone; a reload and two kills lose no decision, and record none twice."""
    results = drawn_queue(tmp_path, count, (60, 40))
    (tmp_path / "tokens").write_text(f"bob {'b' * 30}\n")
    tokens = ("--token-file", str(tmp_path / "tokens"))
    program = find_browser()
    assert program
    pressed: dict[str, str] = {}

    def press(each: ReviewPage, key: str) -> None:
        """Decide as far as the page shows it; a server may be gone before it has answered."""
        pressed[each.shown()] = {"a": "approve", "b": "block", "u": "unsure"}[key]
        each.press(key)

    def waits(each: ReviewPage) -> bool:
        found: bool = each.run("!document.querySelector('#finished').hidden")
        return found

    with reviewing_browser(program, tmp_path_factory.mktemp("other")) as other:
        port = 0
        for part in (1, 2, 3):
            with Served(results, *tokens, port=port) as served:
                links = (served.link, f"{served.origin}/?token={'b' * 30}")
                if not port:
                    page.visit(links[0])
                    other.visit(links[1])
                else:
                    for each, link in zip((page, other), links, strict=True):
                        alert(each, "open the link")
                        each.run(f"fetch({link!r})")
                        each.wait_for(f"({ALERT}) === ''")
                        each.settled()
                port = served.port
                until = count * part // 3
                while len(pressed) < until and not (waits(page) and waits(other)):
                    for number, each in enumerate((page, other)):
                        if len(pressed) < until and not waits(each):
                            before, key = each.text("#counts"), "abu"[(len(pressed) + number) % 3]
                            press(each, key)
                            each.wait_for(
                                f"document.querySelector('#counts').textContent !== {before!r}"
                            )
                            each.settled()
                if part == 1:
                    page.visit(f"{served.origin}/")
                if part < 3:
                    # Each has one more on its way when the server is gone.
                    served.kill()
                    for each in (page, other):
                        press(each, "b")
                        alert(each, "the server does not answer")
                    continue
                for each in (page, other):
                    each.run("document.querySelector('#look-again').click()")
                    words = f"All {count} images are decided"
                    each.wait_for(
                        f"document.querySelector('#finished-text').textContent.includes({words!r})"
                    )
    entries = read_journal(f"{results}.decisions.jsonl")
    assert len({entry.row for entry in entries}) == len(entries) == count
    assert len({entry.id for entry in entries}) == count
    assert dict(decided(results)) == pressed
    assert {entry.reviewer for entry in entries} == {"ada", "bob"}


def test_hostile_names_and_columns_are_text(page: ReviewPage, tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>\u202e{{7*7}}'\"`"
    data = encode(scene(), "PNG")
    rows = []
    names = [
        "<img src=x onerror=alert(1)>.png",
        "javascript:alert(1).png",
        "\u202egnp.exe",
        "&lt;",
    ]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(data)
        row = review_row(
            tmp_path / name,
            data,
            places={evil: f"frame 1, {evil}", "nudity": "90 to 10 % across and 0 to 999 % down"},
            reasons=(evil,),
        )
        rows.append(replace(row, ref=replace(row.ref, carried=(evil, evil * 40, str(number)))))
    results = write_queue(tmp_path / "r.csv", rows, ["__proto__", evil, "constructor"])
    with Served(results) as served:
        page.visit(served.link)
        for row in rows:
            assert page.run("document.querySelectorAll('#panel img, #panel script').length") == 0
            assert "<script>alert(2)</script>" in page.text("#carried")
            assert "<script>alert(2)</script>" in page.text("#reasons")
            assert "\u202e" not in page.text("body")
            assert page.text("#path").isprintable()
            assert page.run("document.documentElement.scrollWidth") <= 1280
            assert row.ref.path
            page.press("u")
            page.run(SOON)
        page.wait_for("!document.querySelector('#finished').hidden")
        assert page.complaints() == []
        assert all(url.startswith(served.origin) for url in page.requests())
    assert len(decided(results)) == 4


def test_changed_and_vanished_images_are_not_judged(page: ReviewPage, tmp_path: Path) -> None:
    results = drawn_queue(tmp_path, 4)
    (tmp_path / "image-000.png").write_bytes(encode(scene(seed=99), "PNG"))
    (tmp_path / "image-001.png").unlink()
    whole = (tmp_path / "image-002.png").read_bytes()
    (tmp_path / "image-002.png").unlink()
    with Served(results) as served:
        page.visit(served.link)
        page.wait_for("!document.querySelector('#problem').hidden")
        assert "changed since it was scanned" in page.text("#problem-text")
        for key in ("a", "b"):
            page.press(key)
            alert(page, "not judged")
        assert page.run("document.querySelectorAll('#decide [aria-disabled=true]').length") == 2
        page.tap("ArrowRight")
        assert page.run(ALERT) == ""
        page.wait_for(
            "document.querySelector('#problem-text').textContent.includes('No such file')"
        )
        page.decide("u")
        page.wait_for("!document.querySelector('#problem').hidden")
        (tmp_path / "image-002.png").write_bytes(whole)
        page.run("document.querySelector('#again').click()")
        page.wait_for("document.querySelector('#frame img') !== null")
        page.decide("a")
        page.decide("a")
        assert page.shown() == "image-000.png", "what was skipped is not forgotten"
    assert decided(results) == [
        ("image-001.png", "unsure"),
        ("image-002.png", "approve"),
        ("image-003.png", "approve"),
    ]


def test_a_server_that_is_killed_loses_nothing(page: ReviewPage, tmp_path: Path) -> None:
    results = drawn_queue(tmp_path, 6)
    with Served(results) as served:
        page.visit(served.link)
        page.decide("a")
        port = served.port
    assert served.process.poll() is not None
    page.press("b")
    alert(page, "the server does not answer")
    assert page.shown() == "image-001.png", "the page does not go on without its decision"
    page.press("a")
    page.run(SOON)
    with Served(results, port=port) as served:
        alert(page, "open the link")
        # In another tab of the same browser.
        page.run(f"fetch({served.link!r})")
        page.wait_for("document.querySelector('#counts').textContent.startsWith('2 of')")
        page.wait_for(f"({ALERT}) === ''")
        page.decide("a")
        assert page.shown() == "image-003.png"
    assert decided(results) == [
        ("image-000.png", "approve"),
        ("image-001.png", "block"),
        ("image-002.png", "approve"),
    ]


def test_a_decision_of_somebody_else_is_not_written_over(page: ReviewPage, tmp_path: Path) -> None:
    results = drawn_queue(tmp_path, 3)
    with Served(results) as served:
        page.visit(served.link)
        with sqlite3.connect(f"{results}.decisions.jsonl.leases") as leases:
            leases.execute("UPDATE lease SET reviewer = 'bob' WHERE row = 1")
        leases.close()
        page.press("b")
        alert(page, "image-000.png was not recorded: somebody else has this image")
        assert page.text("#state").startswith("Not recorded")
        page.tap("ArrowRight")
        page.settled()
        page.decide("a")
        alert(page, "image-000.png was not recorded")
    assert decided(results) == [("image-001.png", "approve")]


def test_what_did_not_reach_the_screen_is_not_judged(page: ReviewPage, tmp_path: Path) -> None:
    results = drawn_queue(tmp_path, 2)
    page.call("Network.setBlockedURLs", urls=["*/0/large"])
    with Served(results) as served:
        page.call("Page.navigate", url=served.link)
        page.wait_for("document.body?.innerText.includes('It did not load')")
        page.press("a")
        page.wait_for("document.querySelector('#live').textContent.includes('still loading')")
        page.call("Network.setBlockedURLs", urls=[])
        page.press("r")
        page.wait_for("document.querySelector('#frame img') !== null")
        page.decide("a")
    assert decided(results) == [("image-000.png", "approve")]


def test_an_older_answer_does_not_undo_what_was_decided(page: ReviewPage, tmp_path: Path) -> None:
    """The rows that were asked for before a decision come after it."""
    late = (
        "const ask = window.fetch; window.late = 0;"
        "window.fetch = async (url, ...rest) => {"
        "  const answer = await ask(url, ...rest);"
        "  if (String(url).includes('/api/next') && window.isSlow) {"
        "    await new Promise(done => setTimeout(done, 400)); window.late += 1;"
        "  }"
        "  return answer; };"
    )
    script = page.call("Page.addScriptToEvaluateOnNewDocument", source=late)["identifier"]
    results = drawn_queue(tmp_path, 12)
    with Served(results) as served:
        page.visit(served.link)
        page.run("window.isSlow = true")
        page.decide("a")
        page.decide("b")
        page.wait_for("window.late > 0")
        page.run(SOON)
        assert page.text("#counts").startswith("2 of 12")
        assert page.shown() == "image-002.png"
        signs = "[...document.querySelectorAll('#strip .sign')].map(each => each.textContent)"
        assert page.run(signs)[:3] == ["✓", "✕", ""]
    page.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script)


@pytest.mark.parametrize("width", [390, 1280])
def test_everything_has_a_name_and_fits(page: ReviewPage, tmp_path: Path, width: int) -> None:
    results = drawn_queue(tmp_path, 3)
    page.emulate(width=width)
    with Served(results) as served:
        page.visit(served.link)
        assert page.run("document.documentElement.scrollWidth") <= width
        nodes = page.call("Accessibility.getFullAXTree")["nodes"]
        named = {
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node.get("ignored") and "role" in node
        }
        controls = {"button", "radio", "checkbox", "textbox", "image", "link", "progressbar"}
        assert not [role for role, name in named if role in controls and not name.strip()]
        assert ("radio", "Blurred") in named
        assert ("group", "Label nudity") in named
        assert any(role == "image" and "shown blurred" in name for role, name in named)
        assert any(role == "status" for role, _ in named)
        # By Tab alone to the decision.
        for _ in range(40):
            page.press("Tab")
            if page.run("document.activeElement.dataset.decision") == "block":
                break
        page.press("Enter")
        page.wait_for("document.querySelector('#counts').textContent.startsWith('1 of')")
        page.wait_for("document.querySelector('#live').textContent.startsWith('Blocked.')")
        page.press("?")
        page.wait_for("document.querySelector('#legend').open")
        assert page.text("#keys").startswith("AApproveBBlock")
        page.press("Escape")
        wait_until(lambda: not page.run("document.querySelector('#legend').open"), "it closes")
    page.emulate(width=1280)


def test_the_end_says_how_far_two_reviewers_agree(
    page: ReviewPage, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    results = drawn_queue(tmp_path, 4, (60, 40))
    (tmp_path / "tokens").write_text(f"bob {'b' * 30}\n")
    program = find_browser()
    assert program
    options = ("--second-look", "1", "--token-file", str(tmp_path / "tokens"))
    with (
        Served(results, *options) as served,
        reviewing_browser(program, tmp_path_factory.mktemp("other")) as other,
    ):
        page.visit(served.link)
        for key in "aabb":
            page.decide(key)
        assert page.run("document.querySelector('#agreement').hidden"), "nobody has looked again"
        other.visit(f"{served.origin}/?token={'b' * 30}")
        for key in "aaab":
            assert not other.run("document.querySelector('#agreement').checkVisibility()")
            other.decide(key)
        assert other.run("document.querySelector('#agreement').checkVisibility()")
        said = other.text("#agreement")
        assert said.startswith("4 second looks: 75 % decided alike · Cohen's kappa 0.50 (")
        assert page.complaints() == other.complaints() == []
