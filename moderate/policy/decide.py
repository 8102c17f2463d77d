"""The decision on one image, with its reasons, and the derived views.

A run asks for these once a row, also for rows that cost nothing else: so what a policy says is
made ready once, as plain tuples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from moderate.policy.model import Bands, Level, Policy, reaches
from moderate.types import (
    CATEGORIES,
    UNSCORED,
    Category,
    Decision,
    ImageError,
    ImageFacts,
    ImageRef,
    Labels,
    Row,
    Scores,
    Views,
    Warn,
)

_NO_LABELS: Labels = {}


class _Limit(NamedTuple):
    """A threshold of a category or label: the number, the least score to reach it, its text."""

    value: float
    least: float
    text: str


_Condition = tuple[tuple[Category, float], ...]
"""Categories, each with the least score that counts."""


@dataclass(frozen=True, slots=True)
class _Rules:
    """A policy made ready. `levels` are those above the first, the highest first.

    limits has the thresholds of the categories, and then those of labels under what reasons call
    them; `labels` has the names of these.
    """

    policy: Policy
    limits: tuple[tuple[str, _Limit, _Limit], ...]
    labels: tuple[str, ...]
    cuts: tuple[tuple[Category, float, float], ...]
    levels: tuple[tuple[str, _Condition, _Condition], ...]
    lowest: str | None
    bands: Bands

    @classmethod
    def of(cls, policy: Policy) -> _Rules:
        thresholds = [(category, policy.categories[category]) for category in CATEGORIES]
        cuts = [(category, least_score(each.review), least_score(each.block))
                for category, each in thresholds]  # fmt: skip
        terms = [(label_term(name), each) for name, each in policy.labels.items()]
        limits = tuple(
            (name, _limit(each.review), _limit(each.block)) for name, each in [*thresholds, *terms]
        )
        return cls(
            policy=policy,
            limits=limits,
            labels=tuple(policy.labels),
            cuts=tuple(cuts),
            levels=tuple(map(_level, reversed(policy.rating[1:]))),
            lowest=policy.rating[0].value if policy.rating else None,
            bands=policy.bands,
        )


_latest: _Rules | None = None
_kept: dict[int, _Rules] = {}
_MOST_KEPT = 256


def _rules(policy: Policy) -> _Rules:
    """Kept by the policy's identity; not in the policy, whose copies would take it along."""
    global _latest
    rules = _latest
    if rules is None or rules.policy is not policy:
        rules = _kept.get(id(policy))
        if rules is None:  # one that is kept holds its policy, so no other has that identity
            if len(_kept) >= _MOST_KEPT:
                _kept.clear()
            rules = _kept[id(policy)] = _Rules.of(policy)
        _latest = rules
    return rules


def on_error(policy: Policy, error: ImageError) -> tuple[Decision, tuple[str, ...]]:
    """The decision on an image without scores, with its reason."""
    return policy.on_error, (f"error {error.code}: on_error {policy.on_error}",)


def failed_row(policy: Policy, ref: ImageRef, error: ImageError) -> Row:
    """A row that says no more than that there was an error, so that nothing can go wrong with it.

    It has the policy's on_error, whatever overrides and lists say.
    """
    decision, reasons = on_error(policy, error)
    return Row(ref, ImageFacts(), UNSCORED, decision, reasons, error=error)


def decide(
    policy: Policy,
    scores: Scores,
    warnings: Sequence[Warn],
    error: ImageError | None,
    labels: Labels = _NO_LABELS,
) -> tuple[Decision, tuple[str, ...]]:
    """The worst of what the categories, the labels, the warnings and the error ask for, and why.

    The reasons are those of the final decision; an approval names the score that came closest to
    review. An image without scores of categories is never approved.
    """
    if error is not None:
        return on_error(policy, error)
    blocks: list[str] = []
    reviews: list[str] = []
    nearest: tuple[str, float, _Limit] | None = None
    gap = math.inf
    rules = _rules(policy)
    known: Mapping[Any, float | None] = scores
    if rules.labels:
        known = {**scores, **{label_term(name): labels.get(name) for name in rules.labels}}
    for category, review, block in rules.limits:
        score = known[category]
        if score is None:
            if policy.on_unscored == "review":
                reviews.append(f"{category} not scored: on_unscored review")
        elif score >= block.least:
            blocks.append(_compare(category, score, ">= block", block))
        elif score >= review.least:
            reviews.append(_compare(category, score, ">= review", review))
        elif review.value - score < gap:
            gap = review.value - score
            nearest = category, score, review
    for warning in warnings:
        if warning in policy.on_warning:
            wanted = policy.on_warning[warning]
            reasons = blocks if wanted is Decision.BLOCK else reviews
            reasons.append(f"warning {warning}: on_warning {wanted}")
    if blocks:
        return Decision.BLOCK, tuple(blocks)
    if reviews:
        return Decision.REVIEW, tuple(reviews)
    if nearest is None or not any(score is not None for score in scores.values()):
        return Decision.REVIEW, ("no category was scored",)
    category, score, review = nearest
    return Decision.APPROVE, (_compare(category, score, "< review", review),)


def asked(policy: Policy, scores: Scores) -> list[str]:
    """What each of the CATEGORIES asks for: approve, review, block, or unscored."""
    bands = []
    for category, review, block in _rules(policy).cuts:
        score = scores[category]
        if score is None:
            bands.append("unscored")
        elif score < review:
            bands.append("approve")
        else:
            bands.append("review" if score < block else "block")
    return bands


def views(policy: Policy, scores: Scores) -> Views:
    """The derived columns; all None where none of the categories that count was scored."""
    rules = _rules(policy)
    bands = rules.bands
    counted = [score for name in bands.categories if (score := scores.get(name)) is not None]
    if not counted:
        some = any(score is not None for score in scores.values())
        return Views(rating=_rating(rules, scores) if some else None)
    nsfw_score = max(counted)
    safe_score = 1.0 - nsfw_score
    is_nsfw = nsfw_score > bands.nsfw_above
    label, confidence = ("nsfw", nsfw_score) if is_nsfw else ("safe", safe_score)
    risk, rating = _risk(bands, nsfw_score), _rating(rules, scores)
    return Views(label, nsfw_score, safe_score, confidence, risk, is_nsfw, rating)


def _rating(rules: _Rules, scores: Scores) -> str | None:
    for value, any_of, all_of in rules.levels:
        if (not any_of or _any_high(any_of, scores)) and _all_high(all_of, scores):
            return value
    return rules.lowest


def _any_high(condition: _Condition, scores: Scores) -> bool:
    for name, least in condition:
        score = scores.get(name)
        if score is not None and score >= least:
            return True
    return False


def _all_high(condition: _Condition, scores: Scores) -> bool:
    for name, least in condition:
        score = scores.get(name)
        if score is None or score < least:
            return False
    return True


def _risk(bands: Bands, nsfw_score: float) -> str:
    if nsfw_score < bands.risk_mid_from:
        return "low"
    return "high" if nsfw_score > bands.risk_high_above else "mid"


def label_term(name: str) -> str:
    """What reasons call a label; no category is called so."""
    return f"label {name}"


def _compare(category: str, score: float, sign: str, limit: _Limit) -> str:
    """`nudity 0.91 >= block 0.85`, with as many digits as keep the comparison true as printed."""
    value = limit.value
    if abs(score - value) > 0.01:  # more than rounding to two digits can change
        return f"{category} {score:.2f} {sign} {limit.text}"
    digits = 2
    while digits < 9 and (round(score, digits) >= value) != (score >= limit.least):
        digits += 1
    return f"{category} {score:.{digits}f} {sign} {limit.text}"


def _limit(value: float) -> _Limit:
    text = f"{value:.2f}" if round(value, 2) == value else f"{value:g}"
    return _Limit(value, least_score(value), text)


def _level(level: Level) -> tuple[str, _Condition, _Condition]:
    def ready(condition: Mapping[Category, float]) -> _Condition:
        return tuple((name, least_score(limit)) for name, limit in condition.items())

    return level.value, ready(level.any), ready(level.all)


def least_score(limit: float) -> float:
    """The least float64 that `reaches` a limit: for any score, `score >= least_score(limit)`."""
    below, above = -1.0, 2.0
    while (middle := (below + above) / 2) not in (below, above):
        below, above = (below, middle) if reaches(middle, limit) else (middle, above)
    return above
