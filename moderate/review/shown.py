"""A row as the page shows it: text, numbers, and where in the image each score is of."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from moderate.places import read_places
from moderate.policy.model import Policy
from moderate.policy.thresholds import reaches
from moderate.review.rows import Copies
from moderate.text import printable
from moderate.types import CATEGORIES

_FRAME = re.compile(r"(?:frame|picture) ([1-9][0-9]{0,8})\b")
_BOX = re.compile(r"\b(\d{1,3}) to (\d{1,3}) % across and (\d{1,3}) to (\d{1,3}) % down$")
_WHOLE = "the whole picture"

_ELSEWHERE = frozenset(
    ["path", "path_bytes", "decision", "reasons", "warnings", "unseen", "highest_at", "status"]
).union(name.value for name in CATEGORIES)
"""Columns that the page shows in a form of their own, or not at all."""


def shown_row(
    row: Mapping[str, Any],
    own: Collection[str],
    policy: Policy,
    copies: Copies | None,
    categories: Sequence[str] = CATEGORIES,
) -> dict[str, Any]:
    """The JSON object of a row; own are the names of the columns that are not carried."""
    return {
        "path": printable(row["path"]),
        "decision": row["decision"],
        "reasons": _parts(row["reasons"]),
        "warnings": _parts(row["warnings"]),
        "unseen": row["unseen"],
        "scores": [_score(name, row.get(name), policy) for name in categories],
        "places": [
            {"term": printable(term), **_place(printable(text))}
            for term, text in read_places(row["highest_at"]).items()
        ],
        "copies": {"count": copies.count, "paths": [printable(path) for path in copies.paths]}
        if copies
        else None,
        "facts": [
            [printable(name), _text(value)]
            for name, value in row.items()
            if name in own
            and name not in _ELSEWHERE
            and name not in categories
            and value is not None
        ],
        "carried": [
            [printable(name), _text(value)]
            for name, value in row.items()
            if name not in own and name not in categories
        ],
    }


def _score(name: str, score: float | None, policy: Policy) -> dict[str, Any]:
    """band is what the score leads to by the thresholds alone; None where there is no score."""
    limits, band = policy.limits(name), None
    if score is not None and limits is None:
        band = "approve"
    elif score is not None and limits:
        value = np.float32(score)
        band = next(
            (
                band
                for band, limit in (("block", limits.block), ("review", limits.review))
                if reaches(value, limit)
            ),
            "approve",
        )
    return {"name": str(name), "score": score, "band": band}


def _place(text: str) -> dict[str, Any]:
    """frame counts from 0, None: the only one; box is left, top, right, bottom in per cent."""
    frame, box = _FRAME.search(text), _BOX.search(text)
    sides: list[int] | None = None
    if box:
        left, right, top, bottom = map(int, box.groups())
        if left < right <= 100 and top < bottom <= 100:
            sides = [left, top, right, bottom]
    elif text.endswith(_WHOLE):
        sides = [0, 0, 100, 100]
    return {"text": text, "frame": int(frame[1]) - 1 if frame else None, "box": sides}


def _parts(text: str | None) -> list[str]:
    return printable(text).split("; ") if text else []


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode("ascii", "backslashreplace")
    if isinstance(value, float):
        return f"{value:.4g}"
    return None if value is None else printable(str(value))
