"""Volumes over time, and the test that says whether the latest differ."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from moderate.analysis.bounds import chi_squared_tail
from moderate.analysis.trend import (
    Counting,
    Limits,
    Trend,
    cohens_w,
    compare,
    stability,
)
from moderate.errors import InputError
from moderate.policy.load import load_policy
from moderate.report.markdown import to_markdown
from moderate.report.trend import report
from moderate.results.read import read_results
from moderate.results.targets import open_writers
from moderate.types import (
    UNSCORED,
    Category,
    Decision,
    ErrorCode,
    ImageError,
    ImageFacts,
    ImageRef,
    Inline,
    Row,
)
from tests.support.scored import DAY, write_results

NUDITY, VIOLENCE = Category.NUDITY, Category.VIOLENCE
NAMES = ("approve", "review", "block")


def trend(*files: Path, by: str = "day", limits: Limits | None = None) -> Trend:
    counting = Counting(by)  # type: ignore[arg-type]
    for file in files:
        counting.add_results(read_results(str(file)))
    return counting.finish(limits or Limits())


def day(
    folder: Path, number: int, count: int = 2000, power: float = 4.0, seed: int | None = None
) -> Path:
    """A day's results; the lower the power, the higher the scores."""
    rng = np.random.default_rng(number + 10 if seed is None else seed)
    scores = {name: rng.random(count) ** power for name in (NUDITY, VIOLENCE)}
    started = DAY + timedelta(days=number)
    return write_results(folder / f"{number}-{seed}.csv", scores, started=started, errors=3)


def test_the_test_is_pearsons() -> None:
    # By hand: 20 of 100 against 30 of 100, chi-squared 2.6667 at one degree.
    found = compare([80, 20, 0], [70, 30, 0], NAMES)
    assert found["statistic"] == pytest.approx(8 / 3)
    assert found["degrees"] == 1
    assert found["p"] == pytest.approx(chi_squared_tail(8 / 3, 1))
    assert found["p"] == pytest.approx(0.10247, abs=1e-5)
    found = compare([50, 30, 20], [100, 70, 30], NAMES)
    assert found["statistic"] == pytest.approx(1.5)  # expected 50 | 33.3 | 16.7 and twice that
    assert found["degrees"] == 2


def test_rare_columns_are_taken_together_and_too_little_is_no_test() -> None:
    found = compare([900, 97, 3], [900, 98, 2], NAMES)
    assert found["merged"] == "block + review"
    assert found["degrees"] == 1
    assert "too little data" in compare([5, 1, 0], [900, 98, 2], NAMES)["reason"]
    assert "too little data" in compare([0, 0, 0], [900, 98, 2], NAMES)["reason"]
    same = compare([100, 0, 0], [900, 0, 0], NAMES)
    assert (same["statistic"], same["p"], same["effect"]) == (0.0, 1.0, 0.0)


def test_under_no_change_p_is_uniform() -> None:
    rng = np.random.default_rng(1)
    found = [
        compare(
            rng.multinomial(400, [0.8, 0.15, 0.05]).tolist(),
            rng.multinomial(2000, [0.8, 0.15, 0.05]).tolist(),
            NAMES,
        )["p"]
        for _ in range(2000)
    ]
    for level in (0.05, 0.2, 0.5):
        rate = np.mean(np.array(found) < level)
        assert rate == pytest.approx(level, abs=4 * (level * (1 - level) / 2000) ** 0.5)


def test_effects_do_not_depend_on_numbers() -> None:
    assert cohens_w([(0.08, 0.05), (0.92, 0.95)]) == pytest.approx(0.1376, abs=1e-4)
    assert cohens_w([(0.5, 0.5), (0.5, 0.5)]) == 0
    assert cohens_w([(0.2, 0.0), (0.8, 1.0)]) == pytest.approx((0.4 + 0.04) ** 0.5)
    assert stability([(0.2, 0.1), (0.8, 0.9)]) == pytest.approx(0.0811, abs=1e-4)
    assert np.isfinite(stability([(0.2, 0.0), (0.8, 1.0)]))


def test_nothing_drifts_where_nothing_changes(tmp_path: Path) -> None:
    found = trend(*(day(tmp_path, number) for number in range(6)))
    assert [period.name for period in found.periods] == [f"2026-11-{n:02}" for n in range(2, 8)]
    assert [period.images for period in found.periods] == [2003] * 6
    assert [period.errors for period in found.periods] == [3] * 6
    assert found.drifted == []
    assert [test.what for test in found.tests] == [
        *("decisions", "nudity bands", "nudity scores", "violence bands", "violence scores")
    ]
    assert all(test.p_holm is not None and test.p_holm > 0.05 for test in found.tests)


def test_a_change_is_found_and_named(tmp_path: Path) -> None:
    files = [day(tmp_path, number) for number in range(5)]
    rng = np.random.default_rng(9)
    scores = {NUDITY: rng.random(2000) ** 1.5, VIOLENCE: rng.random(2000) ** 4.0}
    files.append(write_results(tmp_path / "l.csv", scores, started=DAY + timedelta(days=5)))
    found = trend(*files)
    assert found.drifted == ["decisions", "nudity bands", "nudity scores"]
    by_name = {test.what: test for test in found.tests}
    assert by_name["nudity scores"].effect_name == "psi"
    assert (by_name["nudity scores"].effect or 0) > 0.1
    assert (by_name["decisions"].effect or 0) > 0.1


def test_a_hair_over_many_images_is_no_drift(tmp_path: Path) -> None:
    earlier, latest = day(tmp_path, 0, 15_000, 4.0), day(tmp_path, 1, 15_000, 3.7)
    found = trend(earlier, latest)
    by_name = {test.what: test for test in found.tests}
    assert (by_name["nudity scores"].p_holm or 0) < 1e-3  # significant
    assert found.drifted == []  # and of no importance
    strict = trend(earlier, latest, limits=Limits(0.05, 0.0, 0.0))
    assert "nudity scores" in strict.drifted


def test_weeks_are_those_of_the_calendar_and_files_of_a_day_add_up(tmp_path: Path) -> None:
    files = [day(tmp_path, number, 50) for number in range(-1, 8)]
    found = trend(*files, by="week")
    assert [period.name for period in found.periods] == ["2026-W44", "2026-W45", "2026-W46"]
    assert [period.sources for period in found.periods] == [1, 7, 1]
    same_day = trend(day(tmp_path, 0, 50), day(tmp_path, 0, 50, seed=1))
    assert [(period.sources, period.images) for period in same_day.periods] == [(2, 106)]


def test_a_run_given_twice_counts_once(tmp_path: Path) -> None:
    file = day(tmp_path, 0)
    found = trend(file, file)
    assert found.periods[0].images == 2003
    assert any("counted already" in note for note in found.notes)


def test_too_little_is_said_and_flags_nothing(tmp_path: Path) -> None:
    found = trend(day(tmp_path, 0))
    assert found.tests == ()
    assert found.notes == ("One day only: there is nothing to compare it with.",)
    few = trend(day(tmp_path, 0), day(tmp_path, 1, 4, 0.1))
    assert few.drifted == []
    assert all("too little data" in str(test.reason) for test in few.tests)
    assert "decisions: too little data, no test." in few.notes
    assert "too little data" in to_markdown(report(few))


def test_what_else_changed_is_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    scores = {NUDITY: rng.random(100)}
    one = write_results(tmp_path / "1.csv", scores)
    other = write_results(
        tmp_path / "2.csv",
        scores,
        started=DAY + timedelta(days=1),
        policy="strict",
        weights_sha256="cd" * 32,
    )
    notes = trend(one, other).notes
    assert any("same policy" in note for note in notes)
    assert any("same weights" in note for note in notes)


def test_a_file_without_a_time_is_refused(tmp_path: Path) -> None:
    scores = {NUDITY: np.array([0.1])}
    with pytest.raises(InputError, match="does not say when it was made"):
        trend(write_results(tmp_path / "r.csv", scores, started=None))
    odd = write_results(tmp_path / "s.csv", scores)
    beside = tmp_path / "s.csv.meta.json"
    beside.write_text(beside.read_text().replace('"started": "2026', '"started": "soon'))
    with pytest.raises(InputError, match="started is not a time: 'soon-11-02"):
        trend(odd)
    with pytest.raises(InputError, match="no rows"):
        trend(write_results(tmp_path / "e.csv", {NUDITY: np.array([])}))


def test_json_states_test_and_limits(tmp_path: Path) -> None:
    found = report(trend(day(tmp_path, 0), day(tmp_path, 1))).data
    assert json.loads(json.dumps(found)) == found
    assert found["limits"] == {"alpha": 0.05, "min_w": 0.1, "min_psi": 0.1}
    assert "chi-squared" in found["test"]
    assert found["periods"][0]["decisions"].keys() == set(NAMES)
    test = found["tests"][0]
    assert test["what"] == "decisions"
    assert {"statistic", "degrees", "p", "p_holm", "effect", "limit", "drift"} <= test.keys()


def night(folder: Path, number: int, rows: dict[str, tuple[int, float | None]]) -> Path:
    """Results of a night: by image, the night it was scored in and its score (None: an error)."""
    started = DAY + timedelta(days=number)
    target = folder / f"night{number}.parquet"
    run_id = f"{number:032x}"
    facts = {"started": started.isoformat(), "run_id": run_id}
    with open_writers([str(target)]) as (writer,):
        writer.start(facts | {"policy_json": load_policy("balanced").policy.model_dump_json()})
        for name, (scored, score) in rows.items():
            scores = {**UNSCORED, NUDITY: score}
            error = None if score is not None else ImageError(ErrorCode.READ_ERROR, "the disk")
            decision = Decision.BLOCK if score and score > 0.85 else Decision.REVIEW
            writer.write(
                Row(
                    ImageRef(name.encode(), location=Inline(b"") if "://" in name else None),
                    ImageFacts(sha256=None if "://" in name else name.ljust(64, "0")),
                    scores,
                    decision,
                    (),
                    error=error,
                    run_id=run_id,
                    scored_at=None if error else DAY + timedelta(days=scored),
                )
            )
        writer.commit(facts)
    return target


def test_pixels_of_a_program_are_other_images_every_time(tmp_path: Path) -> None:
    rows = {"memory://0": 0.5, "memory://1": 0.9}
    nights = [
        night(tmp_path, number, {name: (number, score) for name, score in rows.items()})
        for number in range(2)
    ]
    assert [period.images for period in trend(*nights).periods] == [2, 2]


def test_an_image_counts_once_on_the_day_it_was_first_scored(tmp_path: Path) -> None:
    nights = [
        night(tmp_path, 0, {"a": (0, 0.5), "b": (0, 0.9), "c": (0, None)}),
        night(tmp_path, 1, {"a": (0, 0.5), "b": (0, 0.9), "c": (1, 0.9), "d": (1, 0.5)}),
        night(tmp_path, 2, {"a": (2, 0.9), "b": (0, 0.9), "c": (1, 0.9), "d": (1, 0.5)}),
        night(tmp_path, 3, {"e": (3, None), "f": (1, 0.9)}),  # f: of a night without its file
    ]
    found = trend(*reversed(nights))
    by_day = {
        period.name: (dict(+period.decisions), period.errors, period.sources)
        for period in found.periods
    }
    assert by_day == {
        "2026-11-02": ({"review": 1, "block": 1}, 0, 1),
        "2026-11-03": ({"review": 1, "block": 2}, 0, 2),
        "2026-11-05": ({"review": 1}, 1, 1),
    }
    assert {period.name: sum(period.bands["nudity"].values()) for period in found.periods[:2]} == {
        "2026-11-02": 2,
        "2026-11-03": 3,
    }
    assert any("7 rows of images that an earlier file has" in note for note in found.notes)
