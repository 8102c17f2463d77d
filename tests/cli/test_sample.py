"""`moderate sample`: a template that `moderate` itself can read once it is filled in."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from moderate.analysis.labels import read_labels
from moderate.cli.main import run
from moderate.errors import InputError
from moderate.types import Category
from tests.support.scored import write_results

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(1)
    scores = {name: rng.random(50) for name in (Category.NUDITY, Category.VIOLENCE)}
    write_results(tmp_path / "r.jsonl", scores, errors=2, copies=[0])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_template_is_written_and_can_be_read_when_filled(here: Path, capsys: Captured) -> None:
    assert run(["sample", "r.jsonl", "--by", "random", "--count", "10", "--out", "l.csv"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "10 of 50 images to label; left out: 2 errors, 1 copies, 0 not scored" in err
    assert "a uniform sample" in err
    with pytest.raises(InputError, match="labels nothing"):
        read_labels("l.csv")
    with (here / "l.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    for line in lines[1:]:
        line[lines[0].index("nudity")] = "1"
    with (here / "l.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    labels = read_labels("l.csv")
    assert len(labels.ids) == 10
    assert labels.labelled == (Category.NUDITY,)


def test_standard_output_has_the_template_alone(here: Path, capsys: Captured) -> None:
    assert run(["sample", "r.jsonl", "--by", "uncertainty", "--count", "3"]) == 0
    out, err = capsys.readouterr()
    assert len(list(csv.DictReader(out.splitlines()))) == 3
    assert "would not hold for all images" in err


def test_thresholds_are_those_of_the_run_or_named(here: Path, capsys: Captured) -> None:
    shown = []
    for options in ([], ["--policy", "balanced"], ["--policy", "strict"]):
        assert run(["sample", "r.jsonl", "--by", "uncertainty", "--count", "5", *options]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] != shown[2]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["r.jsonl", "--by", "random", "--count", "0"], "--count"),
        (["r.jsonl", "--by", "chance"], "--by"),
        (["r.jsonl"], "--by"),
        (["r.jsonl", "--by", "random", "--category", "cats"], "cats"),
        (["r.jsonl", "--by", "random", "--out", "l.txt"], "labels are a .csv file"),
        (["none.csv", "--by", "random"], "cannot read"),
        (["bare.jsonl", "--by", "band"], "name it (--policy)"),
        (["odd.jsonl", "--by", "band"], "is not valid"),
    ],
)
def test_nonsense_is_one_line(
    arguments: list[str], reason: str, here: Path, capsys: Captured
) -> None:
    rows, facts = (
        (here / "r.jsonl").read_text(),
        json.loads((here / "r.jsonl.meta.json").read_text()),
    )
    (here / "bare.jsonl").write_text(rows)
    (here / "odd.jsonl").write_text(rows)
    (here / "odd.jsonl.meta.json").write_text(json.dumps(facts | {"policy_json": "{}"}))
    assert run(["sample", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert reason in err


def test_no_cell_of_a_template_starts_a_formula(here: Path, capsys: Captured) -> None:
    rows = [json.loads(line) for line in (here / "r.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row |= {"path": f"=HYPERLINK({number})", "sha256": None, "duplicate_of": None}
    (here / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(["sample", "r.jsonl", "--by", "random", "--count", "9", "--out", "l.csv"]) == 0
    with (here / "l.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert all(line["path"].startswith("'=HYPERLINK(") for line in lines)
    text = (here / "l.csv").read_text()
    (here / "l.csv").write_text(text.replace("),,,", "),,1,"))
    assert all(name.startswith("=HYPERLINK(") for name in read_labels("l.csv").ids)
