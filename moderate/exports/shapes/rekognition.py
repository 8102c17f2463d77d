"""`rekognition`: the output manifest of Amazon Rekognition's bulk analysis, and its summary."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from moderate.exports.interface import ExportOptions
from moderate.exports.shapes.base import Answer, Shape, failure_of_all, image_name
from moderate.exports.shapes.steps import REVIEW, Steps
from moderate.results.schema import shortest
from moderate.types import CATEGORIES, Category

MODEL_VERSION = "7.0"


class _Label(NamedTuple):
    """A label of the second level of the taxonomy, and the one of the first that it is below."""

    name: str
    parent: str


LABELS: Mapping[Category, _Label] = {
    Category.NUDITY: _Label("Explicit Nudity", "Explicit"),
    Category.SEXUAL_ACTIVITY: _Label("Explicit Sexual Activity", "Explicit"),
    Category.SUGGESTIVE: _Label(
        "Non-Explicit Nudity", "Non-Explicit Nudity of Intimate parts and Kissing"
    ),
    Category.VIOLENCE: _Label("Graphic Violence", "Violence"),
    Category.DRUG_USE: _Label("Drugs & Tobacco Paraphernalia & Use", "Drugs & Tobacco"),
}
"""Of version 7 of the taxonomy."""


class RekognitionShape(Shape):
    """Lines of the output manifest; the document is the manifest's summary.

    As in the service, an image that failed has no line: a line without labels would read as a clean
    image. The summary lists it under `errors`, and is always written beside the lines.
    """

    answers_key = "errors"
    companion = "-summary.json"
    needs_policy = True

    def __init__(self, options: ExportOptions) -> None:
        super().__init__(options)
        self._failed = 0
        self._not_scored: set[Category] = set()

    def begin(self) -> None:
        """See `Shape`. Raises InputError."""
        self._steps = Steps(self.facts)

    def answer(self, row: Mapping[str, Any]) -> Answer | None:
        """See `Shape`: a line of the manifest."""
        if failure_of_all(row) is not None:
            return None
        return {
            "source-ref": image_name(row),
            "detect-moderation-labels": {
                "ModerationLabels": self._labels(row),
                "ModerationModelVersion": MODEL_VERSION,
                "ContentTypes": [],
            },
        }

    def head(self) -> Answer:
        """See `Shape`."""
        return {"version": "1.0"}

    def element(self, row: Mapping[str, Any]) -> Answer | None:
        """See `Shape`: an entry of the summary's errors."""
        failed = failure_of_all(row)
        if failed is None:
            self._not_scored.update(name for name in CATEGORIES if row.get(name) is None)
            return None
        self._failed += 1
        return {
            "line-numer": self.rows,  # so it is spelled in the service's documentation
            "line-number": self.rows,
            "source-ref": image_name(row),
            **failed.as_json(),
        }

    def tail(self) -> Answer:
        """See `Shape`."""
        statistics = {
            "total-json-lines": self.rows,
            "valid-json-lines": self.rows - self._failed,
            "invalid-json-lines": self._failed,
        }
        names = [LABELS[name].name for name in CATEGORIES if name in self._not_scored]
        return {"statistics": statistics, "labels-not-looked-for": names}

    def _labels(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Those of categories that the policy does not approve, after what they are below."""
        steps = self._steps.of(row)
        listed = {
            label: _confidence(row[category])
            for category, label in LABELS.items()
            if (step := steps[category]) is not None and step >= REVIEW
        }
        parents: dict[str, float] = {}
        for label, confidence in listed.items():
            parents[label.parent] = max(confidence, parents.get(label.parent, 0.0))
        above = [_as_json(name, "", 1, confidence) for name, confidence in parents.items()]
        return above + [
            _as_json(label.name, label.parent, 2, confidence)
            for label, confidence in listed.items()
        ]


def _confidence(score: float) -> float:
    """From 0 to 100, with the digits of the score."""
    return float(Decimal(shortest(score)).scaleb(2))


def _as_json(name: str, parent: str, level: int, confidence: float) -> dict[str, Any]:
    return {
        "Confidence": confidence,
        "Name": name,
        "ParentName": parent,
        "TaxonomyLevel": level,
    }
