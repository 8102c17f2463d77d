"""`moderate review export`: lists that a policy takes, and labels that `eval` and `tune` take."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from moderate.analysis.labels import read_labels
from moderate.analysis.sample import HEADER
from moderate.cli.main import run
from moderate.policy.load import load_policy
from moderate.results.read import read_results
from moderate.types import Category
from tests.support.reviewed import write_journal
from tests.support.scored import digest, drawn, write_results

Captured = pytest.CaptureFixture[str]
DAY = (datetime.now(UTC).date() + timedelta(days=90)).isoformat()
WHY = ["--reason", "looked at, November", "--expires", DAY]


@pytest.fixture
def reviewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six images of which two were approved, two blocked, one is disputed, and one unsure."""
    monkeypatch.chdir(tmp_path)
    scores = {Category.NUDITY: np.array([0.1, 0.5, 0.6, 0.9, 0.5, 0.5], np.float32)}
    rows = write_results(tmp_path / "r.csv", scores, copies=(1,), errors=1)
    answers = [
        *((1, "ada", "approve"), (2, "ada", "block"), (3, "ada", "approve"), (4, "ada", "block")),
        *((5, "ada", "approve"), (5, "bob", "unsure"), (6, "bob", "unsure"), (8, "bob", "block")),
    ]
    labels = {2: {"nudity": True, "violence": False}, 3: {"nudity": False}}
    write_journal(
        tmp_path / "r.csv.decisions.jsonl",
        rows,
        answers,
        labels=labels,
        inclusion_probability={1: 0.25, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0, 6: 1.0, 8: 1.0},
    )
    return rows


def test_lists_are_taken_by_a_policy(reviewed: Path, capsys: Captured) -> None:
    targets = ["--cleared", "cleared.csv", "--blocked", "blocked.csv"]
    assert run(["review", "export", "r.csv", *targets, *WHY]) == 0
    said = capsys.readouterr().err
    assert "2 cleared, 2 blocked, 2 undecided" in said
    assert "1 decisions are on files without a digest" in said
    policy = load_policy("balanced").text.replace('name = "balanced"', 'name = "mine"')
    names = 'ignore_file = "cleared.csv"\nblock_file = "blocked.csv"\n'
    Path("mine.toml").write_text(names + policy)
    assert run(["decide", "r.csv", "--policy", "mine.toml", "--out", "again.csv", "-q"]) == 0
    rows = list(read_results("again.csv").rows())
    decisions = [row["decision"] for row in rows]
    assert decisions == [
        "approve",
        "block",
        "approve",
        "block",
        "review",
        "review",
        "block",
        "review",
    ]
    assert "looked at, November" in rows[2]["reasons"]
    lists = load_policy("mine.toml").lists
    assert set(lists.cleared) == {digest("./0.jpg"), digest("./2.jpg")}
    assert {entry.expires.isoformat() for entry in lists.cleared.values()} == {DAY}


def test_labels_are_the_answers_of_people_and_no_guesses(reviewed: Path, capsys: Captured) -> None:
    assert run(["review", "export", "r.csv", "--labels", "labels.csv"]) == 0
    with open("labels.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == HEADER
    named = [dict(zip(header, row, strict=True)) for row in rows]
    assert [row["path"] for row in named] == [f"./{n}.jpg" for n in range(6)], "no error, no copy"
    assert [row["nudity"] for row in named] == ["", "1", "0", "", "", ""]
    assert [row["violence"] for row in named] == ["", "0", "", "", "", ""]
    chosen_for = ["approve", "review", "review", "block", "review", "review"]
    assert [row["chosen_for"] for row in named] == chosen_for
    assert [row["inclusion_probability"] for row in named] == ["0.25", *["1.0"] * 5]
    read = read_labels("labels.csv")
    assert read.ids == ("1.jpg", "2.jpg")
    assert read.chosen_by == ("review",)
    assert run(["eval", "r.csv", "--labels", "labels.csv"]) == 0


def test_labels_of_all_queues_stand_for_all_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """All of review and block, and a sample of the approved: tune weights them as it should."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(7)
    scores, labels = drawn(rng, 4000)
    rows = write_results(Path("r.csv"), {Category.NUDITY: scores})
    decisions = [row["decision"] for row in read_results("r.csv").rows()]
    approved = [n for n, decision in enumerate(decisions, 1) if decision == "approve"]
    sampled = rng.permutation(approved)[:800].tolist()
    chosen = sorted([*sampled, *(n for n in range(1, 4001) if decisions[n - 1] != "approve")])
    shares = dict.fromkeys(chosen, 1.0) | dict.fromkeys(sampled, 800 / len(approved))
    # The first hundred came from a smaller sample, which the larger one contains.
    shares |= dict.fromkeys(sampled[:100], 100 / len(approved))
    answers = {n: {"nudity": bool(labels[n - 1])} for n in chosen}
    given = [(n, "ada", "block" if labels[n - 1] else "approve") for n in chosen]
    write_journal(Path("j"), rows, given, labels=answers, inclusion_probability=shares)
    export = ["review", "export", "r.csv", "--decisions", "j", "--labels", "l.csv"]
    assert run(export) == 0
    assert run(["eval", "r.csv", "--labels", "l.csv", "--out", "e.json"]) == 0
    found = json.loads(Path("e.json").read_text())
    nudity = found["categories"]["nudity"]
    assert nudity["images"] == len(chosen)
    assert nudity["prevalence"] == pytest.approx(labels.mean(), abs=0.015)


def test_nothing_is_listed_without_a_reason_and_an_end(reviewed: Path, capsys: Captured) -> None:
    lists = ["--cleared", "c.csv", "--blocked", "b.csv"]
    for arguments, message in (
        (lists, "need --reason TEXT"),
        ([*lists, "--reason", " ", "--expires", DAY], "need --reason TEXT"),
        ([*lists, "--reason", "x"], "--cleared needs --expires DATE"),
        ([*lists, "--reason", "x", "--expires", "soon"], "'soon': a date is 2027-01-31"),
        ([*lists, "--reason", "x", "--expires", "2020-01-31"], "without effect"),
        (["--labels", "l.txt"], "labels are a .csv file"),
        (["--labels", "l.csv", "--decisions", "none"], "cannot read none"),
        (["--labels", "l.csv", "--blocked", "l.csv", "--reason", "x"], "written twice"),
        (["--labels", "r.csv"], "is an input"),
    ):
        assert run(["review", "export", "r.csv", *arguments]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
    assert run(["review", "export", "r.csv", "--blocked", "b.csv", "--reason", "=x"]) == 0
    assert Path("b.csv").read_text().splitlines()[1].endswith(",'=x,ada")
    capsys.readouterr()
    assert run(["review", "export", "r.csv", "--blocked", "b.csv", "--reason", "x"]) == 2
    assert "may be a list that somebody wrote; add --force" in capsys.readouterr().err
    assert not {path.name for path in Path().iterdir()} & {"c.csv", "l.csv"}
