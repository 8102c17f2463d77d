"""From results to a measurement: images are drawn, labelled in a browser, and counted."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from moderate.cli.main import run
from tests.support.browser import MISSING, find_browser
from tests.support.reviewing import Served, drawn_queue, reviewing_browser

pytestmark = pytest.mark.skipif(find_browser() is None, reason=MISSING)

COUNT = 10


@pytest.mark.slow  # the parts have quicker tests: tests/review, tests/analysis
def test_a_template_is_labelled_by_keys_and_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = find_browser()
    assert program
    monkeypatch.chdir(tmp_path)
    drawn_queue(tmp_path, COUNT, (60, 40))
    template = tmp_path / "labels.csv"
    sample = ["sample", "r.csv", "--by", "random", "--count", str(COUNT), "--out", str(template)]
    assert run(sample) == 0
    with (
        Served(template, "--approve-is-no", order=None) as served,
        reviewing_browser(program, tmp_path / "browser") as page,
    ):
        page.visit(served.link)
        shown = []
        for number in range(COUNT):
            shown.append(page.shown())
            if number % 2:
                page.decide("a")
            else:
                page.press("1")
                page.decide("b")
        page.wait_for("!document.querySelector('#finished').hidden")
        assert page.complaints() == []
    with open(template, newline="") as file:
        lines = {Path(line["path"]).name: line for line in csv.DictReader(file)}
    assert len(lines) == COUNT
    assert set(shown) == lines.keys()
    for number, name in enumerate(shown):
        assert lines[name]["nudity"] == ("0" if number % 2 else "1")
        assert lines[name]["violence"] == ("0" if number % 2 else "")
    out = ["--bootstrap", "0", "--out", "eval.json", "-q"]
    assert run(["eval", "r.csv", "--labels", "labels.csv", *out]) == 0
    found = json.loads(Path("eval.json").read_text())["categories"]
    assert (found["nudity"]["images"], found["nudity"]["positives"]) == (COUNT, COUNT // 2)
    assert (found["violence"]["images"], found["violence"]["positives"]) == (COUNT // 2, 0)
