"""Text of untrusted files in every report that is a file: shown as text, and nothing else."""

from __future__ import annotations

import io
import itertools
import json
import os
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from moderate.analysis.explain import Kept
from moderate.analysis.explain import explain as look_up
from moderate.cli.main import run
from moderate.report import explain, runs, weights
from moderate.report.files import FORMATS, render
from moderate.report.model import Report
from moderate.report.terminal import show
from moderate.results.read import read_results
from moderate.results.targets import REPORT_SUFFIXES
from moderate.state.ledger import RunRecord, RunStatus
from moderate.text import printable
from moderate.types import CATEGORIES
from tests.support.scored import drawn, write_labels, write_results

EVIL = "\x1b[2J\x9b1A\u202e<script>alert(1)</script>|[x](http://y)\n# head\n\x85\x00\ud800"
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "strong", "small", "div"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td", "ul", "li", "span", "figure"),
    *("svg", "text", "path", "polyline", "circle", "rect"),
}
TAGS_OF_ROWS = {
    *("b", "button", "details", "form", "input", "kbd", "label", "nav", "noscript", "option"),
    *("script", "section", "select", "summary"),
}
"""What a page with rows has, too; tests/report/test_page.py looks at its scripts."""
ATTRIBUTES_OF_ROWS = {
    *("aria-hidden", "aria-keyshortcuts", "autocomplete", "data-sort", "hidden", "id"),
    *("placeholder", "preserveaspectratio", "selected", "stroke-dasharray", "type", "value"),
}
ATTRIBUTES = {
    *("lang", "charset", "http-equiv", "content", "name", "class", "scope", "role", "aria-label"),
    *("viewbox", "width", "height", "x", "y", "cx", "cy", "r", "d", "points", "fill", "stroke"),
    *("stroke-width", "text-anchor", "transform", "font-size"),
}
CASES = {
    "report": ["report", "FILE"],
    "trend": ["report", "--trend", "FILE"],
    "decide": ["decide", "FILE", "--policy", "strict"],
    "diff": ["diff", "FILE", "--policy", "strict"],
    "eval": ["eval", "FILE", "--labels", "l.csv", "--bootstrap", "0", "--slice", f"k{EVIL[:-1]}"],
}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Results with EVIL wherever text may stand, in a file whose name is not UTF-8 either."""
    monkeypatch.chdir(tmp_path)
    scores, labels = drawn(np.random.default_rng(1), 100)
    write_results(tmp_path / "r.jsonl", {CATEGORIES[0]: scores}, errors=2)
    write_labels(tmp_path / "l.csv", {CATEGORIES[0]: labels})
    name = os.fsdecode(b"r\xff\x1b[2J\xe2\x80\xae.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    for row in rows:
        row["warnings"] = row["reasons"] = row["rating"] = row["format"] = EVIL
        row[f"k{EVIL[:-1]}"] = EVIL
        if row["status"] == "error":
            row |= {"error_code": EVIL, "error_message": EVIL, "path": f"./{EVIL}"}
    with open(name, "w") as made:
        made.writelines(json.dumps(row) + "\n" for row in rows)
    facts = json.loads((tmp_path / "r.jsonl.meta.json").read_text())
    for key in ("weights", "policy", "device", "precision", "run_id", "version", "weights_sha256"):
        facts[key] = EVIL
    with open(f"{name}.meta.json", "w") as made:
        json.dump(facts, made)
    return name


class _Page(HTMLParser):
    """Which tags and attributes a page has, its title, and whether all tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.title = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in {"meta", "input"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "title":
            self.title += data


def check_text(text: str, suffix: str) -> None:
    """A report shows hostile text as text: no controls, no markup, no lines of its own."""
    if suffix == ".json":
        json.loads(text)
        return
    assert [char for char in text if printable(char) != char and char != "\n"] == []
    assert "\n# head" not in text
    if suffix == ".html":
        page = _Page(text)
        assert page.open == []
        with_rows = 'id="images"' in text
        assert page.tags <= (TAGS | TAGS_OF_ROWS if with_rows else TAGS)
        of_rows = ATTRIBUTES | ATTRIBUTES_OF_ROWS
        assert page.attributes <= (of_rows if with_rows else ATTRIBUTES)
        assert page.title.startswith("moderate: ")
    elif suffix == ".md":
        assert "<script" not in text.replace("\\<", "")
        assert "](http" not in text.replace("\\]", "")
        assert all(line.endswith("|") for line in text.split("\n") if line.startswith("|"))


@pytest.mark.parametrize(("case", "suffix"), list(itertools.product(CASES, REPORT_SUFFIXES)))
def test_no_report_passes_on_controls_markup_or_lines(
    file: str, capsys: pytest.CaptureFixture[str], case: str, suffix: str
) -> None:
    option = "--summary" if case == "decide" else "--out"
    arguments = [file if part == "FILE" else part for part in CASES[case]]
    assert run([*arguments, option, f"made{suffix}"]) == 0
    check_text(Path(f"made{suffix}").read_bytes().decode("utf-8"), suffix)


def check_all_formats(report: Report) -> None:
    """In every format, and on a terminal, whether a command offers it or not."""
    for suffix in REPORT_SUFFIXES:
        check_text(render(report, f"x{suffix}"), suffix)
    stream = io.StringIO()
    show(report, stream)
    check_text(stream.getvalue(), "terminal")
    assert "alert(1)" in stream.getvalue()  # else nothing would be shown


def test_reports_that_no_command_writes_to_files(file: str) -> None:
    check_all_formats(explain.report(look_up(read_results(file), "row:102", Kept(missing=EVIL))))
    record = RunRecord(
        id=EVIL,
        status=RunStatus.FAILED,
        message=EVIL,
        started="2026-11-02T00:00:00.000Z",
        updated="2026-11-02T00:00:01.000Z",
        ended="2026-11-02T00:00:01.000Z",
        host=EVIL,
        user=EVIL,
        pid=1,
        command=(EVIL, EVIL),
        version=EVIL,
        inputs=(EVIL,),
        targets=(EVIL,),
        facts={"weights": EVIL, "device": EVIL, "policy_sha256": EVIL, "torch": EVIL},
        counts={"decisions": {EVIL: 1}, "rows": 1},
        outputs={EVIL: EVIL},
        died=False,
    )
    check_all_formats(runs.run_report(record))
    check_all_formats(runs.list_report([replace(record, id=f"<{EVIL[20:27]}", counts={
        "rows": EVIL})], more=True))  # fmt: skip
    item = dict.fromkeys(
        (
            *("name", "title", "fit_for", "advice", "licence", "size", "claim", "claimed_by"),
            *("verified", "source"),
        ),
        EVIL,
    )
    covers = {"nudity": EVIL}
    more = {"categories": ["nudity", EVIL], "covers": covers, "installed": True, "problem": EVIL}
    check_all_formats(weights.report([{**item, **more, "digest": EVIL}]))
    check_all_formats(weights.entry_report({**item, **more, "composite_of": [EVIL]}))


def test_scan_shows_the_same_care(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    name = os.fsencode(EVIL[:-2].replace("/", "").replace("\x00", "")) + b"\xff.jpg"
    with open(os.path.join(b"in", name), "wb") as image:
        image.write(b"no image")
    summaries = [f"--summary=s{suffix}" for suffix in REPORT_SUFFIXES]
    options = ["--weights", str(bundle), "--no-state", *summaries]
    assert run(["scan", "in", *options]) in (0, 2)  # nothing could be scored
    for suffix in REPORT_SUFFIXES:
        check_text(Path(f"s{suffix}").read_text(), suffix)
    assert "&lt;script&gt;" in Path("s.html").read_text()


def test_a_renderer_for_every_suffix_that_targets_may_have() -> None:
    assert tuple(FORMATS) == REPORT_SUFFIXES
