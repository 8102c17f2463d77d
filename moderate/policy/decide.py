"""The decision on one image, with its reasons, and the derived views."""

from __future__ import annotations

from collections.abc import Sequence

from moderate.policy.model import Bands, Policy, reaches
from moderate.types import CATEGORIES, Category, Decision, ImageError, Scores, Views, Warn


def decide(
    policy: Policy, scores: Scores, warnings: Sequence[Warn], error: ImageError | None
) -> tuple[Decision, tuple[str, ...]]:
    """The worst of what the categories, the warnings and the error ask for, and why.

    The reasons are those of the final decision; an approval names the score that came closest to
    review. An image without scores is never approved.
    """
    if error is not None:
        return policy.on_error, (f"error {error.code}: on_error {policy.on_error}",)
    found: list[tuple[Decision, str]] = []
    nearest: tuple[float, str] | None = None
    for category in CATEGORIES:
        score, limits = scores[category], policy.categories[category]
        if score is None:
            if policy.on_unscored == "review":
                found.append((Decision.REVIEW, f"{category} not scored: on_unscored review"))
        elif (asked := limits.decision(score)) is not Decision.APPROVE:
            limit = limits.block if asked is Decision.BLOCK else limits.review
            found.append((asked, _compare(category, score, ">=", asked, limit)))
        elif nearest is None or limits.review - score < nearest[0]:
            reason = _compare(category, score, "<", "review", limits.review)
            nearest = (limits.review - score, reason)
    for warning in warnings:
        if warning in policy.on_warning:
            wanted = policy.on_warning[warning]
            found.append((wanted, f"warning {warning}: on_warning {wanted}"))
    if not found and nearest is None:
        return Decision.REVIEW, ("no category was scored",)
    if not found:
        return Decision.APPROVE, (nearest[1],) if nearest else ()
    worst = max((decision for decision, _ in found), key=lambda decision: decision.severity)
    return worst, tuple(reason for decision, reason in found if decision is worst)


def views(policy: Policy, scores: Scores) -> Views:
    """The derived columns; all None where none of the categories that count was scored."""
    scored = {category: score for category, score in scores.items() if score is not None}
    counted = [scored[category] for category in policy.bands.categories if category in scored]
    rating = _rating(policy, scored)
    if not counted:
        return Views(rating=rating)
    nsfw_score = max(counted)
    safe_score = 1.0 - nsfw_score
    is_nsfw = nsfw_score > policy.bands.nsfw_above
    return Views(
        label="nsfw" if is_nsfw else "safe",
        nsfw_score=nsfw_score,
        safe_score=safe_score,
        confidence=nsfw_score if is_nsfw else safe_score,
        risk=_risk(policy.bands, nsfw_score),
        is_nsfw=is_nsfw,
        rating=rating,
    )


def _rating(policy: Policy, scored: dict[Category, float]) -> str | None:
    if not policy.rating or not scored:
        return None
    reached = [level for level in policy.rating[1:] if level.reached_by(scored)]
    return (reached[-1] if reached else policy.rating[0]).value


def _risk(bands: Bands, nsfw_score: float) -> str:
    if nsfw_score < bands.risk_mid_from:
        return "low"
    return "high" if nsfw_score > bands.risk_high_above else "mid"


def _compare(category: Category, score: float, sign: str, name: str, limit: float) -> str:
    """`nudity 0.91 >= block 0.85`, with as many digits as keep the comparison true as printed."""
    digits = 2
    while digits < 9 and (round(score, digits) >= limit) != reaches(score, limit):
        digits += 1
    shown = f"{limit:.2f}" if round(limit, 2) == limit else f"{limit:g}"
    return f"{category} {score:.{digits}f} {sign} {name} {shown}"
