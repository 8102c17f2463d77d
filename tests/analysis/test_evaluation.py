"""Results held against labels: what counts as missed, as a false block, and what gates say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

from moderate.analysis.evaluation import (
    CURVE_POINTS,
    MOST_SLICES,
    Evaluation,
    Wanted,
    evaluate,
)
from moderate.analysis.labels import read_labels
from moderate.analysis.metrics import NO_IMAGES, NO_POSITIVES
from moderate.errors import InputError
from moderate.policy.load import load_policy
from moderate.results.read import read_results
from moderate.types import CATEGORIES, Category, Decision
from tests.support.labelled import digest_of, write_results

NUDITY, VIOLENCE = Category.NUDITY, Category.VIOLENCE
NOTHING = Wanted({}, {})
BALANCED = load_policy("balanced").policy
REVIEW, BLOCK = BALANCED.categories[NUDITY].review, BALANCED.categories[NUDITY].block

Scores = Mapping[str, Mapping[Category, float] | None]


def both(nudity: float, violence: float = 0.0) -> dict[Category, float]:
    return {NUDITY: nudity, VIOLENCE: violence}


def held(
    folder: Path,
    scores: Scores,
    labels: str,
    wanted: Wanted = NOTHING,
    results: dict[str, Any] | None = None,
    **options: Any,
) -> Evaluation:
    """An evaluation of results with these scores by labels, given as CSV."""
    (folder / "labels.csv").write_text(labels)
    written = write_results(folder / "rows.parquet", scores, **(results or {}))
    options = {"resamples": 0} | options
    return evaluate(
        read_results(written), read_labels(str(folder / "labels.csv")), wanted, **options
    )


def test_decisions_by_label(tmp_path: Path) -> None:
    scores: Scores = {
        "./positive, approved": both(0.01),
        "./positive, blocked": both(0.99),
        "./positive for one, approved": both(0.01),
        "./negative, blocked": both(0.99),
        "./negative, blocked for what is not labelled": both(0.0, 0.99),
        "./negative, approved": both(0.01),
        "./positive, an error": None,
        "./negative, an error": None,
        "./unlabelled": both(0.99),
    }
    lines = ["1,0", "1,", "0,1", "0,0", "0,", ",0", "1,?", "0,0", ","]
    # Names hold commas.
    rows = [f'"{path}",{line}\n' for path, line in zip(scores, lines, strict=True)]
    found = held(tmp_path, scores, "path,nudity,violence\n" + "".join(rows))
    assert found.images == 8
    assert found.decisions.by_label == ((2, 1, 1), (1, 1, 2))
    assert found.decisions.errors_by_label == ((0, 1, 0), (0, 1, 0))
    assert found.decisions.missed.value == 2 / 4
    assert found.decisions.false_block.value == 2 / 4
    assert found.decisions.by_expected == ()
    assert (found.errors, found.unscored, found.unlabelled) == (2, 2, 1)
    assert any("without a score: 2, of them errors: 2, approved: 0;" in n for n in found.notes)
    nudity = found.categories[0]
    assert (nudity.n, nudity.positives, nudity.unscored) == (5, 2, 2)
    assert nudity.measured.at_review == (1, 1, 1, 2)


def test_an_expected_decision(tmp_path: Path) -> None:
    scores: Scores = {"./a": both(0.0), "./b": both(0.99), "./c": both(0.5), "./d": both(0.5)}
    found = held(tmp_path, scores, "path,decision\na,approve\nb,review\nc,block\nd,\n")
    assert found.decisions.by_expected == ((1, 0, 0), (0, 0, 1), (0, 1, 0))
    assert (found.decisions.missed.value, found.decisions.false_block.value) == (None, None)
    assert all(each.n == 0 for each in found.categories)


def test_a_score_at_the_threshold_reaches_it(tmp_path: Path) -> None:
    below = float(np.nextafter(np.float32(REVIEW), np.float32(0)))
    scores: Scores = {"./at": both(REVIEW), "./below": both(below), "./block": both(BLOCK)}
    found = held(tmp_path, scores, "path,nudity\nat,1\nbelow,1\nblock,1\n")
    assert found.categories[0].measured.at_review == (2, 0, 1, 0)
    assert found.categories[0].measured.at_block == (1, 0, 2, 0)
    assert found.decisions.by_label[0] == (1, 1, 1)


def test_categories_are_measured_as_scikit_learn_does(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    truth = random.random((300, 2)) < 0.3
    given = random.random((300, 2)).round(2)
    scores = {f"./{i}": both(*row) for i, row in enumerate(given.tolist())}
    lines = [f"{i},{int(a)},{int(b)}\n" for i, (a, b) in enumerate(truth)]
    found = held(tmp_path, scores, "path,nudity,violence\n" + "".join(lines), resamples=50)
    for column, number in enumerate((0, 3)):
        each = found.categories[number]
        exact = given[:, column].astype(np.float32)
        flagged = exact >= np.float32(each.review)
        assert each.measured.precision.value == sk.precision_score(truth[:, column], flagged)
        assert each.measured.recall.value == sk.recall_score(truth[:, column], flagged)
        area = sk.average_precision_score(truth[:, column], exact)
        assert each.measured.average_precision.value == pytest.approx(area)
        assert each.measured.average_precision.method == "bootstrap"
        assert each.points[-1].recall == each.points[-1].flagged == 1.0
        assert len(each.points) == len(np.unique(exact))
    again = held(tmp_path, scores, "path,nudity,violence\n" + "".join(lines), resamples=50)
    assert again == found
    missed, false_block = found.decisions.missed, found.decisions.false_block
    for share in (missed, false_block):
        assert share.method in {"bootstrap", "exact"}


def test_another_policy_decides_again(tmp_path: Path) -> None:
    policy = tmp_path / "mine.toml"
    limits = "\n".join(f"{each} = {{ review = 0.6, block = 0.8 }}" for each in CATEGORIES)
    digest = digest_of("./listed")
    policy.write_text(
        f'name = "mine"\non_error = "block"\n[categories]\n{limits}\n'
        '[[override]]\nwhen = "source = clinic"\n[override.categories.nudity]\n'
        "review = 0.9\nblock = 1.0\n"
        '[[override]]\nwhen = "avatars/**"\npolicy = "strict"\n'
        f'[[block]]\nsha256 = "{digest}"\nreason = "known"\n'
    )
    scores: Scores = {
        "./a": both(0.5), "./b": both(0.7), "./c": both(0.85), "./d": both(0.85),
        "./avatars/e": both(0.5), "./listed": both(0.0), "./error": None,
    }  # fmt: skip
    source = ["forum", "forum", "forum", "clinic", "forum", "forum", "forum"]
    labels = "path,nudity\n" + "".join(f"{path},1\n" for path in scores)
    found = held(
        tmp_path, scores, labels, results={"carried": {"source": source}}, policy=str(policy)
    )
    assert found.decided_again
    assert found.policy == "mine"
    # a and d are approved; c, the listed one and the error are blocked; e is up to strict.
    expected = [2, 1, 3]
    expected[load_policy("strict").policy.categories[NUDITY].decision(0.5).severity] += 1
    assert found.decisions.by_label[0] == tuple(expected)
    nudity = found.categories[0]
    assert (nudity.review, nudity.block, nudity.overridden) == (0.6, 0.8, 2)
    assert nudity.measured.at_review == (3, 0, 3, 0)  # b, c and avatars/e
    assert [each.path for each in nudity.misses] == ["./listed", "./a", "./d"]
    assert nudity.misses[0].decision is Decision.BLOCK
    as_it_was = held(tmp_path, scores, labels, results={"carried": {"source": source}})
    assert not as_it_was.decided_again
    assert as_it_was.categories[0].measured.at_review.tp == 5


def test_the_policy_of_the_results_needs_none_of_its_files(tmp_path: Path) -> None:
    policy = tmp_path / "mine.toml"
    (tmp_path / "cleared.csv").write_text("sha256,reason,expires\n")
    limits = "\n".join(f"{each} = {{ review = 0.6, block = 0.8 }}" for each in CATEGORIES)
    policy.write_text(
        f'name = "mine"\nignore_file = "cleared.csv"\n[categories]\n{limits}\n'
        '[[override]]\nwhen = "avatars/**"\npolicy = "strict"\n'
    )
    loaded = load_policy(str(policy)).policy
    (tmp_path / "cleared.csv").unlink()
    policy.unlink()
    scores: Scores = {"./avatars/a": both(0.5), "./b": both(0.5)}
    labels = "path,nudity\navatars/a,1\nb,1\n"
    found = held(tmp_path, scores, labels, results={"policy": loaded})
    assert found.categories[0].measured.at_review == (1, 0, 1, 0)
    assert found.categories[0].overridden == 1
    assert any("overrides hold to other thresholds: 1" in note for note in found.notes)


def test_results_that_do_not_know_their_policy(tmp_path: Path) -> None:
    write_results(tmp_path / "rows.csv", {"./a": both(0.5)})
    beside = next(path for path in tmp_path.iterdir() if path.name != "rows.csv")
    beside.unlink()
    (tmp_path / "l.csv").write_text("path,nudity\na,1\n")
    results, labels = read_results(str(tmp_path / "rows.csv")), read_labels(str(tmp_path / "l.csv"))
    with pytest.raises(InputError, match=r"does not say by which policy .*--policy"):
        evaluate(results, labels, NOTHING)
    assert evaluate(results, labels, NOTHING, policy="strict", resamples=0).policy == "strict"


def test_the_worst_mistakes_by_name(tmp_path: Path) -> None:
    scores: Scores = {
        "./p1": both(0.2), "./p2": both(0.1), "./p3": both(0.2), "./p4": both(0.99),
        "./n1": both(0.5), "./n2": both(0.99), "./n3": both(0.01), "./n4": both(0.5),
    }  # fmt: skip
    labels = "path,nudity\n" + "".join(f"{path},{int(path[2] == 'p')}\n" for path in scores)
    nudity = held(tmp_path, scores, labels).categories[0]
    assert [each.path for each in nudity.misses] == ["./p2", "./p1", "./p3"]
    assert [each.path for each in nudity.false_alarms] == ["./n2", "./n1", "./n4"]
    assert nudity.false_alarms[0].score == float(np.float32(0.99))
    assert [each.decision for each in nudity.false_alarms[:2]] == [Decision.BLOCK, Decision.REVIEW]
    fewer = held(tmp_path, scores, labels, worst=1).categories[0]
    assert (len(fewer.misses), len(fewer.false_alarms)) == (1, 1)
    assert held(tmp_path, scores, labels, worst=0).categories[0].misses == ()


def test_slices(tmp_path: Path) -> None:
    scores: Scores = {f"./{i}": both(0.99 if i % 2 else 0.0) for i in range(8)} | {"./8": None}
    labels = "path,nudity\n" + "".join(f"{i},{int(i < 4)}\n" for i in range(9))
    source = ["forum"] * 4 + ["shop"] * 3 + [None, "shop"]
    found = held(
        tmp_path, scores, labels, results={"carried": {"source": source}},
        slices=["source", "format", "source"],
    )  # fmt: skip
    by = [(each.column, each.value, each.images) for each in found.slices]
    assert by == [("source", "forum", 4), ("source", "shop", 4), ("source", None, 1),
                  ("format", "jpeg", 9)]  # fmt: skip
    forum, shop, none, every = found.slices
    assert (forum.decisions.missed.value, forum.decisions.false_block.value) == (0.5, None)
    assert shop.decisions.by_label == ((0, 0, 0), (2, 1, 1))
    assert [(name, n, positives) for name, n, positives, _ in shop.categories] == [(NUDITY, 3, 0)]
    assert none.decisions.false_block.value == 1.0
    assert every.decisions == found.decisions
    assert every.categories[0][3] == found.categories[0].measured
    with pytest.raises(InputError, match="has no column 'colour'"):
        held(tmp_path, scores, labels, slices=["colour"])


def test_a_column_of_too_many_values(tmp_path: Path) -> None:
    scores: Scores = {f"./{i}": both(0.5) for i in range(MOST_SLICES + 3)}
    labels = "path,nudity\n" + "".join(f"{i},1\n" for i in range(len(scores)))
    found = held(tmp_path, scores, labels, slices=["sha256"])
    assert len(found.slices) == MOST_SLICES
    assert "sha256: 3 more values, of fewer images, have no slice" in found.notes


SOME: Scores = {
    "./a": both(0.9, 0.0), "./b": both(0.1, 0.0), "./c": both(0.1, 0.0), "./d": both(0.9, 0.0)
}  # fmt: skip
OF_SOME = "path,nudity,violence\na,1,0\nb,1,0\nc,0,0\nd,0,0\n"


@pytest.mark.parametrize(
    ("wanted", "passed", "line"),
    [
        (Wanted({NUDITY: 0.5}, {}), True, "recall of nudity is 0.5000, at least 0.5 as asked"),
        (Wanted({NUDITY: 0.50001}, {}), False,
         "recall of nudity is 0.5000, and must be at least 0.50001"),
        (Wanted({}, {NUDITY: 0.5}), True, "precision of nudity is 0.5000, at least 0.5 as asked"),
        (Wanted({VIOLENCE: 0.0}, {}), False,
         f"recall of violence is undefined ({NO_POSITIVES}), and must be at least 0"),
        (Wanted({}, {VIOLENCE: 0.1}), False,
         "precision of violence is undefined (no image reaches the threshold), and must be at "
         "least 0.1"),
        (Wanted({Category.DRUG_USE: 0.1}, {}), False,
         f"recall of drug_use is undefined ({NO_IMAGES}), and must be at least 0.1"),
        (Wanted({}, {}, max_false_block=0.5), True,
         "share of false blocks is 0.5000, at most 0.5 as asked"),
        (Wanted({}, {}, max_false_block=0.4), False,
         "share of false blocks is 0.5000, and must be at most 0.4"),
        (Wanted({}, {}, max_missed=0.5), True,
         "share of missed images is 0.5000, at most 0.5 as asked"),
        (Wanted({}, {}, max_missed=0.0), False,
         "share of missed images is 0.5000, and must be at most 0"),
    ],
)  # fmt: skip
def test_gates(tmp_path: Path, wanted: Wanted, passed: bool, line: str) -> None:
    found = held(tmp_path, SOME, OF_SOME, wanted)
    assert [(gate.passed, gate.line) for gate in found.gates] == [(passed, line)]
    assert found.passed is passed


def test_a_gate_on_nothing_fails(tmp_path: Path) -> None:
    wanted = Wanted({}, {}, max_false_block=1.0, max_missed=1.0)
    found = held(tmp_path, SOME, "path,nudity\na,1\nb,1\n", wanted)
    blocks, missed = found.gates
    assert (blocks.passed, missed.passed) == (False, True)
    assert "undefined (no image is labelled negative in every labelled category)" in blocks.line
    found = held(tmp_path, SOME, "path,nudity\nc,0\n", wanted)
    assert [gate.passed for gate in found.gates] == [True, False]
    assert not found.passed
    assert replace(found, gates=()).passed


def test_what_a_reader_should_know(tmp_path: Path) -> None:
    scores: Scores = dict(SOME) | {"./copy": both(0.9)}
    labels = "path,nudity,who,chosen_by\n" + "".join(
        f"{path},{value},x,{how}\n"
        for path, value, how in [("a", 1, "uncertainty"), ("copy", 1, "random"), ("gone", 1, ""),
                                 ("b", "", ""), ("a", 1, "")]
    )  # fmt: skip
    results = {"copies_of": {"./copy": "./a"}}
    notes = "\n".join(held(tmp_path, scores, labels, results=results).notes)
    for told in (
        "labels that are of no row of the results: 1",
        "rows of the results without a label: 3",
        "of which none is known: 1",
        "lines about an image named before, which agree: 1",
        "columns that are no labels: who",
        "copies of others: 1; each counts",
        "chosen by random, uncertainty: prevalence, precision",
    ):
        assert told in notes


def test_curves_that_are_thinned_keep_what_matters(tmp_path: Path) -> None:
    random = np.random.default_rng(12)
    count = 6000
    truth = random.random(count) < 0.01
    values = np.where(truth, random.beta(4, 2, count), random.beta(1, 6, count))
    scores = {f"./{n}": {NUDITY: float(value)} for n, value in enumerate(values)}
    lines = [f"{n},{int(label)}\n" for n, label in enumerate(truth)]
    (nudity, *_) = held(tmp_path, scores, "path,nudity\n" + "".join(lines)).categories
    assert len(nudity.points) <= CURVE_POINTS
    for point, counts in (
        (nudity.review_point, nudity.measured.at_review),
        (nudity.block_point, nudity.measured.at_block),
    ):
        assert point in nudity.points
        assert point is not None
        assert point.recall == pytest.approx(counts.tp / nudity.positives)
        assert point.precision == pytest.approx(counts.tp / (counts.tp + counts.fp))
    # With few positives, the curve lies in the first images: no step of recall is passed over.
    steps = np.diff([point.recall for point in nudity.points], prepend=0.0)  # type: ignore[arg-type]
    assert steps.max() <= 0.03
