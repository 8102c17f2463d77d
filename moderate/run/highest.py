"""From the scores of an image's parts to those of the image: the highest, and where it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from moderate.decode.parts import Part
from moderate.levels import most_severe
from moderate.places import places_text
from moderate.policy.reasons import as_part, label_term
from moderate.types import CATEGORIES, UNSCORED, Category, ImageError, Scores

if TYPE_CHECKING:
    from moderate.classify.classifier import Scored


class ScoredImage(NamedTuple):
    """The scores of an image and of its labels, or why there are none.

    places is the text of `Row.places`; empty where there was one part.
    """

    outcome: Scores | ImageError
    labels: tuple[float, ...] = ()
    places: str = ""


NOT_SCORED = ScoredImage(UNSCORED)
"""What is known of an image that did not reach the model."""


def highest(
    scored: Sequence[Scored],
    parts: Sequence[Part],
    label_names: Sequence[str],
    level_labels: Sequence[str] = (),
) -> ScoredImage:
    """The highest score of each category and label among the parts, the first of equals.

    Those of level_labels, which are rating levels, are all of the part with the most severe level:
    they are shares of one whole. A part that has no scores is an error of the image: it may be the
    one that matters.
    """
    if len(scored) == 1:
        return ScoredImage(*scored[0])
    known: list[Scores] = []
    for each, part in zip(scored, parts, strict=True):
        if isinstance(each.outcome, ImageError):
            error = each.outcome
            where = f"{part.place}: " if part.place else ""
            return ScoredImage(ImageError(error.code, where + error.message))
        known.append(each.outcome)
    places: dict[str, str] = {}

    def best(term: str, values: Sequence[float], at: int | None = None) -> float:
        if at is None:
            at = max(range(len(values)), key=values.__getitem__)
        if place := parts[at].place:
            places[as_part(term)] = place
        return values[at]

    scores: dict[Category, float | None] = dict(UNSCORED)
    for category in CATEGORIES:
        values = [score for each in known if (score := each[category]) is not None]
        if values:  # which categories the weights score is the same for all parts
            scores[category] = best(category.value, values)
    decisive: int | None = None
    if level_labels and set(level_labels) <= set(label_names):
        columns = [label_names.index(name) for name in level_labels]
        decisive = most_severe([[each.labels[column] for column in columns] for each in scored])
    labels = tuple(
        best(label_term(name), values, decisive if name in level_labels else None)
        for name, values in zip(
            label_names, zip(*(s.labels for s in scored), strict=True), strict=False
        )
    )
    return ScoredImage(scores, labels, places_text(places) or "")
