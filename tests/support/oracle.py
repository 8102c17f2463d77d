"""The policy in plain Python, row by row and from the SPEC: what the product must match.

Nothing of the product's evaluation is used, only what a policy holds and what conditions mean.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from moderate.policy.load import LoadedPolicy
from moderate.policy.model import Policy
from moderate.policy.when import parse_when
from moderate.types import CATEGORIES, Decision, ImageError, Labels, Scores, Views, Warn

Outcome = tuple[Decision, tuple[str, ...]]


def reaches(score: float, limit: float) -> bool:
    """Both rounded to float32, as C has it."""
    a, b = struct.unpack("2f", struct.pack("2f", score, limit))
    return bool(a >= b)


def asked(policy: Policy, scores: Scores) -> list[str]:
    """What each category asks for."""
    return [_asked(scores[c], policy.categories[c]) for c in CATEGORIES]


def decide(
    policy: Policy,
    scores: Scores,
    warnings: Sequence[Warn],
    error: ImageError | None,
    labels: Labels | None = None,
    unseen: float | None = None,
) -> Outcome:
    """The decision on one image, and its reasons."""
    if error is not None:
        return policy.on_error, (f"error {error.code}: on_error {policy.on_error}",)
    reasons: dict[Decision, list[str]] = {Decision.REVIEW: [], Decision.BLOCK: []}
    passed = []
    terms = [(c.value, scores[c], policy.categories[c]) for c in CATEGORIES]
    terms += [(f"label {n}", (labels or {}).get(n), each) for n, each in policy.labels.items()]
    for name, score, limits in terms:
        band = _asked(score, limits)
        if score is None:
            if policy.on_unscored == "review":
                reasons[Decision.REVIEW].append(f"{name} not scored: on_unscored review")
        elif band == "approve":
            why = f"{_compared(score, limits.review)} < review {_limit(limits.review)}"
            passed.append((limits.review - score, f"{name} {why}"))
        else:
            limit = getattr(limits, band)
            why = f"{name} {_compared(score, limit)} >= {band} {_limit(limit)}"
            reasons[Decision(band)].append(why)
    for warning in warnings:
        share = ""
        if warning is Warn.PARTLY_SEEN and unseen is not None:
            if not reaches(unseen, policy.partly_seen_from):
                continue
            share = f" {unseen:.0%}"
        if wanted := policy.on_warning.get(warning):
            reasons[wanted].append(f"warning {warning}{share}: on_warning {wanted}")
        elif warning is Warn.NO_SECOND_OPINION:
            reasons[Decision.REVIEW].append(f"warning {warning}: review")
    for decision in (Decision.BLOCK, Decision.REVIEW):
        if reasons[decision]:
            return decision, tuple(reasons[decision])
    if all(score is None for score in scores.values()):
        return Decision.REVIEW, ("no category was scored",)
    return Decision.APPROVE, (min(passed, key=lambda each: each[0])[1],)


def views(policy: Policy, scores: Scores) -> Views:
    """The derived columns."""
    bands = policy.bands
    rating = None
    if policy.rating and any(score is not None for score in scores.values()):
        rating = [each.value for each in policy.rating if _reached(each, scores)][-1]
    counted = [score for c in bands.categories if (score := scores[c]) is not None]
    if not counted:
        return Views(rating=rating)
    nsfw = max(counted)
    is_nsfw = nsfw > bands.nsfw_above
    risk = "high" if nsfw > bands.risk_high_above else "mid"
    return Views(
        label="nsfw" if is_nsfw else "safe",
        nsfw_score=nsfw,
        safe_score=1.0 - nsfw,
        confidence=nsfw if is_nsfw else 1.0 - nsfw,
        risk="low" if nsfw < bands.risk_mid_from else risk,
        is_nsfw=is_nsfw,
        rating=rating,
    )


def policy_for(policy: Policy, path: bytes, columns: Mapping[str, Any]) -> tuple[Policy, str]:
    """The policy of a row, and the ending of its reasons: that of the first override that holds."""
    for override in policy.override:
        if parse_when(override.when).holds(path, columns):
            return override.applied(policy), f" (override {override.label.replace('; ', ', ')})"
    return policy, ""


def judge(
    loaded: LoadedPolicy,
    today: date,
    path: bytes,
    columns: Mapping[str, Any],
    sha256: str | None,
    scores: Scores,
    warnings: Sequence[Warn],
    error: ImageError | None,
    labels: Labels,
    unseen: float | None = None,
) -> Outcome:
    """The decision on one image, with overrides and lists."""
    policy, ending = policy_for(loaded.policy, path, columns)
    digest = (sha256 or "").lower()
    if digest in loaded.lists.blocked:
        reason = loaded.lists.blocked[digest].replace("; ", ", ")
        return Decision.BLOCK, (f"block list: {reason}",)
    entry = loaded.lists.cleared.get(digest)
    scored = error is None and any(score is not None for score in scores.values())
    seen = Warn.NO_SECOND_OPINION not in warnings
    if entry and today < entry.expires and scored and seen:
        reason = entry.reason.replace("; ", ", ")
        return Decision.APPROVE, (f"cleared until {entry.expires}: {reason}",)
    decision, reasons = decide(policy, scores, warnings, error, labels, unseen)
    return decision, tuple(reason + ending for reason in reasons)


def _asked(score: float | None, limits: Any) -> str:
    if score is None:
        return "unscored"
    if reaches(score, limits.block):
        return "block"
    return "review" if reaches(score, limits.review) else "approve"


def _reached(level: Any, scores: Scores) -> bool:
    def high(name: Any, limit: float) -> bool:
        score = scores[name]
        return score is not None and reaches(score, limit)

    some = [high(*each) for each in level.any.items()]
    return (any(some) or not some) and all(high(*each) for each in level.all.items())


def _compared(score: float, limit: float) -> str:
    """Digits are added until the number as printed is on the side of the limit that it is on."""
    for digits in range(2, 10):
        far = abs(score - limit) > 0.01
        if far or (round(score, digits) >= limit) == reaches(score, limit) or digits == 9:
            return f"{score:.{digits}f}"
    raise AssertionError


def _limit(limit: float) -> str:
    return f"{limit:.2f}" if float(f"{limit:.2f}") == limit else f"{limit:g}"
