"""`moderate eval` as people run it: reports, gates as exit codes, one clear line for the rest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from moderate.cli.main import run
from moderate.types import Category
from tests.support.labelled import SUFFIXES, write_results
from tests.support.patience import PATIENCE

NUDITY = Category.NUDITY
SCORES = {
    "./a.jpg": {NUDITY: 0.99}, "./b.jpg": {NUDITY: 0.01}, "./c.jpg": {NUDITY: 0.5},
    "./d.jpg": {NUDITY: 0.05}, "./broken.jpg": None,
}  # fmt: skip
LABELS = "path,nudity\na.jpg,yes\nb.jpg,no\nc.jpg,no\nd.jpg,yes\nbroken.jpg,yes\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.csv").write_text(LABELS)
    for suffix in SUFFIXES:
        write_results(tmp_path / f"rows.{suffix}", SCORES)
    return tmp_path


def test_all_formats_say_the_same(here: Path) -> None:
    reports = []
    for suffix in SUFFIXES:
        command = [
            sys.executable, "-P", "-m", "moderate", "eval", f"rows.{suffix}",
            "--labels", "labels.csv", "--bootstrap", "20", "--out", f"{suffix}.json",
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(
            "5 labelled images, policy balanced: 1 missed, 0 blocked falsely\n"
        )
        reports.append(json.loads((here / f"{suffix}.json").read_text()) | {"results": ""})
    assert reports[0] == reports[1] == reports[2]
    assert reports[0]["decisions"]["missed"]["value"] == pytest.approx(1 / 3)
    assert reports[0]["categories"]["nudity"]["at_review"]["tp"] == 1


def test_reports_of_every_kind(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets = ["report.json", "report.md", "report.HTML"]
    options = [part for target in targets for part in ("--out", target)]
    assert run(["eval", "rows.csv", "--labels", "labels.csv", "-q", *options]) == 0
    assert capsys.readouterr() == ("", "")
    json_text, markdown, html = ((here / target).read_text() for target in targets)
    assert json.loads(json_text)["resamples"] == 1000
    assert markdown.startswith("# moderate: evaluation\n")
    assert html.startswith("<!doctype html>")


def test_a_gate_decides_the_exit_code(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "rows.parquet", "--labels", "labels.csv", "--bootstrap", "0", "-q"]
    held = ["--min-recall", "nudity=0.5", "--max-missed", "0.34", "--max-false-block", "0"]
    assert run([*command, *held]) == 0
    assert capsys.readouterr() == ("", "")
    missed = [*command, *held, "--min-precision", "nudity=0.6", "--min-recall", "violence=0.1"]
    assert run([*missed, "--out", "report.json"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "moderate: error: recall of violence is undefined (no image has both a label and a "
        "score), and must be at least 0.1",
        "moderate: error: precision of nudity is 0.5000, and must be at least 0.6",
    ]
    report = json.loads((here / "report.json").read_text())
    assert [gate["passed"] for gate in report["gates"]] == [True, False, False, True, True]


def test_more_of_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(here / "rows.csv", SCORES, carried={"who": list("xxyyx"), "id": list("12345")})
    (here / "ids.jsonl").write_text('{"id": "1", "nudity": true}\n{"id": "5", "nudity": 0}\n')
    command = ["eval", "rows.csv", "--labels", "ids.jsonl", "--id-column", "id"]
    assert run([*command, "--slice", "who", "--policy", "strict", "--seed", "3"]) == 0
    said = capsys.readouterr().out
    assert "2 labelled images, policy strict" in said
    assert "By who" in said


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--out", "report.txt"], "use one of .json, .md, .html"),
        (["--out", "s3://bucket/report.json"], "reports are written to local files"),
        (["--out", "nowhere/report.json"], "there is no folder"),
        (["--min-recall", "nudity"], "--min-recall nudity: write CATEGORY=X, as nudity=0.95"),
        (["--min-recall", "gore=0.5"], "categories are nudity, sexual_activity"),
        (["--min-precision", "nudity=95"], "X from 0 to 1"),
        (["--min-precision", "nudity=nan"], "X from 0 to 1"),
        (["--min-recall", "nudity=0", "--min-recall", "nudity=1"], "nudity is given twice"),
        (["--max-missed", "2"], "--max-missed"),
        (["--slice", "colour"], "rows.csv has no column 'colour'"),
        (["--policy", "none"], "no policy 'none'"),
        (["--labels", "gone.csv"], "cannot read gone.csv: No such file or directory"),
        (["--labels", "empty.csv"], "empty.csv is empty: it has no labels"),
        (["--labels", "nonsense.csv"], "line 3 of nonsense.csv: nudity: 'maybe' is not a label"),
        (["--labels", "twice.csv"], "twice.csv contradicts itself about nudity of 'a.jpg'"),
        (["--labels", "other.csv"], "the labels have path 'other/a.jpg', the rows 'a.jpg'"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    (here / "empty.csv").write_text("")
    (here / "nonsense.csv").write_text("path,nudity\na.jpg,1\nb.jpg,maybe\n")
    (here / "twice.csv").write_text("path,nudity\na.jpg,1\n./a.jpg,0\n")
    (here / "other.csv").write_text("path,nudity\nother/a.jpg,1\n")
    labels = [] if "--labels" in arguments else ["--labels", "labels.csv"]
    before = sorted(here.iterdir())
    assert run(["eval", "rows.csv", *labels, *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert told in said.err
    assert len(said.err.splitlines()) == 1
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_results_without_rows(here: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    write_results(here / f"none.{suffix}", {})
    assert run(["eval", f"none.{suffix}", "--labels", "labels.csv"]) == 2
    assert capsys.readouterr().err == f"moderate: error: none.{suffix} has no rows\n"


@pytest.mark.parametrize("label", ["yes", "no"])
def test_one_class(here: Path, capsys: pytest.CaptureFixture[str], label: str) -> None:
    (here / "one.csv").write_text(f"path,nudity\na.jpg,{label}\n")
    assert run(["eval", "rows.csv", "--labels", "one.csv", "--out", "one.html"]) == 0
    said = capsys.readouterr()
    missing = "positives" if label == "no" else "negatives"
    assert f"undefined  nudity: no {missing} among the labels" in said.out
    assert said.err == ""
    assert "nan" not in (here / "one.html").read_text().lower()
