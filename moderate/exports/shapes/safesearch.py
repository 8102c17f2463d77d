"""`safesearch`: likelihoods, as SafeSearch of Google Cloud Vision gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moderate.exports.shapes.base import Answer, Shape, failure_of_all, image_name
from moderate.exports.shapes.steps import Steps, highest
from moderate.types import Category, ErrorCode

_UNKNOWN = "UNKNOWN"
_LIKELIHOODS = ("VERY_UNLIKELY", "UNLIKELY", "POSSIBLE", "LIKELY", "VERY_LIKELY")  # by step
_INVALID_ARGUMENT = 3
_STATUS_CODES: Mapping[str, int] = {
    ErrorCode.FETCH_TIMEOUT: 4,  # DEADLINE_EXCEEDED
    ErrorCode.DECODE_TIMEOUT: 4,
    ErrorCode.NOT_FOUND: 5,
    ErrorCode.PERMISSION_DENIED: 7,
    ErrorCode.ADDRESS_NOT_ALLOWED: 7,
    ErrorCode.CLASSIFY_FAILED: 13,  # INTERNAL
    ErrorCode.NON_FINITE_SCORE: 13,
    ErrorCode.INTERNAL_ERROR: 13,
    ErrorCode.FETCH_FAILED: 14,  # UNAVAILABLE
    ErrorCode.HOST_UNREACHABLE: 14,
}
"""Codes of google.rpc.Status."""


class SafeSearchShape(Shape):
    """`safeSearchAnnotation`, with the image in `context`.

    What nothing here looks for is UNKNOWN. An image that failed has the service's `error`, and
    VERY_LIKELY for those clients that do not look at it.
    """

    answers_key = "responses"
    needs_policy = True

    def begin(self) -> None:
        """See `Shape`. Raises InputError."""
        self._steps = Steps(self.facts)

    def answer(self, row: Mapping[str, Any]) -> Answer:
        """See `Shape`."""
        failed = failure_of_all(row)
        context = {"context": {"uri": image_name(row)}}
        if failed is not None:
            code = _STATUS_CODES.get(failed.code, _INVALID_ARGUMENT)
            # Clients ask whether there is a message: it is never empty.
            error = {"code": code, "message": f"{failed.code}: {failed.message}"}
            return {"error": error, "safeSearchAnnotation": _annotation(4, 4, 4), **context}
        steps = self._steps.of(row)
        adult = highest(steps, (Category.NUDITY, Category.SEXUAL_ACTIVITY))
        annotation = _annotation(adult, steps[Category.VIOLENCE], steps[Category.SUGGESTIVE])
        return {"safeSearchAnnotation": annotation, **context}


def _annotation(adult: int | None, violence: int | None, racy: int | None) -> dict[str, str]:
    def likelihood(step: int | None) -> str:
        return _UNKNOWN if step is None else _LIKELIHOODS[step]

    return {
        "adult": likelihood(adult),
        "spoof": _UNKNOWN,
        "medical": _UNKNOWN,
        "violence": likelihood(violence),
        "racy": likelihood(racy),
    }
