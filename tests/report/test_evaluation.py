"""What an evaluation looks like: on a terminal, as JSON, Markdown, and one page of HTML."""

from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moderate.analysis.evaluation import DEFINITIONS, Evaluation, Wanted, evaluate
from moderate.analysis.labels import read_labels
from moderate.report.evaluation import SCHEMA, plots, report
from moderate.report.files import to_json
from moderate.report.html import to_html
from moderate.report.markdown import to_markdown
from moderate.report.svg import Bar, Mark, Plot, svg
from moderate.report.terminal import show
from moderate.results.read import read_results
from moderate.types import CATEGORIES, Category
from tests.support.labelled import write_results

HOSTILE = "./<script>alert(1)</script>|`x`\x1b[31m\u202e\n.jpg"
SVG = "{http://www.w3.org/2000/svg}"


def made(folder: Path, prevalence: float = 0.3, **options: Any) -> Evaluation:
    """Of 200 images, with long and hostile names and values, errors, and two gates."""
    random = np.random.default_rng(8)
    scores: dict[str, dict[Category, float] | None] = {}
    lines = []
    for number in range(200):
        truth = random.random(3) < prevalence
        values = 1 / (1 + np.exp(-random.normal(2 * truth - 1, 1.0)))
        name = f"./{'long/' * 30}{number}.jpg"
        scores[name] = dict(zip(CATEGORIES[:3], values.tolist(), strict=True))
        lines.append(f"{name},{','.join(str(int(value)) for value in truth)},approve")
    scores[HOSTILE] = {CATEGORIES[0]: 0.001}
    quoted = '"' + HOSTILE + '"'
    lines.append(f"{quoted},1,,,block")
    scores["./broken.jpg"] = None
    lines.append("./broken.jpg,1,1,1,")
    names = ",".join(CATEGORIES[:3])
    (folder / "l.csv").write_text(f"path,{names},decision\n" + "\n".join(lines) + "\n")
    carried = {"source": [f"<b>{'wide ' * 20}</b>"] * 150 + ["forum"] * 51 + [None]}
    written = write_results(folder / "r.parquet", scores, carried=carried)
    wanted = Wanted({Category.NUDITY: 0.999}, {}, max_missed=0.9)
    options = {"resamples": 100, "slices": ["source"]} | options
    labels = read_labels(str(folder / "l.csv"))
    return evaluate(read_results(written), labels, wanted, **options)


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return made(tmp_path_factory.mktemp("evaluation"))


@pytest.fixture(scope="module")
def without_positives(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return made(tmp_path_factory.mktemp("negatives"), prevalence=0.0, resamples=0)


def shown(evaluation: Evaluation) -> str:
    stream = io.StringIO()
    show(report(evaluation), stream)
    return stream.getvalue()


def test_the_terminal_needs_80_columns(evaluation: Evaluation) -> None:
    text = shown(evaluation)
    long = [line for line in text.splitlines() if len(line) > 80]
    assert long
    # Names alone may be longer: they are to be copied.
    assert all(re.match(r"0\.\d+ +(approve|review|block) +\./long/", line) for line in long)
    assert "\x1b" not in text
    assert "\u202e" not in text
    said = " ".join(text.split())
    for told in (
        "At all thresholds (95 % interval)",
        "Decisions by the one expected",
        "By source",
        "(none) 1 ",
        "gate held share of missed",
        "MISSED recall of nudity",
        "undefined no image has both a label and a score: violence, drug_use",
    ):
        assert told in said


def test_every_number_of_a_row_is_under_its_name(evaluation: Evaluation) -> None:
    lines = shown(evaluation).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("At the review threshold"))
    nudity = evaluation.categories[0].measured
    row = next(line for line in lines[at:] if line.startswith("nudity"))
    assert row.split()[1::2] == [
        f"{each.value:.3f}" for each in (nudity.precision, nudity.recall, nudity.f1)
    ]
    assert f"{nudity.recall.low:.3f}-{nudity.recall.high:.3f}" in row


def test_json(evaluation: Evaluation) -> None:
    found = json.loads(to_json(report(evaluation)))
    assert (found["schema"], SCHEMA) == (1, 1)
    assert found["passed"] is False
    assert [gate["passed"] for gate in found["gates"]] == [False, True]
    nudity = found["categories"]["nudity"]
    ours = evaluation.categories[0]
    assert nudity["at_review"]["recall"] == {
        "value": ours.measured.recall.value, "low": ours.measured.recall.low,
        "high": ours.measured.recall.high, "method": "bootstrap",
    }  # fmt: skip
    assert nudity["at_review"]["tp"] == ours.measured.at_review.tp
    assert nudity["misses"][0]["path"] == HOSTILE
    assert sum(each["images"] for each in nudity["reliability"]) == nudity["images"] == 201
    assert found["categories"]["violence"]["roc_auc"] == {
        "value": None, "reason": "no image has both a label and a score",
    }  # fmt: skip
    assert found["decisions"]["errors_positive"] == {"approve": 0, "review": 1, "block": 0}
    assert set(found["decisions"]["expected"]) == {"approve", "review", "block"}
    assert [each["images"] for each in found["slices"]] == [150, 51, 1]


def test_markdown_shows_names_as_they_are(evaluation: Evaluation) -> None:
    text = to_markdown(report(evaluation))
    assert "\\<script\\>alert(1)\\</script\\>\\|\\`x\\`" in text
    assert "<script" not in text.replace("\\<", "")
    widths = {}
    for block in text.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        widths[block] = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
    assert all(len(width) <= 1 for width in widths.values())
    assert sum(map(len, widths.values())) > 12
    assert all(definition.split(":")[0] in text for definition in DEFINITIONS)


class _Page(HTMLParser):
    """Which tags are open, and what they need from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.loads: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag != "meta":
            self.open.append(tag)
        self.loads += [f"{tag} {name}" for name, _ in attrs if name in {"src", "href", "onload"}]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page(evaluation: Evaluation) -> _Page:
    found = _Page()
    found.feed(to_html(report(evaluation)))
    found.close()
    assert found.open == []
    return found


def test_the_page_stands_alone(evaluation: Evaluation) -> None:
    html = to_html(report(evaluation))
    found = page(evaluation)
    assert found.loads == []
    assert "script" not in found.tags
    assert "url(" not in html
    assert "@import" not in html
    assert "<script>alert(1)</script>|`x`\\x1b[31m\\u202e" in found.text
    assert "default-src 'none'" in html
    assert found.tags.count("svg") == 9  # three of each category that has labels and scores
    assert found.tags.count("table") >= 10


def drawn(plot: Plot) -> ElementTree.Element:
    return ElementTree.fromstring(svg(plot).replace("<svg ", f'<svg xmlns="{SVG[1:-1]}" ', 1))


def test_plots_are_of_the_numbers(evaluation: Evaluation) -> None:
    nudity = evaluation.categories[0]
    curve, reliability, volume = plots(nudity)
    review = nudity.measured.at_review
    at = (nudity.measured.recall.value, nudity.measured.precision.value)
    assert curve.marks[0] == Mark(at, "review")  # type: ignore[arg-type]
    assert volume.marks[0].at == pytest.approx(
        ((review.tp + review.fp) / nudity.n, review.fn / nudity.positives)
    )
    assert all(mark.at in plot.line for plot in (curve, volume) for mark in plot.marks)
    assert (volume.line[0], volume.line[-1]) == ((0.0, 1.0), (1.0, 0.0))
    assert [bar.height for bar in reliability.bars] == [each.positives for each in nudity.bins]
    for plot in (curve, reliability, volume):
        root = drawn(plot)
        box = [float(value) for value in root.attrib["viewBox"].split()]
        for line in root.iter(f"{SVG}polyline"):
            for pair in line.attrib["points"].split():
                x, y = map(float, pair.split(","))
                assert 0 <= x <= box[2]
                assert 0 <= y <= box[3]
        assert {mark.name for mark in plot.marks} <= {text.text for text in root.iter(f"{SVG}text")}


def test_svg_puts_things_where_they_belong() -> None:
    plot = Plot(
        "<&>", "x", "y", line=[(0, 0), (1, 1)], bars=[Bar(0.0, 0.5, 1.0, "<all>")],
        marks=[Mark((0.5, 0.25), "here")], diagonal=True,
    )  # fmt: skip
    root = drawn(plot)
    (line,) = root.iter(f"{SVG}polyline")
    assert line.attrib["points"] == "46,246 266,26"
    (bar,) = root.iter(f"{SVG}rect")
    assert (bar.attrib["y"], bar.attrib["height"]) == ("26", "220")
    (mark,) = root.iter(f"{SVG}circle")
    assert (mark.attrib["cx"], mark.attrib["cy"]) == ("156.0", "191.0")
    assert [each.text for each in root.iter(f"{SVG}title")] == ["<all>"]


def test_what_is_undefined_is_said_and_not_drawn(without_positives: Evaluation) -> None:
    text = " ".join(shown(without_positives).split())
    assert "sexual_activity: no positives among the labels (recall" in text
    assert "95 % interval" not in text
    assert "nan" not in text.lower()
    assert [plot.title for plot in plots(without_positives.categories[1])] == ["Reliability (ECE)"]
    assert page(without_positives).tags.count("svg") == 5
    assert json.loads(to_json(report(without_positives)))["categories"]["suggestive"]["pr_auc"] == {
        "value": None, "reason": "no positives among the labels",
    }  # fmt: skip
