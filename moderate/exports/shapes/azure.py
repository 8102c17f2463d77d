"""`azure`: severities per category, as Azure AI Content Safety gives them for an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moderate.exports.shapes.base import Answer, Failure, Shape, failure_of_all
from moderate.exports.shapes.steps import Steps, highest
from moderate.types import Category, ErrorCode

_SEVERITIES = (0, 2, 4, 4, 6)  # by step
_FAULTS_OF_OURS = {
    ErrorCode.INTERNAL_ERROR,
    ErrorCode.CLASSIFY_FAILED,
    ErrorCode.NON_FINITE_SCORE,
}


class AzureShape(Shape):
    """`categoriesAnalysis`; Hate and SelfHarm are null, because nothing here looks for them.

    An image that failed has the service's `error`, and the highest severities for those clients
    that do not look at it.
    """

    needs_policy = True

    def begin(self) -> None:
        """See `Shape`. Raises InputError."""
        self._steps = Steps(self.facts)

    def answer(self, row: Mapping[str, Any]) -> Answer:
        """See `Shape`."""
        failed = failure_of_all(row)
        if failed is not None:
            return {"error": _error(failed), "categoriesAnalysis": _analysis(4, 4)}
        steps = self._steps.of(row)
        sexual = highest(steps, (Category.NUDITY, Category.SEXUAL_ACTIVITY), (Category.SUGGESTIVE,))
        return {"categoriesAnalysis": _analysis(sexual, steps[Category.VIOLENCE])}


def _analysis(sexual: int | None, violence: int | None) -> list[dict[str, Any]]:
    steps = {"Hate": None, "SelfHarm": None, "Sexual": sexual, "Violence": violence}
    return [
        {"category": name, "severity": None if step is None else _SEVERITIES[step]}
        for name, step in steps.items()
    ]


def _error(failed: Failure) -> dict[str, Any]:
    code = "InternalError" if failed.code in _FAULTS_OF_OURS else "InvalidRequestBody"
    return {"code": code, "message": failed.message, "innererror": {"code": failed.code}}
