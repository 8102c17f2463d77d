"""What people decided goes to the rows that it is about, and to no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moderate.errors import InputError
from moderate.results.read import read_results
from moderate.review.verdicts import Decisions, decided_rows, read_decisions
from moderate.types import Category
from tests.support.reviewed import Answer, write_journal
from tests.support.scored import write_results

NUDITY = {Category.NUDITY: np.array([0.1, 0.5, 0.5, 0.5, 0.9], np.float32)}
MACHINE = ["approve", "review", "review", "review", "block"]


@pytest.fixture(params=["csv", "parquet", "jsonl"])
def results(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Five images, then copies of the second and third."""
    return write_results(tmp_path / f"r.{request.param}", NUDITY, copies=(1, 2))


def final(results: Path, decisions: Decisions) -> list[tuple[str | None, ...]]:
    cells: list[tuple[str | None, ...]] = []
    for _, part, _ in decided_rows(read_results(str(results)), decisions):
        cells += zip(*(column.to_pylist() for column in part.columns().values()), strict=True)
    return cells


def journal(results: Path, *answers: Answer, name: str = "j") -> str:
    return str(write_journal(results.parent / name, results, answers))


def test_rows_and_their_copies_get_what_people_decided(results: Path) -> None:
    path = journal(results, (1, "ada", "block"), (2, "ada", "approve"), (5, "bob", "approve"))
    assert final(results, read_decisions([path])) == [
        ("block", "ada", "2026-11-02T03:00:00Z"),
        ("approve", "ada", "2026-11-02T04:00:00Z"),
        (None, None, None),
        (None, None, None),
        ("approve", "bob", "2026-11-02T05:00:00Z"),
        ("approve", "ada", "2026-11-02T04:00:00Z"),
        (None, None, None),
    ]


def test_the_stricter_holds_and_unsure_leaves_the_decision_of_the_machine(results: Path) -> None:
    path = journal(
        results,
        (1, "ada", "unsure"),
        (2, "ada", "block"),
        (2, "bob", "approve"),
        (3, "ada", "approve"),
        (3, "bob", "unsure"),
        (5, "bob", "unsure"),
        (5, "ada", "approve"),
    )
    decisions = read_decisions([path])
    assert [cells[:2] for cells in final(results, decisions)] == [
        ("approve", "ada (unsure)"),
        ("block", "ada; bob"),
        ("review", "ada; bob (unsure)"),
        (None, None),
        ("block", "bob (unsure); ada"),
        ("block", "ada; bob"),
        ("review", "ada; bob (unsure)"),
    ]
    assert decisions.by_row[1].is_unsure
    assert decisions.by_row[2].is_disputed


def test_what_was_taken_back_or_decided_again_does_not_count(results: Path) -> None:
    one = journal(results, (2, "ada", "block"), (2, "ada", "undo"), (3, "ada", "block"))
    other = journal(
        results,
        (4, "bob", "block"),
        (4, "bob", "approve"),
        (1, "cyd", "approve"),
        (3, "ada", "approve"),
        name="k",
    )
    for files in ([one, other], [other, one]):
        cells = [each[0] for each in final(results, read_decisions(files))]
        assert cells == ["approve", None, "approve", "approve", None, None, "approve"]


def test_labels_of_two_people_are_put_together(results: Path) -> None:
    labels = {2: {"nudity": True, "violence": False}}
    one = write_journal(results.parent / "j", results, [(2, "ada", "block")], labels=labels)
    labels = {2: {"violence": True, "drug_use": False}}
    other = write_journal(results.parent / "k", results, [(2, "bob", "block")], labels=labels)
    verdict = read_decisions([str(one), str(other)]).by_row[2]
    assert verdict.labels == {"nudity": True, "violence": True, "drug_use": False}


def test_decisions_on_other_results_are_refused(results: Path, tmp_path: Path) -> None:
    path = journal(results, (2, "ada", "block"), (5, "ada", "block"))
    fewer = write_results(tmp_path / "fewer.csv", {Category.NUDITY: np.full(3, 0.5, np.float32)})
    with pytest.raises(InputError, match=r"j holds decisions on other .* row 5 of 3"):
        final(fewer, read_decisions([path]))
    shuffled = write_results(tmp_path / "shuffled.csv", NUDITY, shuffle=3)
    with pytest.raises(InputError, match=r"row \d is '.*' there and '.*' here"):
        final(shuffled, read_decisions([path]))
    changed = Path(path).read_text().replace('"sha256": "', '"sha256": "00')
    Path(path).write_text(changed)
    with pytest.raises(InputError, match=r"row 2, '\./1\.jpg', had other bytes"):
        final(results, read_decisions([path]))


def test_a_name_that_is_no_text_is_written_as_escapes(results: Path) -> None:
    path = journal(results, (2, "a\ud800", "block"))
    assert final(results, read_decisions([path]))[1][1] == r"a\ud800"
