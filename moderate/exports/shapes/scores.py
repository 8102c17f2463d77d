"""`scores`: a label and its scores per image, in a document with the credits that were used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moderate.exports.interface import ExportOptions
from moderate.exports.shapes.base import Answer, Shape, failure, number

_SCORES = ("nsfw_score", "safe_score", "confidence")


class ScoresShape(Shape):
    """As services answer that give `nsfw_score` and `safe_score`.

    Their clients compare numbers and go by the place in the list. So an image that failed keeps its
    place, with the numbers that no client lets pass, and says itself that it failed.
    """

    answers_key = "results"

    def __init__(self, options: ExportOptions) -> None:
        super().__init__(options)
        self._scored = 0

    def head(self) -> Answer:
        """See `Shape`."""
        return {"moderation_id": self.run}

    def answer(self, row: Mapping[str, Any]) -> Answer:
        """See `Shape`."""
        failed = failure(row, "label", *_SCORES)
        if failed is not None:
            return {
                "label": "nsfw",
                "nsfw_score": 1.0,
                "safe_score": 0.0,
                "confidence": 0.0,
                "status": "failed",
                "error": failed.as_json(),
            }
        self._scored += 1
        return {"label": row["label"], **{name: number(row[name]) for name in _SCORES}}

    def tail(self) -> Answer:
        """See `Shape`. A run in which no image was scored has failed."""
        return {
            "credits_used": float(self._scored),
            "total_images": self.rows,
            "status": "failed" if self.rows and not self._scored else "completed",
            "completed_at": self.completed_at(),
        }
