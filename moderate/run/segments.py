"""Segments of a video: what reaches a threshold from one frame to the next, from when to when."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from moderate.policy.batch import Subject
from moderate.policy.judge import Judge
from moderate.policy.model import Thresholds
from moderate.results.schema import shortest
from moderate.types import CATEGORIES, Decision, Row

MOST_SEGMENTS = 500
"""Segments of one video that its row has room for; the worst are kept."""


class _Segment(NamedTuple):
    """A stretch in which every frame reaches the review threshold of a category or label.

    kind is `category` or `label`; start and end are in seconds.
    """

    kind: str
    name: str
    start: float
    end: float
    maximum: float
    decision: Decision


def segments(judge: Judge, video: Row, frames: Sequence[Row]) -> str | None:
    """The column `segments` of a video: a JSON array of objects in the order of their starts.

    Each has `category`, or `label` for a label that the policy has thresholds for, `start` and
    `end` in seconds, the `maximum` of its scores, and the `decision` that the maximum asks for. The
    thresholds are those of the policy that the video's row is held to. A segment ends with the next
    frame that was looked for, or with video.facts.duration. None where there is no segment.
    """
    columns = dict(zip(judge.columns, video.ref.carried, strict=False))
    policy = judge.policy_for(Subject(video.ref.display, columns, video.facts.sha256))
    starts = [frame_seconds(row) for row in frames]
    ends = [*starts[1:], _end(video, starts)]
    found: list[_Segment] = []
    for category in CATEGORIES:
        scores = [row.scores[category] for row in frames]
        limits = policy.categories[category]
        found += _stretches("category", category.value, limits, scores, starts, ends)
    for kind, others in (("category", policy.own), ("label", policy.labels)):
        for name, limits in others.items():
            scores = [row.labels.get(name) for row in frames]
            found += _stretches(kind, name, limits, scores, starts, ends)
    found.sort(key=lambda each: (-each.decision.severity, -each.maximum, each.start))
    del found[MOST_SEGMENTS:]
    found.sort(key=lambda each: each.start)  # at the same time, the worst first
    return json.dumps(list(map(_as_json, found)), ensure_ascii=False) if found else None


def frame_seconds(row: Row) -> float:
    """The time that the path of a frame's row ends with, in seconds, to the millisecond."""
    hours, minutes, seconds = row.ref.path.rpartition(b"!/")[2].decode().split(":")
    return round(3600 * int(hours) + 60 * int(minutes) + float(seconds), 3)


def _end(video: Row, starts: Sequence[float]) -> float:
    """When the last frame ends; when it starts, where the results do not say."""
    if video.facts.duration is None:
        return starts[-1]
    # As the results have it, so that decisions that are taken again from them are the same.
    return max(starts[-1], round(float(np.float32(video.facts.duration)), 3))


def _stretches(
    kind: str,
    name: str,
    limits: Thresholds,
    scores: Sequence[float | None],
    starts: Sequence[float],
    ends: Sequence[float],
) -> Iterator[_Segment]:
    """The segments of one score; start and end of each frame are in seconds."""
    start: float | None = None
    maximum = end = 0.0
    for score, frame_start, frame_end in zip(scores, starts, ends, strict=True):
        if score is not None and limits.decision(score) is not Decision.APPROVE:
            if start is None:
                start, maximum = frame_start, score
            maximum, end = max(maximum, score), frame_end
        elif start is not None:
            yield _Segment(kind, name, start, end, maximum, limits.decision(maximum))
            start = None
    if start is not None:
        yield _Segment(kind, name, start, end, maximum, limits.decision(maximum))


def _as_json(segment: _Segment) -> dict[str, Any]:
    return {
        segment.kind: segment.name,
        "start": segment.start,
        "end": segment.end,
        "maximum": float(shortest(segment.maximum)),
        "decision": segment.decision.value,
    }


def read_segments(text: str | None) -> list[Mapping[str, Any]]:
    """The segments that the column of results has; none where it holds anything else."""
    try:
        values = json.loads(text or "[]")
    except (ValueError, RecursionError):
        return []
    if not isinstance(values, list):
        return []
    return [each for each in values if isinstance(each, dict)]
