"""What a review shows: overturned decisions by band, time, agreement, exposure."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from moderate.analysis.bounds import interval
from moderate.analysis.review_report import Review, review_report
from moderate.cli.main import run
from moderate.policy.load import load_policy
from moderate.results.read import read_results
from moderate.review.verdicts import read_decisions
from moderate.types import Category
from tests.support.reviewed import Answer, write_journal
from tests.support.scored import write_results

Captured = pytest.CaptureFixture[str]
BALANCED = load_policy("balanced").policy

# Of nudity, whose thresholds are 0.3 and 0.85: two of each band, then a row under both.
NUDITY = [0.1, 0.2, 0.3, 0.48, 0.5, 0.6, 0.7, 0.84, 0.85, 0.99]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    violence = [0.0] * 9 + [0.9]
    scores = {Category.NUDITY: NUDITY, Category.VIOLENCE: violence}
    arrays = {name: np.array(values, np.float32) for name, values in scores.items()}
    return write_results(tmp_path / "r.csv", arrays, copies=(2,), errors=1)


def reviewed(results: Path, answers: list[Answer], **more: dict[int, object]) -> Review:
    Path("j").unlink(missing_ok=True)
    path = write_journal(Path("j"), results, answers, **more)
    return review_report(read_results(str(results)), BALANCED, read_decisions([str(path)]))


def test_images_are_counted_by_category_and_band(results: Path) -> None:
    answers = [
        *((1, "ada", "approve"), (2, "ada", "block"), (3, "ada", "approve"), (4, "ada", "block")),
        *((5, "ada", "block"), (6, "ada", "unsure"), (8, "ada", "block"), (9, "ada", "approve")),
        *((10, "ada", "block"), (12, "ada", "approve")),
    ]
    review = reviewed(results, answers)
    counts = {
        (band.category, band.name): (band.approved, band.blocked, band.unsure)
        for band in review.bands
    }
    assert counts == {
        (None, "below review"): (1, 1, 0),
        ("nudity", "near review"): (1, 1, 0),
        ("nudity", "middle"): (0, 1, 1),
        ("nudity", "near block"): (0, 1, 0),
        ("nudity", "block"): (1, 1, 0),
        ("violence", "block"): (0, 1, 0),
        (None, "not scored"): (1, 0, 0),
    }
    bands = {(band.category, band.name): band for band in review.bands}
    below, block = bands[None, "below review"], bands["nudity", "block"]
    assert below.overturned
    assert block.overturned
    assert bands["nudity", "middle"].overturned is None, "the machine decided nothing"
    assert (below.overturned.value, block.overturned.value) == (0.5, 0.5)
    assert (block.overturned.low, block.overturned.high) == interval(1, 2, 0.95)
    assert bands["nudity", "middle"].blocked_share.total == 1
    assert (review.images, review.copies) == (10, 1)
    assert review.against["review"] == {"approved": 2, "blocked": 3, "unsure": 1}


def test_time_and_the_price_of_the_middle_band(results: Path) -> None:
    """Six of the seven images in review are decided, one of them twice, one without a time."""
    answers = [(n, "ada", "approve") for n in (3, 4, 5, 6, 7, 8, 9)]
    seconds: dict[int, object] = {3: 2.0, 4: 4.0, 5: 6.0, 6: 8.0, 7: 10.0, 9: 100.0}
    review = reviewed(results, [*answers, (3, "bob", "approve")], seconds=seconds)
    assert review.pace
    assert (review.pace.count, review.pace.median) == (7, 6.0)
    assert (review.pace.lower, review.pace.upper) == (3.0, 9.0)
    middle = review.middle
    assert (middle.images, middle.decided) == (7, 6), "the copy is none, the error is one"
    assert middle.hours_per_thousand == pytest.approx((32 / 5) * 1000 / 3600)
    assert middle.hours_left == pytest.approx((32 / 5) / 3600)
    untimed = reviewed(results, answers)
    assert untimed.pace is None
    assert untimed.middle.hours_left is None


def test_reviewers_agreement_and_exposure(results: Path) -> None:
    answers = [
        *((3, "ada", "approve"), (3, "bob", "approve"), (4, "ada", "block"), (4, "bob", "block")),
        *((5, "ada", "block"), (5, "bob", "approve"), (6, "ada", "block"), (6, "ada", "undo")),
    ]
    shown: dict[int, object] = {4: "colour", 6: "grey"}
    review = reviewed(results, answers, revealed=shown)
    ada, bob = review.reviewers
    assert (ada.approved, ada.blocked, ada.unsure, ada.replaced, ada.severe) == (1, 2, 0, 1, 2)
    assert (bob.approved, bob.blocked, bob.replaced, bob.severe) == (2, 1, 0, 1)
    assert review.agreement
    assert (review.agreement.count, review.agreement.alike) == (3, 2 / 3)
    assert review.agreement.kappa == pytest.approx(0.4)
    assert review.disputed == 1


def test_the_report_in_every_format(results: Path, capsys: Captured) -> None:
    answers = [(4, "ada\x1b[31m<b>", "block"), (9, "bob", "approve"), (4, "bob", "block")]
    reviewed(results, answers, seconds={4: 3.0}, revealed={4: "colour"})
    given = ["report", "r.csv", "--decisions", "j"]
    assert run(given) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "nudity    block     1           1  100.0% (2.5 to 100.0)" in shown
    assert "2 images of 12 rows decided by 2 reviewers" in shown
    assert "middle band: 1 of 7 images decided; 1.67 hours per 1,000 images" in shown
    assert "kappa is not defined" in shown
    assert "exposure: 2 severe images seen sharp" in shown
    assert run([*given, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["bands"][-1]["overturned"]["value"] == 1
    assert data["second_looks"]["count"] == 1
    assert data["severe_seen"] == 2
    for name, text in (
        ("r.md", "## Where people overturned the scores"),
        ("r.html", "<caption>Where people overturned the scores</caption>"),
        ("r.json", '"middle_band"'),
    ):
        assert run([*given, "--out", name]) == 0
        assert text in Path(name).read_text()
        assert "<b>" not in Path(name).read_text() or name == "r.json"


def test_nobody_has_decided_yet(results: Path, capsys: Captured) -> None:
    Path("j").touch()
    assert run(["report", "r.csv", "--decisions", "j"]) == 0
    shown = capsys.readouterr().out
    assert "0 images of 12 rows decided by 0 reviewers" in shown
    assert "no decision was timed" in shown


def test_wrong_usage_is_one_line(results: Path, capsys: Captured) -> None:
    write_journal(Path("j"), results, [(4, "ada", "block")])
    write_results(Path("other.csv"), {Category.NUDITY: np.array([0.5] * 3, np.float32)})
    for arguments, message in (
        (["r.csv", "--trend"], "--decisions goes with one results file"),
        (["other.csv"], "decisions on other results than these"),
        (["r.csv", "--out", "j"], "use one of"),
        (["r.csv", "r.csv"], "name one results file"),
    ):
        assert run(["report", *arguments, "--decisions", "j"]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
