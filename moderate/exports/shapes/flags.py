"""`flags`: a confidence for each kind of content, the five and the weights' own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moderate.exports.shapes.base import Answer, Shape, failure_of_all, number
from moderate.own_categories import categories_of
from moderate.types import Category

FLAGS: Mapping[str, str] = {
    Category.NUDITY: "Nudity",
    Category.SEXUAL_ACTIVITY: "Sexual Activity",
    Category.SUGGESTIVE: "Suggestive",
    Category.VIOLENCE: "Violence",
    Category.DRUG_USE: "Drug Use",
}


class FlagsShape(Shape):
    """As services answer that list flags with a confidence.

    A kind that the weights do not score has no flag: any number would be taken for a finding.
    Clients go through the list and let pass what is in none; so an image that failed has all flags
    at 1.0, and says beside them that it failed.
    """

    def answer(self, row: Mapping[str, Any]) -> Answer:
        """See `Shape`."""
        categories = categories_of(row)
        flags = {name: FLAGS.get(name) or name.replace("_", " ").title() for name in categories}
        scored = {
            flag: number(score)
            for category, flag in flags.items()
            if (score := row.get(category)) is not None
        }
        failed = failure_of_all(row, categories)
        if failed is not None:
            scored = dict.fromkeys(flags.values(), 1.0)
        answer: dict[str, Any] = {
            "flags": [{"name": name, "confidence": score} for name, score in scored.items()]
        }
        if failed is not None:
            answer["error"] = failed.as_json()
        return {"detect-moderation": answer}
