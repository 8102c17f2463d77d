"""The HTML page with rows, as text: what is in it, and what a browser is allowed to do with it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moderate.cli.main import run
from moderate.report import html, page
from moderate.report.files import render
from moderate.report.listing import page_parts
from moderate.report.model import Report, Rows, Table
from moderate.results.read import read_results
from moderate.run.listing import LISTED, Listing
from moderate.types import CATEGORIES
from tests.support.pictures import encode, scene
from tests.support.scored import write_results

Captured = pytest.CaptureFixture[str]
EVIL = "</script><script>alert(1)</script><!-- \u2028 & \x1b[31m \u202e\"'"


def results(folder: Path, name: str = "r.jsonl", errors: int = 2) -> Path:
    """Ten images with scores from 0 to 0.9, of which all are for nudity, and some errors."""
    scores = {CATEGORIES[0]: np.arange(10, dtype=np.float32) / 10}
    return write_results(folder / name, scores, errors=errors)


def data_of(text: str, name: str = "data") -> dict[str, Any]:
    """What the script finds in the page."""
    block = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text)
    assert block
    found: dict[str, Any] = json.loads(block[1])
    return found


def cells(data: dict[str, Any], name: str) -> list[Any]:
    column = data["columns"][name]
    return column if isinstance(column, list) else [column["of"][at] for at in column["at"]]


def page_of(folder: Path, *options: str) -> str:
    out = folder / "x.html"
    assert run(["report", str(results(folder)), "--out", str(out), *options]) == 0
    return out.read_text()


def test_rows_are_listed_the_most_severe_first(tmp_path: Path) -> None:
    data = data_of(page_of(tmp_path))
    paths = [f"./{n}.jpg" for n in (9, 8, 7, 6, 5, 4, 3)]
    # Errors have no score: they come after what else has their decision.
    assert cells(data, "path") == [*paths, "./bad-0.jpg", "./bad-1.jpg", "./2.jpg", "./1.jpg",
                                   "./0.jpg"]  # fmt: skip
    assert cells(data, "decision") == ["block"] + ["review"] * 8 + ["approve"] * 3
    assert data["scores"]["nudity"][:2] == [9000, 8000]
    assert data["scores"]["nudity"][7] is None
    assert data["bands"]["nudity"] == "211111133000"
    assert data["columns"]["number"][0] == 10
    assert cells(data, "error_code")[7] == "truncated"
    # Nothing was scored for the others.
    assert [each["name"] for each in data["categories"]] == ["nudity"]
    assert (data["categories"][0]["review"], data["categories"][0]["block"]) == (0.3, 0.85)


def test_a_scan_and_its_results_list_the_same_rows(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for number in range(3):
        Path(f"images/{number}.png").write_bytes(encode(scene((90, 60), seed=number), "PNG"))
    Path("images/bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    with open(b"images/\xff.png", "wb") as file:
        file.write(encode(scene((40, 60), seed=9), "PNG"))
    command = ["scan", "images", "--weights", str(bundle), "-q", "--no-state", "--thumbnails"]
    assert run([*command, "--summary", "a.html", "--out", "r.csv", "--out", "r.parquet"]) == 0
    text = Path("a.html").read_text()
    data, thumbnails = data_of(text), data_of(text, "thumbnails")
    assert data["listed"] == data["total"] == 5
    failed = cells(data, "path").index("./images/bad.jpg")
    assert set(thumbnails) == {str(place) for place in range(5)} - {str(failed)}
    for source in ("r.csv", "r.parquet"):
        assert run(["report", source, "--out", "b.html", "--thumbnails"]) == 0
        again = Path("b.html").read_text()
        assert data_of(again) == data
        assert data_of(again, "thumbnails") == thumbnails


def test_thumbnails_are_small_jpegs_of_files_that_have_not_changed(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    image = scene((300, 150), seed=3)
    Path("images/kept.png").write_bytes(encode(image, "PNG"))
    Path("images/copy.png").write_bytes(encode(image, "PNG"))
    Path("images/changed.png").write_bytes(encode(scene((80, 80), seed=4), "PNG"))
    Path("images/gone.png").write_bytes(encode(scene((80, 80), seed=5), "PNG"))
    scan = ["scan", "images", "--weights", str(bundle), "-q", "--no-state", "--out", "r.parquet"]
    assert run(scan) == 0
    Path("images/changed.png").write_bytes(encode(scene((80, 80), seed=6), "PNG"))
    Path("images/gone.png").unlink()
    assert run(["report", "r.parquet", "--out", "x.html", "--thumbnails"]) == 0
    text = Path("x.html").read_text()
    thumbnails, paths = data_of(text, "thumbnails"), cells(data_of(text), "path")
    assert {paths[int(place)] for place in thumbnails} == {"./images/kept.png", "./images/copy.png"}
    for encoded in thumbnails.values():
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as shown:
            assert (shown.format, shown.size) == ("JPEG", (96, 48))
            near = np.asarray(shown, float) - np.asarray(image.resize((96, 48)), float)
            assert abs(near).mean() < 12
    assert "cannot be read any more (1), changed since the scan (1)" in text
    assert run(["report", "r.parquet", "--out", "x.html"]) == 0
    assert 'id="thumbnails"' not in Path("x.html").read_text()


def test_members_of_archives_have_thumbnails(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = encode(scene((300, 150), seed=3), "PNG")
    with tarfile.open("a.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("in/a.png")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    scan = ["scan", "a.tar.gz", "--weights", str(bundle), "-q", "--no-state", "--out", "r.parquet"]
    assert run(scan) == 0
    assert run(["report", "r.parquet", "--out", "x.html", "--thumbnails"]) == 0
    assert len(data_of(Path("x.html").read_text(), "thumbnails")) == 1


@pytest.mark.parametrize("size", [(-(10**9), -1), (0, 5), (10**9, 1)])
def test_a_thumbnail_is_small_whatever_size_a_file_of_results_says(size: Any) -> None:
    from moderate.decode.jpeg import as_jpeg

    pixels = np.zeros((96, 96, 3), np.uint8)
    with Image.open(io.BytesIO(as_jpeg(pixels, size, 96, 70, optimize=True))) as made:
        assert max(made.size) == 96


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "r.jsonl", "--thumbnails"],
        ["report", "r.jsonl", "--thumbnails", "--out", "x.md"],
        ["scan", ".", "--weights", "testcard", "--thumbnails", "--summary", "x.json"],
    ],
)
def test_thumbnails_need_a_page(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    results(tmp_path)
    assert run(arguments) == 2
    assert "--thumbnails goes with --" in capsys.readouterr().err


def test_only_the_most_severe_are_listed_of_many_rows(tmp_path: Path) -> None:
    count = 10_000
    scores = np.random.default_rng(5).permutation(count).astype(np.float32) / count
    file = write_results(tmp_path / "r.parquet", {CATEGORIES[0]: scores})
    read = read_results(str(file))
    policy = Listing.of_results(read, _balanced()).policy
    listing = Listing(policy, most_rows=100)
    for own, _ in read.parts(LISTED):
        for start in range(0, count, 37):
            part = {name: array.slice(start, 37) for name, array in own.items()}
            if len(part["path"]):
                listing.add_columns(part)
    table = listing.table()
    assert len(table) == 100
    best = np.argsort(-scores)[:100]
    assert table["path"].to_pylist() == [f"./{n}.jpg" for n in best]
    assert table["number"].to_pylist() == [n + 1 for n in best]
    assert listing.histograms["nudity"].sum() == listing.rows == count
    parts = list(page_parts(listing, {}, {}, {}))
    (rows,) = (part for part in parts if isinstance(part, Rows))
    assert "the 100 most severe of 10,000 rows" in rows.notes[0]


def test_long_texts_are_bounded(tmp_path: Path) -> None:
    import pyarrow as pa

    from moderate.run.listing import MOST_CHARACTERS

    listing = Listing(_balanced(), most_bytes=200_000)
    read = read_results(str(results(tmp_path)))
    for own, _ in read.parts(LISTED):
        count = len(own["path"])
        own["reasons"] = pa.array(["x" * 100_000] * count)
        own["path"] = pa.array([f"./{n}{'y' * 100_000}" for n in range(count)])
        for _ in range(20):
            listing.add_columns(own)
    table = listing.table()
    assert 1 < len(table) < listing.rows == 240
    assert table.nbytes < 200_000
    assert all(len(text) == MOST_CHARACTERS for text in table["reasons"].to_pylist())
    assert all(len(text) == 4096 for text in table["path"].to_pylist())


def _balanced() -> Any:
    from moderate.policy.load import load_policy

    return load_policy("balanced").policy


def test_the_policy_lets_this_script_and_style_alone_do_anything(tmp_path: Path) -> None:
    text = page_of(tmp_path)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)">', text)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    styles = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert rules["default-src"] == "'none'"
    assert "unsafe" not in policy
    assert "http" not in policy
    for kind, found in (("script-src", scripts), ("style-src", styles)):
        (one,) = found
        digest = base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()
        assert rules[kind] == f"'sha256-{digest}'"
    outside = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.DOTALL)
    assert not re.search(r"\s(on\w+|style|src|href)=", outside)
    assert not re.search(r"\b(innerHTML|outerHTML|eval|Function|document\.write|fetch)\b",
                         page.script())  # fmt: skip
    assert not re.search(r"url\(|@import|expression", page.style())


def test_rows_cannot_end_the_block_they_are_in() -> None:
    data = {"categories": [], "columns": {"path": [EVIL]}}
    rows = Rows("Images", data, Table("first", ("a",), ((EVIL,),)), thumbnails={EVIL: EVIL})
    text = render(Report("moderate: summary", (rows,), {}), "x.html")
    assert text.count("<script") == text.count("</script") == 3
    assert "<!--" not in text
    assert data_of(text)["columns"]["path"] == [EVIL]


def test_other_reports_have_no_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    results(tmp_path)
    for command in (
        ["report", "--trend", "r.jsonl", "--out", "x.html"],
        ["diff", "r.jsonl", "--policy", "strict", "--out", "x.html"],
        ["decide", "r.jsonl", "--policy", "strict", "--summary", "x.html"],
    ):
        assert run(command) == 0
        text = Path("x.html").read_text()
        assert "<script" not in text
        assert "content=\"default-src 'none'; style-src 'unsafe-inline'\"" in text


def test_the_figures_are_there_without_scripts(tmp_path: Path) -> None:
    text = re.sub(r"<script.*?</script>", "", page_of(tmp_path), flags=re.DOTALL)
    assert "<b>1</b> block" in text
    assert "<b>12</b> rows" in text
    assert "<caption>Decisions</caption>" in text  # the tables that there are without rows, too
    assert "<caption>The first 12 rows</caption>" in text
    assert "truncated" in text
    assert text.count('class="limit"') == 2  # of the one category that was scored
    assert "hidden>" in text


# Contrast -----------------------------------------------------------------------------------------


def _variables(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([a-z]+): (#[0-9a-f]{3,6})\b", block))


def _modes() -> dict[str, dict[str, str]]:
    """The colours of both modes, and of paper, from the style itself."""
    modes: dict[str, dict[str, str]] = {"light": {}, "dark": {}, "print": {}}
    for style in (html._STYLE, page.style()):
        light, *others = style.split("@media")
        modes["light"] |= _variables(light)
        for block in others:
            for name, mark in (("dark", "scheme: dark"), ("print", " print")):
                if block.split("{")[0].strip().strip("()").endswith(mark.strip()):
                    modes[name] |= _variables(block)
    return modes


def _luminance(colour: str) -> float:
    digits = colour[1:]
    digits = "".join(digit * 2 for digit in digits) if len(digits) == 3 else digits
    channels = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2: from 1 to 21."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", ["light", "dark", "print"])
def test_text_and_graphics_have_the_contrast_of_wcag_aa(mode: str) -> None:
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    colours = _modes()[mode]
    assert set(colours) >= {"ink", "quiet", "page", "ground", "good", "care", "two", "one"}
    for ground in ("page", "ground"):
        for text in ("ink", "quiet", "good", "care", "two"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        for shape in ("one", "unseen"):  # the outline of what has the focus, and of controls
            assert contrast(colours[shape], colours[ground]) >= 3, (shape, ground)
    for shape in ("good", "care", "two", "ink"):  # a bar and its thresholds on its track
        assert contrast(colours[shape], colours["track"]) >= 3, shape
