"""Policies: presets, validation that names the key, decisions with true reasons, views."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderate.errors import PolicyError
from moderate.policy.decide import decide, views
from moderate.policy.load import PRESETS, load_policy, parse_policy
from moderate.policy.model import Policy
from moderate.types import (
    CATEGORIES,
    UNSCORED,
    Category,
    Decision,
    ErrorCode,
    ImageError,
    Scores,
    Warn,
)

BALANCED = load_policy("balanced").policy
STRICT = load_policy("strict").policy


def scores(default: float | None = 0.0, **changes: float | None) -> Scores:
    return {**dict.fromkeys(CATEGORIES, default), **{Category(k): v for k, v in changes.items()}}


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


GOOD = load_policy("balanced").text


@pytest.mark.parametrize(
    ("old", "new", "key", "reason"),
    [
        ("review = 0.30, block = 0.85 }\nsexual", "review = 0.9, block = 0.85 }\nsexual",
         "categories.nudity", "must not be above"),
        ("nudity = { review = 0.30", "nudity = { review = 1.3", "categories.nudity.review", "1.3"),
        ("nudity = { review = 0.30", "nudity = { review = nan", "categories.nudity.review", ""),
        ("nudity = { review = 0.30", "nudity = { revue = 0.30", "categories.nudity", "revue"),
        ("\nviolence = ", "\nviolense = ", "categories", "violense"),
        ("\nviolence = { review = 0.30, block = 0.85 }", "", "categories", "violence"),
        ('on_error = "review"', 'on_error = "approve"', "on_error", "approve"),
        ('on_unscored = "ignore"', 'on_unscored = "skip"', "on_unscored", "skip"),
        ("alpha_ambiguous = ", "alpha_ambigous = ", "on_warning", "alpha_ambigous"),
        ('value = "general"', 'value = "more than 24 letters, surely"', "rating.0.value", "24"),
        ('value = "mature"', 'value = "general"', "rating", "same value"),
        ("nsfw_above = 0.5", "nsfw_over = 0.5", "bands.nsfw_over", "unknown key"),
        ('name = "balanced"', "", "name", "required"),
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
