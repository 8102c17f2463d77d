"""The one rule by which a score is held against a threshold, for single scores and for columns.

Scores are float32, thresholds are written in decimal. Both are compared as float32, so that a score
of 0.95 reaches a threshold of 0.95: in float32 that score lies below the float64 number of the same
name, and a decision that is taken again from a stored score must not differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moderate.types import Decision

Mask = NDArray[np.bool_]
Severities = NDArray[np.int8]

DECISIONS = tuple(Decision)
"""A decision by its severity."""

BANDS = (*(decision.value for decision in DECISIONS), "unscored")
"""What a score asks for, by the number that `score_bands` gives."""

UNSCORED_BAND = len(BANDS) - 1


def reaches(scores: ArrayLike, limit: ArrayLike) -> Any:
    """Whether scores are at or above a limit; bool in the shape that the two broadcast to.

    NaN, for what was not scored, reaches nothing.
    """
    return np.asarray(scores, np.float32) >= np.asarray(limit, np.float32)


def score_bands(scores: ArrayLike, review: ArrayLike, block: ArrayLike) -> Severities:
    """What scores ask for: 0 approve, 1 review, 2 block, UNSCORED_BAND for NaN.

    The three arguments broadcast; the result is int8 in their common shape.
    """
    asked = reaches(scores, review).astype(np.int8) + reaches(scores, block)
    found: Severities = np.where(np.isnan(scores), np.int8(UNSCORED_BAND), asked).astype(np.int8)
    return found


def band_counts(found: Severities) -> list[int]:
    """How many scores are in each of BANDS."""
    return [int(count) for count in np.bincount(found, minlength=len(BANDS))]
