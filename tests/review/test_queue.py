"""Which rows are in the queue, and in which order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moderate.errors import InputError, UsageError
from moderate.policy.load import load_policy
from moderate.results.read import read_results
from moderate.review.queue import Selection, needs_second_look, parse_kind, queue_of
from moderate.review.rows import read_rows
from moderate.types import CATEGORIES, Category
from tests.support.scored import write_results

POLICY = load_policy("balanced").policy


@pytest.fixture(params=["csv", "parquet", "jsonl"])
def rows(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Nudity 0.0, 0.05, ... 0.95; the other categories 0.01."""
    scores = {name: np.full(20, 0.01, np.float32) for name in CATEGORIES}
    scores[Category.NUDITY] = np.arange(20, dtype=np.float32) / 20
    return write_results(tmp_path / f"r.{request.param}", scores, errors=2, copies=(7, 8))


def chosen(rows: Path, **selection: object) -> list[int]:
    results, wanted = read_results(str(rows)), Selection(**selection)  # type: ignore[arg-type]
    read = read_rows(results, POLICY, wanted)
    assert read.numbers.tolist() == queue_of(results, POLICY, wanted).numbers.tolist()
    for number in read.numbers.tolist():
        ((_, row),) = results.find(number=number)
        assert read[number]["path"] == row["path"]
    numbers: list[int] = read.numbers.tolist()
    return numbers


def test_the_middle_band_comes_most_uncertain_or_most_severe_first(rows: Path) -> None:
    nudity = np.arange(20, dtype=np.float32) / 20
    review = [n for n in range(20) if 0.3 <= nudity[n] < 0.85]
    by_distance = sorted(
        review,
        key=lambda n: min(abs(nudity[n] - np.float32(0.3)), abs(nudity[n] - np.float32(0.85))),
    )
    assert set(chosen(rows)) == {*(n + 1 for n in review), 23, 24}
    assert chosen(rows)[-2:] == [23, 24], "there is nothing to order errors by"
    assert chosen(rows)[:1] == [by_distance[0] + 1]
    assert chosen(rows, order="severe") == [*(n + 1 for n in reversed(review)), 23, 24]
    assert chosen(rows, order="input") == [*(n + 1 for n in review), 23, 24]


def test_kinds_and_filters(rows: Path) -> None:
    assert set(chosen(rows, kind="block")) == {18, 19, 20}
    assert chosen(rows, kind="errors") == [23, 24]
    assert len(chosen(rows, kind="all")) == 22, "all but the two copies"
    sample = chosen(rows, kind="approve-sample", sample=4)
    assert len(set(sample)) == 4
    assert set(sample) <= set(range(1, 7))
    assert sample == chosen(rows, kind="approve-sample", sample=4)
    assert chosen(rows, category=Category.VIOLENCE) == []
    assert set(chosen(rows, category=Category.NUDITY)) == set(range(7, 18))
    assert chosen(rows, source="./1", order="input") == list(range(11, 18))
    assert chosen(rows, warning="small_image") == chosen(rows)[:-2], "the rows with scores have it"
    assert chosen(rows, warning="small") == []
    assert chosen(rows, column=("path", "./8.jpg")) == [9]
    with pytest.raises(InputError, match="no column 'owner'"):
        chosen(rows, column=("owner", "x"))


def test_what_the_queue_option_takes() -> None:
    assert parse_kind("approve-sample:200") == ("approve-sample", 200)
    assert [parse_kind(kind)[0] for kind in ("review", "all")] == ["review", "all"]
    for wrong in ("approve-sample", "approve-sample:0", "approve-sample:x", "reviews", ""):
        with pytest.raises(UsageError, match="use review, block"):
            parse_kind(wrong)


def test_a_second_look_takes_its_share_and_always_the_same() -> None:
    names = [f"{n}.jpg" for n in range(5_000)]
    taken = [name for name in names if needs_second_look(name, 0.05, "salt")]
    assert 180 < len(taken) < 320
    assert taken == [name for name in names if needs_second_look(name, 0.05, "salt")]
    assert not any(needs_second_look(name, 0.0, "salt") for name in names)
    assert all(needs_second_look(name, 1.0, "salt") for name in names)


def test_the_chance_of_a_row_is_that_of_the_sample(rows: Path) -> None:
    def probability(**selection: object) -> float:
        return queue_of(read_results(str(rows)), POLICY, Selection(**selection)).probability  # type: ignore[arg-type]

    assert probability() == 1
    assert probability(kind="approve-sample", sample=4) == 4 / 6
    assert probability(kind="approve-sample", sample=9) == 1
