"""Batches are decided exactly as the plain definition decides row by row, text included."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import date, timedelta
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moderate.analysis.decide_by_policy import policy_columns
from moderate.policy.batch import UNKNOWN_ERROR, Batch, Encoded, UndecidedRow, encoded
from moderate.policy.judge import Judge
from moderate.policy.lists import Clearance, Lists
from moderate.policy.load import PRESETS, LoadedPolicy, load_policy, parse_policy
from moderate.policy.model import Policy
from moderate.policy.rows import decide_rows
from moderate.policy.thresholds import BANDS
from moderate.types import (
    CATEGORIES,
    Decision,
    ErrorCode,
    ImageError,
    ImageFacts,
    ImageRef,
    Scores,
    Warn,
)
from tests.support import oracle

VIEWS = ("label", "nsfw_score", "safe_score", "confidence", "risk", "is_nsfw", "rating")
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
UNSEEN = (None, 0.0, 0.1, 0.2499, 0.25, float(np.float32(0.3)), 1.0)


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
        "partly_seen_from": draw(limits),
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
def drawn_rows(draw: st.DrawFn) -> list[Drawn]:
    """Few cells drawn, many rows of them."""
    width = len(CATEGORIES) + len(LABELS)
    some = draw(st.lists(st.tuples(*[scores] * width), min_size=1, max_size=30))
    warnings = draw(st.lists(st.lists(st.sampled_from(Warn), max_size=3), min_size=1, max_size=6))
    errors = [None, None, None, *draw(st.lists(st.sampled_from(ErrorCode), max_size=3))]
    count = draw(st.integers(0, 300))
    cells = list(itertools.islice(itertools.cycle(some), count))
    told = [tuple(each) for each in itertools.islice(itertools.cycle(warnings), count)]
    return rows_of(cells, told, list(itertools.islice(itertools.cycle(errors), count)))


class Drawn(NamedTuple):
    """A row to decide on."""

    path: bytes
    tenant: str | None
    sha256: str | None
    scores: Scores
    labels: dict[str, float | None]
    warnings: tuple[Warn, ...]
    error: ImageError | None
    unseen: float | None


def rows_of(
    cells: list[tuple[float | None, ...]],
    warnings: list[tuple[Warn, ...]],
    errors: list[ErrorCode | None],
) -> list[Drawn]:
    """Rows of these cells: scores of categories, then of labels; none where there is an error."""
    return [
        Drawn(
            path=PATHS[n % len(PATHS)],
            tenant=TENANTS[(n // 2) % len(TENANTS)],
            sha256=DIGESTS[(n // 3) % len(DIGESTS)],
            scores=dict(zip(CATEGORIES, (None,) * 5 if errors[n] else row, strict=False)),
            labels={} if errors[n] else dict(zip(LABELS, row[len(CATEGORIES) :], strict=False)),
            warnings=warnings[n],
            error=ImageError(code, "") if (code := errors[n]) else None,
            unseen=UNSEEN[n % len(UNSEEN)],
        )
        for n, row in enumerate(cells)
    ]


def batch_of(rows: list[Drawn]) -> Batch:
    scores = [[row.scores[category] for row in rows] for category in CATEGORIES]
    return Batch(
        scores=np.array(scores, np.float32),
        unseen=np.array([row.unseen for row in rows], np.float32),
        warnings=encoded(row.warnings or None for row in rows),
        errors=encoded(row.error and row.error.code.value for row in rows),
        paths=lambda: [row.path for row in rows],
        sha256=lambda: [row.sha256 for row in rows],
        carried={"tenant": [row.tenant for row in rows]}.__getitem__,
        labels=lambda name: np.array([row.labels.get(name) for row in rows], np.float32),
    )


def check(loaded: LoadedPolicy, rows: list[Drawn]) -> None:
    """Hold a batch, the columns that results get of it, and rows of a run against the oracle."""
    judge = Judge.of(loaded, TODAY, ["tenant"])
    decided = judge.decide(batch_of(rows))
    columns = {name: array.to_pylist() for name, array in policy_columns(decided).items()}
    assert {len(column) for column in columns.values()} == {len(decided)} == {len(rows)}
    assert (judge.bands(batch_of(rows)) == decided.bands).all()
    undecided = [
        UndecidedRow(
            ImageRef(row.path, carried=(row.tenant,)),
            ImageFacts(sha256=row.sha256, warnings=row.warnings, unseen=row.unseen),
            row.scores,
            row.error,
            row.labels,
        )
        for row in rows
    ]
    in_a_run = decide_rows(judge, undecided)
    for index, (row, made) in enumerate(zip(rows, in_a_run, strict=True)):
        carried = {"tenant": row.tenant}
        decision, reasons = oracle.judge(
            loaded, TODAY, row.path, carried, row.sha256,
            row.scores, row.warnings, row.error, row.labels, row.unseen,
        )  # fmt: skip
        policy, _ = oracle.policy_for(loaded.policy, row.path, carried)
        views, bands = oracle.views(policy, row.scores), oracle.asked(policy, row.scores)
        assert columns["decision"][index] == made.decision == decision
        assert decided.severity[index] == decision.severity
        assert columns["reasons"][index] == "; ".join(reasons)
        assert (made.reasons, made.views, list(made.bands)) == (reasons, views, bands)
        for name in VIEWS:
            expected = getattr(views, name)
            if isinstance(expected, float):
                expected = float(np.float32(expected))
            assert columns[name][index] == expected, name
        assert [BANDS[number] for number in decided.bands[:, index]] == bands


def loaded_as(policy: Policy, lists: Lists | None = None) -> LoadedPolicy:
    return LoadedPolicy(policy, "", "0" * 64, lists or Lists())


slow = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@slow
@given(policies(), drawn_rows())
def test_any_policy_decides_as_row_by_row(policy: Policy, rows: list[Drawn]) -> None:
    check(loaded_as(policy), rows)


@slow
@given(policies(context=True), drawn_rows(), st.booleans(), st.booleans())
def test_so_do_overrides_and_lists(
    policy: Policy, rows: list[Drawn], ignore: bool, block: bool
) -> None:
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
    both = (Warn.SMALL_IMAGE, Warn.ALPHA_AMBIGUOUS)
    kinds: list[tuple[Warn, ...]] = [(), (), (Warn.ANIMATED,), both, (Warn.ANIMATED,)]
    warnings = [kinds[n % len(kinds)] for n in range(len(cells))]
    errors = [ErrorCode.TRUNCATED if n % 11 == 0 else None for n in range(len(cells))]
    check(loaded, rows_of(cells, warnings, errors))


def test_an_error_without_a_code_is_one_too() -> None:
    rows = batch_of(rows_of([(0.9,) * 5], [()], [None]))
    without = replace(rows, errors=Encoded([UNKNOWN_ERROR], np.zeros(1, np.int32)))
    decided = Judge.of(load_policy("strict")).decide(without)
    made = {name: array.to_pylist() for name, array in policy_columns(decided).items()}
    assert made["decision"] == ["block"]
    assert made["reasons"] == ["error unknown: on_error block"]
    assert made["nsfw_score"] == [None]


def test_a_row_with_many_reasons_has_all_of_them_in_order() -> None:
    """As many as a policy of many labels gives, in a batch where rows share the first of them."""
    limits = {"review": 0.2, "block": 0.9}
    names = [f"m/{number}" for number in range(40)]
    policy = load_policy("balanced").policy.model_dump() | {
        "labels": dict.fromkeys(names, limits), "on_unscored": "review"
    }  # fmt: skip
    judge = Judge(Policy.model_validate(policy))
    rows = [
        UndecidedRow(
            ImageRef(b"a"), ImageFacts(warnings=(Warn.ALPHA_AMBIGUOUS,)),
            dict.fromkeys(CATEGORIES, None if number % 2 else 0.5), None,
            dict.fromkeys(names[:number % 7 * 6], 0.3),
        )
        for number in range(50)
    ]  # fmt: skip
    for row, made in zip(rows, decide_rows(judge, rows), strict=True):
        facts = row.facts
        expected = oracle.decide(
            judge.policy, row.scores, facts.warnings, None, row.labels, facts.unseen
        )
        assert (made.decision, made.reasons) == expected
        assert len(made.reasons) == 46


def test_every_float32_gets_the_digits_that_python_prints() -> None:
    """Ties of the second digit too, which go to the even one."""
    drawn = np.random.default_rng(1).random(50_000, np.float32)
    ties = (np.arange(0, 1001) / 1000).astype(np.float32)
    halves = (np.arange(0, 201) / 200).astype(np.float32)
    eighths = (np.arange(0, 65) / 64).astype(np.float32)
    every = np.concatenate([drawn, ties, halves, eighths]).astype(np.float64)
    made = np.rint(every * 100).astype(int)
    expected = [f"{value:.2f}" for value in every.tolist()]
    assert [f"{number / 100:.2f}" for number in made] == expected


def partly_seen(judge: Judge, *shares: float | None, path: bytes = b"./a.jpg") -> list[Any]:
    """What becomes of harmless images of which these shares were not seen, in one batch."""
    rows = [
        UndecidedRow(
            ImageRef(path),
            ImageFacts(warnings=(Warn.SMALL_IMAGE, Warn.PARTLY_SEEN), unseen=share),
            dict.fromkeys(CATEGORIES, 0.0),
            None,
            {},
        )
        for share in shares
    ]
    return [(made.decision, made.reasons) for made in decide_rows(judge, rows)]


def warned(words: str) -> tuple[Decision, tuple[str, ...]]:
    return Decision.REVIEW, (f"warning {words}: on_warning review",)


def test_partly_seen_counts_from_a_share_on_and_says_it() -> None:
    balanced = Judge.of(load_policy("balanced"))
    kind = {decision for decision, _ in partly_seen(balanced, 0.1, 0.2499)}
    assert kind == {Decision.APPROVE}
    assert partly_seen(balanced, 0.25, 0.6667, 1.0) == [
        warned("partly_seen 25%"),
        warned("partly_seen 67%"),
        warned("partly_seen 100%"),
    ]


def test_partly_seen_in_rows_without_the_share_counts() -> None:
    """Results of which somebody took the column away may not be approved for it."""
    balanced = Judge.of(load_policy("balanced"))
    assert partly_seen(balanced, None, 0.1, 0.3) == [
        warned("partly_seen"),
        partly_seen(balanced, 0.1)[0],
        warned("partly_seen 30%"),
    ]


def test_each_policy_and_override_has_its_own_share_of_partly_seen() -> None:
    assert partly_seen(Judge.of(load_policy("permissive")), 0.4)[0][0] is Decision.APPROVE
    assert partly_seen(Judge.of(load_policy("permissive")), 0.5)[0] == warned("partly_seen 50%")
    text = (
        load_policy("balanced").text.partition("[[rating]]")[0]
        + '[[override]]\nname = "strips"\nwhen = "strips/**"\n'
    )
    judge = Judge(parse_policy(text + "partly_seen_from = 0.8\n", "mine.toml").policy)
    strip = b"./strips/a.jpg"
    assert partly_seen(judge, 0.5)[0] == warned("partly_seen 50%")
    assert partly_seen(judge, 0.79, path=strip)[0][0] is Decision.APPROVE
    decision, (reason,) = partly_seen(judge, 0.8, path=strip)[0]
    assert decision is Decision.REVIEW
    assert reason == "warning partly_seen 80%: on_warning review (override strips)"


def test_a_policy_that_does_not_ask_for_partly_seen_ignores_it() -> None:
    policy = load_policy("balanced").policy.model_copy(update={"on_warning": {}})
    assert partly_seen(Judge(policy), 0.9)[0][0] is Decision.APPROVE
