"""Samples for labelling: who is in them, with which chance, and always the same."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from moderate.analysis.sample import HEADER, By, as_csv, sample
from moderate.errors import InputError
from moderate.policy.load import load_policy
from moderate.results.read import read_results
from moderate.types import CATEGORIES, Category
from tests.support.scored import write_results

POLICY = load_policy("balanced").policy
NUDITY, VIOLENCE = Category.NUDITY, Category.VIOLENCE


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 images, 5 of them copied, and 3 errors; image 7 is not scored for nudity."""
    rng = np.random.default_rng(1)
    scores = {name: rng.random(200).astype(np.float32) for name in (NUDITY, VIOLENCE)}
    scores[NUDITY][7] = np.nan
    folder = tmp_path_factory.mktemp("sample")
    return write_results(folder / "r.parquet", scores, errors=3, copies=[1, 2, 3, 4, 5])


def table(path: Path) -> dict[str, dict[str, float]]:
    return {row["path"]: row for row in read_results(str(path)).rows()}


def test_what_is_left_out_is_counted(results: Path) -> None:
    taken = sample(read_results(str(results)), POLICY, by="random", count=1000)
    assert (taken.eligible, taken.errors, taken.duplicates, taken.unscored) == (200, 3, 5, 0)
    assert {one.path for one in taken.chosen} == {f"./{n}.jpg" for n in range(200)}
    assert {one.probability for one in taken.chosen} == {1.0}
    taken = sample(read_results(str(results)), POLICY, by="random", count=9, category=NUDITY)
    assert (taken.eligible, taken.unscored) == (199, 1)
    assert [one.probability for one in taken.chosen] == [9 / 199] * 9


@pytest.mark.parametrize("by", ["random", "uncertainty", "band"])
def test_the_same_seed_chooses_the_same_whatever_the_order(by: By, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    scores = {name: rng.random(100).round(1) for name in (NUDITY, VIOLENCE)}
    chosen = []
    for number in range(3):
        file = write_results(tmp_path / f"{number}.csv", scores, copies=[3, 4], shuffle=number)
        read = read_results(str(file))
        chosen.append([sample(read, POLICY, by=by, count=20, seed=seed).chosen for seed in (1, 2)])
    assert chosen[0] == chosen[1] == chosen[2]
    assert set(chosen[0][0]) != set(chosen[0][1])


def test_random_is_uniform(results: Path) -> None:
    read = read_results(str(results))
    counts: dict[str, int] = {}
    for seed in range(100):
        for one in sample(read, POLICY, by="random", count=20, seed=seed).chosen:
            counts[one.path] = counts.get(one.path, 0) + 1
    # Each is expected 10 times; chi-squared over 199 degrees.
    statistic = sum((counts.get(f"./{n}.jpg", 0) - 10) ** 2 / 10 for n in range(200)) / 0.9
    assert 120 < statistic < 290


def test_uncertainty_takes_the_nearest_of_each_category_in_turn(results: Path) -> None:
    rows = table(results)
    taken = sample(read_results(str(results)), POLICY, by="uncertainty", count=30)
    assert [one.reason for one in taken.chosen[:4]] == ["nudity", "violence"] * 2
    assert {one.probability for one in taken.chosen} == {None}
    assert len({one.path for one in taken.chosen}) == 30

    def distance(path: str, category: Category) -> float:
        score = rows[path][category.value]
        return min(abs(score - 0.30), abs(score - 0.85))

    for category in (NUDITY, VIOLENCE):
        mine = [one.path for one in taken.chosen if one.reason == category.value]
        reached = [distance(path, category) for path in mine]
        assert len(mine) == 15
        assert reached == sorted(reached)
        others = set(rows) - {one.path for one in taken.chosen}
        others = {p for p in others if p[2:].split(".")[0].isdigit() and rows[p][category.value]}
        assert max(reached) <= min(distance(path, category) for path in others)


def test_bands_are_those_of_decisions_or_of_a_category(results: Path) -> None:
    rows = table(results)
    taken = sample(read_results(str(results)), POLICY, by="band", count=10)
    assert [one.reason for one in taken.chosen] == sorted(
        (one.reason for one in taken.chosen), key=["approve", "review", "block"].index
    )
    for one in taken.chosen:
        assert rows[one.path]["decision"] == one.reason
        there = [p for p, row in rows.items() if row["decision"] == one.reason and "-" not in p]
        assert one.probability == pytest.approx(10 / len(there))
    taken = sample(read_results(str(results)), POLICY, by="band", count=5, category=VIOLENCE)
    for one in taken.chosen:
        expected = POLICY.categories[VIOLENCE].decision(rows[one.path]["violence"])
        assert one.reason == f"violence {expected.value}"
    assert len(taken.chosen) == 15


def test_a_template_has_empty_columns_for_labels(results: Path) -> None:
    taken = sample(read_results(str(results)), POLICY, by="random", count=4)
    lines = list(csv.DictReader(io.StringIO(as_csv(taken))))
    assert tuple(lines[0]) == HEADER
    assert all(line[category.value] == "" for line in lines for category in CATEGORIES)
    assert [line["chosen_by"] for line in lines] == ["random"] * 4
    assert [float(line["inclusion_probability"]) for line in lines] == [0.02] * 4
    assert all(len(line["sha256"]) == 64 for line in lines)


def test_the_same_bytes_under_other_names_are_chosen_once(tmp_path: Path) -> None:
    scores = {NUDITY: np.linspace(0, 1, 10)}
    file = write_results(tmp_path / "r.jsonl", scores, copies=[2, 3])
    rows = [json.loads(line) | {"duplicate_of": None} for line in file.read_text().splitlines()]
    rows = [row | {"path": row["path"].replace("copy-", "a-")} for row in rows]
    chosen = []
    for order in (rows, rows[::-1]):
        file.write_text("".join(json.dumps(row) + "\n" for row in order))
        taken = sample(read_results(str(file)), POLICY, by="random", count=100)
        assert (taken.eligible, taken.duplicates) == (10, 2)
        chosen.append(taken.chosen)
    assert chosen[0] == chosen[1]
    least = {f"./{n}.jpg" for n in range(10)}  # "./2.jpg" comes before "./a-2.jpg"
    assert {one.path for one in chosen[0]} == least


def test_nothing_to_choose_from(tmp_path: Path) -> None:
    none = {NUDITY: np.array([np.nan, np.nan])}
    read = read_results(str(write_results(tmp_path / "r.csv", none, errors=1)))
    with pytest.raises(InputError, match="no image that was scored"):
        sample(read, POLICY, by="random", count=1)
    read = read_results(str(write_results(tmp_path / "e.csv", {NUDITY: np.array([])})))
    with pytest.raises(InputError, match="no rows"):
        sample(read, POLICY, by="random", count=1)
