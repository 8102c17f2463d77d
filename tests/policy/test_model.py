"""Policies: presets, validation that names the key, decisions with true reasons, views."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderate.errors import PolicyError
from moderate.policy.judge import Judge
from moderate.policy.load import PRESETS, load_policy, parse_policy
from moderate.policy.model import Bands, Level, Policy, Thresholds
from moderate.policy.thresholds import reaches as product_reaches
from moderate.types import (
    CATEGORIES,
    UNSCORED,
    Category,
    Decision,
    ErrorCode,
    ImageError,
    Scores,
    Views,
    Warn,
)
from tests.support.deciding import SUBJECT, asked, decide, views
from tests.support.oracle import reaches

BALANCED = load_policy("balanced").policy
STRICT = load_policy("strict").policy


def scores(default: float | None = 0.0, **changes: float | None) -> Scores:
    """Scores in float32."""
    every = {**dict.fromkeys(CATEGORIES, default), **{Category(k): v for k, v in changes.items()}}
    return {name: None if v is None else float(np.float32(v)) for name, v in every.items()}


def decision(policy: Policy, given_scores: Scores, *warnings: Warn) -> Decision:
    return decide(policy, given_scores, warnings, None)[0]


def test_the_presets_are_what_the_contract_says() -> None:
    for category in CATEGORIES:
        assert BALANCED.categories[category].review == 0.30
        assert BALANCED.categories[category].block == 0.85
        assert STRICT.categories[category].block == 0.60
    assert BALANCED.on_error is Decision.REVIEW
    assert STRICT.on_error is Decision.BLOCK
    for name in PRESETS:
        policy = load_policy(name).policy
        assert policy.on_warning[Warn.ALPHA_AMBIGUOUS] is Decision.REVIEW
        assert 2 <= len(policy.rating) <= 7


UNSEEN = (
    *(Warn.PARTLY_SCORED, Warn.PARTLY_SEEN, Warn.EMBEDDED_CONTENT),
    *(Warn.VIDEO_INCOMPLETE, Warn.VIDEO_STOPPED),
)
"""What says that something on display was not scored."""


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("warning", Warn)
def test_what_each_preset_does_on_a_warning(preset: str, warning: Warn) -> None:
    reviewed = {Warn.ALPHA_AMBIGUOUS, Warn.NO_SECOND_OPINION, *UNSEEN}
    if preset == "permissive":
        reviewed.remove(Warn.EMBEDDED_CONTENT)
    if preset in ("strict", "children"):
        reviewed.add(Warn.ANIMATED)
    expected = Decision.REVIEW if warning in reviewed else Decision.APPROVE
    assert decision(load_policy(preset).policy, scores(), warning) is expected


@pytest.mark.parametrize(
    ("preset", "share"),
    [("balanced", 0.25), ("strict", 0.25), ("children", 0.25), ("permissive", 0.5)],
)
def test_how_much_of_a_picture_each_preset_has_to_see(preset: str, share: float) -> None:
    judge = Judge(load_policy(preset).policy)
    for unseen, expected in ((share - 0.01, Decision.APPROVE), (share, Decision.REVIEW)):
        found = judge.judge(SUBJECT, scores(), [Warn.PARTLY_SEEN], None, unseen=unseen)
        assert found.decision is expected


@pytest.mark.parametrize("category", CATEGORIES)
def test_thresholds(category: Category) -> None:
    assert decision(BALANCED, scores(**{category: 0.29})) is Decision.APPROVE
    assert decision(BALANCED, scores(**{category: 0.30})) is Decision.REVIEW
    assert decision(BALANCED, scores(**{category: 0.84})) is Decision.REVIEW
    assert decision(BALANCED, scores(**{category: 0.85})) is Decision.BLOCK


def test_the_worst_category_decides_with_its_reason() -> None:
    found, reasons = decide(BALANCED, scores(nudity=0.91, violence=0.5), (), None)
    assert found is Decision.BLOCK
    assert reasons == ("nudity 0.91 >= block 0.85",)
    found, reasons = decide(BALANCED, scores(0.1, suggestive=0.25), (), None)
    assert found is Decision.APPROVE
    assert reasons == ("suggestive 0.25 < review 0.30",)


@given(st.floats(0, 1, width=32), st.floats(0, 1), st.floats(0, 1))
def test_a_reason_never_lies(score: float, low: float, high: float) -> None:
    low, high = sorted((round(low, 4), round(high, 4)))
    limits = {"review": low, "block": high}
    policy = BALANCED.model_copy(
        update={
            "categories": {c: BALANCED.categories[c].model_copy(update=limits) for c in CATEGORIES}
        }
    )
    _, reasons = decide(policy, scores(score), (), None)
    for reason in reasons:
        match = re.fullmatch(r"\w+ (\S+) (>=|<) (review|block) (\S+)", reason)
        assert match
        shown, sign, name, limit = match.groups()
        assert abs(float(limit) - limits[name]) < 1e-6
        holds = float(shown) >= float(limit)
        assert holds == (sign == ">=")
    assert reasons


def test_errors_unscored_and_warnings() -> None:
    error = ImageError(ErrorCode.TRUNCATED, "cut")
    assert decide(BALANCED, UNSCORED, (), error) == (
        Decision.REVIEW,
        ("error truncated: on_error review",),
    )
    assert decide(STRICT, UNSCORED, (), error)[0] is Decision.BLOCK
    assert decision(BALANCED, scores(violence=None)) is Decision.APPROVE
    assert decision(STRICT, scores(violence=None)) is Decision.REVIEW
    assert decision(BALANCED, UNSCORED) is Decision.REVIEW, "nothing scored is never approved"
    assert decision(BALANCED, scores(), Warn.ALPHA_AMBIGUOUS) is Decision.REVIEW
    assert decision(BALANCED, scores(), Warn.SMALL_IMAGE) is Decision.APPROVE
    assert decision(BALANCED, scores(nudity=0.9), Warn.ALPHA_AMBIGUOUS) is Decision.BLOCK


def test_views() -> None:
    seen = views(BALANCED, scores(nudity=0.75))
    assert (seen.label, seen.is_nsfw, seen.risk) == ("nsfw", True, "high")
    assert (seen.nsfw_score, seen.safe_score, seen.confidence) == (0.75, 0.25, 0.75)
    seen = views(BALANCED, scores(violence=0.25))
    assert (seen.label, seen.is_nsfw, seen.risk) == ("safe", False, "mid")
    assert seen.confidence == 0.75
    assert views(BALANCED, scores(0.05)).risk == "low"
    assert views(BALANCED, scores(0.5)).label == "safe"
    nothing = views(BALANCED, UNSCORED)
    assert (nothing.label, nothing.nsfw_score, nothing.is_nsfw, nothing.rating) == (None,) * 4


def test_a_blocked_image_is_never_labelled_safe() -> None:
    for category in CATEGORIES:
        seen = scores(**{category: 0.9})
        assert decision(BALANCED, seen) is Decision.BLOCK
        assert views(BALANCED, seen).label == "nsfw"


def test_the_rating_is_the_highest_level_reached() -> None:
    assert views(BALANCED, scores(0.1)).rating == "general"
    assert views(BALANCED, scores(suggestive=0.99)).rating == "mature"
    assert views(BALANCED, scores(violence=0.9)).rating == "explicit"
    text = (
        load_policy("balanced").text.partition("[[rating]]")[0]
        + """
[[rating]]
value = "calm"
description = "Nothing."
[[rating]]
value = "both"
description = "Two at once."
all = { nudity = 0.5, violence = 0.5 }
"""
    )
    policy = parse_policy(text, "test").policy
    assert views(policy, scores(nudity=0.6)).rating == "calm"
    assert views(policy, scores(nudity=0.6, violence=0.6)).rating == "both"
    assert views(policy, scores(nudity=0.6, violence=None)).rating == "calm"


def test_scores_at_a_threshold_decide_alike_before_and_after_storing() -> None:
    stored = float(np.float32(0.85))
    assert decision(BALANCED, scores(nudity=stored)) is Decision.BLOCK
    assert decision(BALANCED, scores(nudity=float(str(np.float32(0.85))))) is Decision.BLOCK
    # In float32, 0.95 is less than the float64 of that name.
    permissive = load_policy("permissive").policy
    for value in (float(np.float32(0.95)), 0.95):
        found, reasons = decide(permissive, scores(nudity=value), (), None)
        assert found is Decision.BLOCK
        assert reasons == ("nudity 0.95 >= block 0.95",)


NUMBERS = st.floats(0, 1) | st.floats(0, 1, width=32) | st.integers(0, 100).map(lambda n: n / 100)
CONDITIONS = st.dictionaries(st.sampled_from(CATEGORIES), NUMBERS, max_size=3)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Any policy, also such as nobody would write."""
    pairs = {name: sorted((draw(NUMBERS), draw(NUMBERS))) for name in CATEGORIES}
    conditions = draw(st.lists(st.tuples(CONDITIONS, CONDITIONS).filter(any), max_size=3))
    levels = [Level(value="none", description="d")] if conditions else []
    for number, (some, every) in enumerate(conditions):
        levels.append(Level(value=f"l{number}", description="d", any=some, all=every))
    mid, high = sorted((draw(NUMBERS), draw(NUMBERS)))
    decisions = st.sampled_from([Decision.REVIEW, Decision.BLOCK])
    return Policy(
        name="any",
        on_error=draw(decisions),
        on_unscored=draw(st.sampled_from(["ignore", "review"])),
        on_warning=draw(st.dictionaries(st.sampled_from(Warn), decisions)),
        categories={name: Thresholds(review=low, block=up) for name, (low, up) in pairs.items()},
        rating=tuple(levels),
        bands=Bands(
            categories=draw(st.lists(st.sampled_from(CATEGORIES), min_size=1).map(tuple)),
            nsfw_above=draw(NUMBERS),
            risk_mid_from=mid,
            risk_high_above=high,
        ),
    )


def near(policy: Policy) -> st.SearchStrategy[float | None]:
    """Scores, many of them at a threshold or a float32 beside it."""
    limits = [limit for each in policy.categories.values() for limit in (each.review, each.block)]
    for level in policy.rating:
        limits += [*level.any.values(), *level.all.values()]
    single = [np.float32(limit) for limit in limits]
    beside = [np.nextafter(limit, np.float32(side)) for limit in single for side in (-1, 2)]
    known = [*map(float, single), *(min(1.0, max(0.0, float(each))) for each in beside)]
    drawn = st.sampled_from(known) | NUMBERS
    return st.none() | drawn.map(lambda score: float(np.float32(score)))


@given(st.data())
def test_decisions_and_views_are_those_of_the_plain_definition(data: st.DataObject) -> None:
    policy = data.draw(policies())
    some = data.draw(st.fixed_dictionaries(dict.fromkeys(CATEGORIES, near(policy))))
    warnings = data.draw(st.lists(st.sampled_from(Warn), unique=True, max_size=3))
    bands = {name: plain_band(policy.categories[name], some[name]) for name in CATEGORIES}
    assert asked(policy, some) == list(bands.values())

    wanted = [Decision(band) for band in bands.values() if band not in ("approve", "unscored")]
    # A missing second opinion goes to review where the policy says nothing of it.
    on_warning = {Warn.NO_SECOND_OPINION: Decision.REVIEW, **policy.on_warning}
    wanted += [on_warning[warning] for warning in warnings if warning in on_warning]
    if policy.on_unscored == "review":
        wanted += [Decision.REVIEW for band in bands.values() if band == "unscored"]
    nothing = set(bands.values()) == {"unscored"}
    mildest = Decision.REVIEW if nothing else Decision.APPROVE
    found, reasons = decide(policy, some, warnings, None)
    assert found is max([*wanted, mildest], key=lambda decision: decision.severity)
    assert len(reasons) == max(1, wanted.count(found))
    for reason in reasons:
        name, _, told = reason.partition(" ")
        if name in bands and told != "not scored: on_unscored review":
            assert f" {'review' if found is Decision.APPROVE else found} " in told
            assert bands[Category(name)] == found

    scored = {name: score for name, score in some.items() if score is not None}
    reached = [level.value for level in policy.rating if plain_reached(level, scored)]
    seen = views(policy, some)
    assert seen.rating == (reached[-1] if reached and scored else None)
    counted = [scored[name] for name in policy.bands.categories if name in scored]
    if not counted:
        assert seen == Views(rating=seen.rating)
        return
    assert seen.nsfw_score == max(counted)
    assert seen.safe_score == 1.0 - max(counted)
    assert seen.is_nsfw is (max(counted) > policy.bands.nsfw_above)
    assert seen.label == ("nsfw" if seen.is_nsfw else "safe")
    assert seen.confidence == (seen.nsfw_score if seen.is_nsfw else seen.safe_score)
    low = max(counted) < policy.bands.risk_mid_from
    high = max(counted) > policy.bands.risk_high_above
    assert seen.risk == ("low" if low else "high" if high else "mid")


def plain_band(limits: Thresholds, score: float | None) -> str:
    if score is None:
        return "unscored"
    if reaches(score, limits.block):
        return "block"
    return "review" if reaches(score, limits.review) else "approve"


def plain_reached(level: Level, scored: dict[Category, float]) -> bool:
    def high(condition: dict[Category, float]) -> list[bool]:
        return [name in scored and reaches(scored[name], low) for name, low in condition.items()]

    return (not level.any or any(high(level.any))) and all(high(level.all))


@given(NUMBERS, NUMBERS, st.sampled_from([-1, 0, 1]))
def test_a_column_reaches_a_limit_where_each_of_its_scores_does(
    score: float, limit: float, side: int
) -> None:
    exact = np.float32(limit)
    each = [score, limit, float(exact), float(np.nextafter(exact, np.float32(side * 2)))]
    assert product_reaches(np.array(each), limit).tolist() == [reaches(s, limit) for s in each]
    assert [bool(product_reaches(s, limit)) for s in each] == [reaches(s, limit) for s in each]
    assert not product_reaches(np.float32("nan"), limit)


def test_two_policies_in_turn_do_not_mix() -> None:
    given_scores = scores(nudity=0.7)
    for _ in range(2):
        assert decision(BALANCED, given_scores) is Decision.REVIEW
        assert decision(STRICT, given_scores) is Decision.BLOCK
    changed = BALANCED.model_copy(update={"categories": STRICT.categories})
    assert decision(changed, given_scores) is Decision.BLOCK


GOOD = load_policy("balanced").text


@pytest.mark.parametrize(
    ("old", "new", "key", "reason"),
    [
        ("review = 0.30, block = 0.85 }\nsexual", "review = 0.9, block = 0.85 }\nsexual",
         "categories.nudity", "must not be above"),
        ("nudity = { review = 0.30", "nudity = { review = 1.3", "categories.nudity.review",
         "use 1 or less, got 1.3"),
        ("nudity = { review = 0.30", "nudity = { review = nan", "categories.nudity.review", ""),
        ("nudity = { review = 0.30", "nudity = { revue = 0.30", "categories.nudity", "revue"),
        ("\nviolence = ", "\nviolense = ", "categories", "violense"),
        ("\nviolence = { review = 0.30, block = 0.85 }", "", "categories", "violence"),
        ('on_error = "review"', 'on_error = "approve"', "on_error",
         "should be 'review' or 'block', got 'approve'"),
        ('on_unscored = "ignore"', 'on_unscored = "skip"', "on_unscored", "skip"),
        ("alpha_ambiguous = ", "alpha_ambigous = ", "on_warning", "alpha_ambigous"),
        ('value = "general"', 'value = "more than 24 letters, surely"', "rating.0.value", "24"),
        ('value = "mature"', 'value = "general"', "rating", "same value"),
        ("nsfw_above = 0.5", "nsfw_over = 0.5", "bands.nsfw_over", "unknown key"),
        ('name = "balanced"', "", "name", "is missing"),
        ('name = "balanced"', 'name = "a\\u001b[31m\\u202e"', "name", "control"),
        ("nudity = { review = 0.30", "nudity = { review = true", "nudity.review", "number"),
        ("nudity = { review = 0.30", 'nudity = { review = "0.3"', "nudity.review", "number"),
    ],
)  # fmt: skip
def test_a_wrong_policy_is_refused_with_its_key(old: str, new: str, key: str, reason: str) -> None:
    assert old in GOOD
    with pytest.raises(PolicyError) as caught:
        parse_policy(GOOD.replace(old, new, 1), "mine.toml")
    message = str(caught.value)
    assert message.startswith("policy mine.toml: ")
    assert key in message
    assert reason.lower() in message.lower()
    assert "\n" not in message


def test_a_scale_has_two_to_seven_levels() -> None:
    head = GOOD.partition("[[rating]]")[0]
    level = '[[rating]]\nvalue = "v{0}"\ndescription = "d"\n'
    condition = "any = {{ nudity = 0.{0} }}\n"
    with pytest.raises(PolicyError, match="2 to 7"):
        parse_policy(head + level.format(1), "p")
    many = level.format(0) + "".join((level + condition).format(n) for n in range(1, 8))
    with pytest.raises(PolicyError, match="rating"):
        parse_policy(head + many, "p")
    with pytest.raises(PolicyError, match="needs a condition"):
        parse_policy(head + level.format(0) + level.format(1), "p")


def test_policies_from_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(GOOD.replace('name = "balanced"', 'name = "mine"'))
    assert load_policy(str(file)).policy.name == "mine"
    assert load_policy(str(file)).sha256 != load_policy("balanced").sha256
    with pytest.raises(PolicyError, match="balanced, strict, permissive"):
        load_policy("lenient")
    file.write_text("name = ")
    with pytest.raises(PolicyError, match="not valid TOML"):
        load_policy(str(file))
