"""Decisions by columns: exactly those of the row path, text included."""

from __future__ import annotations

import itertools
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moderate.policy.columns import (
    BANDS,
    VIEWS,
    ColumnJudge,
    Rows,
    labels_of,
    row_of,
    scores_of,
)
from moderate.policy.decide import asked
from moderate.policy.judge import Judge, Subject
from moderate.policy.lists import Clearance, Lists
from moderate.policy.load import PRESETS, LoadedPolicy, load_policy
from moderate.policy.model import Policy
from moderate.types import CATEGORIES, Decision, ErrorCode, Warn

TODAY = date(2026, 5, 1)
LIMITS = (0.0, 0.005, 0.125, 0.15, 0.3, 0.375, 0.5, 0.6, 0.85, 0.95, 0.999999, 1.0)
PATHS = (
    b"./a.jpg",
    b"./avatars/1.png",
    b"/srv/medical/x.webp",
    b"./caf\xe9.jpg",
    b"./deep/avatars/a",
)
TENANTS = (None, "shop", "forum", "forum; x")
LABELS = ("safety/NSFL", "safety/NSFW", "lite/assault rifle")
DIGESTS = (None, "ab" * 32, "cd" * 32, "ef" * 32)


def around(limit: float) -> list[float]:
    """A limit in float32 with its neighbours there, as far as they are scores."""
    exact = np.float32(limit)
    near = [exact, np.nextafter(exact, np.float32(2)), np.nextafter(exact, np.float32(-1))]
    near += [np.float32(limit + step) for step in (0.01, -0.01, 0.005, -0.005, 0.0001, -1e-7)]
    return [float(value) for value in near if 0 <= value <= 1]


scores = st.none() | st.floats(0, 1, width=32) | st.sampled_from(
    [score for limit in LIMITS for score in around(limit)]
)  # fmt: skip
limits = st.sampled_from(LIMITS) | st.floats(0, 1)
not_approve = st.sampled_from(["review", "block"])


@st.composite
def thresholds(draw: st.DrawFn) -> dict[str, float]:
    review, block = sorted((draw(limits), draw(limits)))
    return {"review": review, "block": block}


@st.composite
def policies(draw: st.DrawFn, *, context: bool = False) -> Policy:
    conditions = st.dictionaries(st.sampled_from(CATEGORIES), limits, max_size=3)
    levels = [{"value": "first", "description": "the rest"}] if draw(st.booleans()) else []
    for number in range(draw(st.integers(1, 6)) if levels else 0):
        level: dict[str, Any] = {"value": f"level {number}", "description": "d"}
        level |= {"any": draw(conditions), "all": draw(conditions)}
        if not level["any"] and not level["all"]:
            level["any"] = {"violence": draw(limits)}
        levels.append(level)
    mid, high = sorted((draw(limits), draw(limits)))
    on_warning = st.dictionaries(st.sampled_from(Warn), not_approve, max_size=4)
    labels = st.dictionaries(st.sampled_from(LABELS), thresholds(), max_size=3)
    made: dict[str, Any] = {
        "name": "drawn",
        "labels": draw(labels),
        "on_error": draw(not_approve),
        "on_unscored": draw(st.sampled_from(["ignore", "review"])),
        "on_warning": draw(on_warning),
        "categories": {category: draw(thresholds()) for category in CATEGORIES},
        "rating": levels,
        "bands": {
            "categories": draw(st.lists(st.sampled_from(CATEGORIES), min_size=1, max_size=5)),
            "nsfw_above": draw(limits),
            "risk_mid_from": mid,
            "risk_high_above": high,
        },
    }
    if context:
        whens = ("avatars/**", "*.webp", "tenant = forum", "tenant != forum", "tenant = forum; x")
        made["override"] = [
            {"when": when, "name": draw(st.sampled_from(["", "a; b"])) and f"a; {when}",
             "on_error": draw(not_approve),
             "on_unscored": draw(st.sampled_from(["ignore", "review"])),
             "categories": {"nudity": draw(thresholds())},
             "labels": draw(labels)}
            for when in draw(st.lists(st.sampled_from(whens), unique=True, max_size=4))
        ]  # fmt: skip
    return Policy.model_validate(made)


@st.composite
def drawn_rows(draw: st.DrawFn) -> Rows:
    """Few cells drawn, many rows of them."""
    width = len(CATEGORIES) + len(LABELS)
    some = draw(st.lists(st.tuples(*[scores] * width), min_size=1, max_size=30))
    warnings = draw(st.lists(st.lists(st.sampled_from(Warn), max_size=3), min_size=1, max_size=6))
    errors = [None, None, None, *draw(st.lists(st.sampled_from(ErrorCode), max_size=3))]
    count = draw(st.integers(0, 300))
    cells = list(itertools.islice(itertools.cycle(some), count))
    told = ["; ".join(each) or None for each in itertools.islice(itertools.cycle(warnings), count)]
    return rows_of(cells, told, list(itertools.islice(itertools.cycle(errors), count)))


def rows_of(
    cells: list[tuple[float | None, ...]], warnings: list[str | None], errors: list[Any]
) -> Rows:
    count = len(cells)
    width = len(cells[0]) if cells else len(CATEGORIES) + len(LABELS)
    columns = [pa.array([row[n] for row in cells], pa.float32()) for n in range(width)]
    own, theirs = columns[: len(CATEGORIES)], columns[len(CATEGORIES) :]
    labels = {name: scores_of([array])[0] for name, array in zip(LABELS, theirs, strict=False)}
    paths = [PATHS[n % len(PATHS)] for n in range(count)]
    tenants = [TENANTS[(n // 2) % len(TENANTS)] for n in range(count)]
    return Rows(
        scores=scores_of(own),
        warnings=pa.array(warnings, pa.string()),
        failed=np.array([error is not None for error in errors], bool),
        errors=pa.array(errors, pa.string()),
        paths=lambda: paths,
        sha256=pa.array([DIGESTS[(n // 3) % len(DIGESTS)] for n in range(count)], pa.string()),
        carried={"tenant": tenants}.__getitem__,
        labels=labels.__getitem__,
    )


def check(loaded: LoadedPolicy, rows: Rows) -> None:
    judge = Judge.of(loaded, TODAY, ["tenant"])
    made = ColumnJudge(loaded, ["tenant"], TODAY).decide(rows)
    decisions, reasons = made.decisions().to_pylist(), made.reasons.to_pylist()
    views = {name: made.views[name].to_pylist() for name in VIEWS}
    paths, tenants = rows.paths(), rows.carried("tenant")
    assert len(decisions) == len(reasons) == len(rows)
    for index in range(len(rows)):
        subject = Subject(paths[index], {"tenant": tenants[index]}, rows.sha256[index].as_py())
        scores, warnings, error = row_of(rows, index)
        labels = labels_of(rows, index, judge.labels)
        judged = judge.judge(subject, scores, warnings, error, labels)
        assert decisions[index] == judged.decision
        assert Decision(decisions[index]).severity == made.severity[index]
        assert reasons[index] == "; ".join(judged.reasons)
        for name in VIEWS:
            expected = getattr(judged.views, name)
            if isinstance(expected, float):
                expected = float(np.float32(expected))
            assert views[name][index] == expected, name
        bands = [BANDS[number] for number in made.bands[:, index]]
        assert bands == asked(judge.policy_for(subject), scores)


def loaded_as(policy: Policy, lists: Lists | None = None) -> LoadedPolicy:
    return LoadedPolicy(policy, "", "0" * 64, lists or Lists())


slow = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@slow
@given(policies(), drawn_rows())
def test_any_policy_decides_as_row_by_row(policy: Policy, rows: Rows) -> None:
    check(loaded_as(policy), rows)


@slow
@given(policies(context=True), drawn_rows(), st.booleans(), st.booleans())
def test_so_do_overrides_and_lists(policy: Policy, rows: Rows, ignore: bool, block: bool) -> None:
    tomorrow = TODAY + timedelta(days=1)
    cleared = {DIGESTS[1]: Clearance("seen", tomorrow), DIGESTS[2]: Clearance("old", TODAY)}
    lists = Lists(cleared if ignore else {}, {DIGESTS[3]: "known; bad"} if block else {})
    check(loaded_as(policy, lists), rows)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_at_all_its_limits(preset: str) -> None:
    loaded = load_policy(preset)
    generator = np.random.default_rng(7)
    told = {each.review for each in loaded.policy.categories.values()}
    told |= {each.block for each in loaded.policy.categories.values()}
    exact = [score for limit in sorted(told | set(LIMITS)) for score in around(limit)]
    cells: list[tuple[float | None, ...]] = [(None,) * len(CATEGORIES)]
    for n in range(5000):
        at = [exact[n % len(exact)] if generator.random() < 0.5 else None for _ in CATEGORIES]
        drawn = map(float, generator.beta(0.3, 2, len(CATEGORIES)).astype(np.float32))
        cells.append(tuple(a if n % 3 == 0 else d for a, d in zip(at, drawn, strict=True)))
    kinds = [None, None, "animated", "small_image; alpha_ambiguous", "no warning of ours; animated"]
    warnings = [kinds[n % len(kinds)] for n in range(len(cells))]
    errors = [ErrorCode.TRUNCATED if n % 11 == 0 else None for n in range(len(cells))]
    check(loaded, rows_of(cells, warnings, errors))


def test_an_error_without_a_code_is_one_too() -> None:
    rows = rows_of([(0.9,) * 5], [None], ["x"])
    without = Rows(rows.scores, rows.warnings, rows.failed, pa.nulls(1, pa.string()), rows.paths,
                   rows.sha256, rows.carried)  # fmt: skip
    made = ColumnJudge(load_policy("strict")).decide(without)
    assert made.decisions().to_pylist() == ["block"]
    assert made.reasons.to_pylist() == ["error unknown: on_error block"]
    assert made.views["nsfw_score"].to_pylist() == [None]


def test_every_float32_gets_the_digits_of_the_row_path() -> None:
    """Ties of the second digit too, which go to the even one."""
    drawn = np.random.default_rng(1).random(50_000, np.float32)
    ties = (np.arange(0, 1001) / 1000).astype(np.float32)
    halves = (np.arange(0, 201) / 200).astype(np.float32)
    eighths = (np.arange(0, 65) / 64).astype(np.float32)
    every = np.concatenate([drawn, ties, halves, eighths]).astype(np.float64)
    made = np.rint(every * 100).astype(int)
    expected = [f"{value:.2f}" for value in every.tolist()]
    assert [f"{number / 100:.2f}" for number in made] == expected
