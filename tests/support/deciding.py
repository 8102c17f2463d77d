"""What the product makes of one image by a policy alone."""

from __future__ import annotations

from collections.abc import Sequence

from moderate.policy.batch import Judged, Subject
from moderate.policy.judge import Judge
from moderate.policy.model import Policy
from moderate.types import Decision, ImageError, Labels, Scores, Views, Warn

SUBJECT = Subject(b"./a.jpg", {}, None)


def judged(
    policy: Policy,
    scores: Scores,
    warnings: Sequence[Warn] = (),
    error: ImageError | None = None,
    labels: Labels | None = None,
) -> Judged:
    return Judge(policy).judge(SUBJECT, scores, warnings, error, labels)


def decide(
    policy: Policy,
    scores: Scores,
    warnings: Sequence[Warn],
    error: ImageError | None,
    labels: Labels | None = None,
) -> tuple[Decision, tuple[str, ...]]:
    return judged(policy, scores, warnings, error, labels)[:2]


def views(policy: Policy, scores: Scores) -> Views:
    return judged(policy, scores).views


def asked(policy: Policy, scores: Scores) -> list[str]:
    return list(judged(policy, scores).bands)
