"""How far the scores of a row are up the thresholds of the policy that it is held to."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import ValidationError

from moderate.errors import InputError
from moderate.policy.model import Policy
from moderate.policy.when import Condition, parse_when
from moderate.types import CATEGORIES, Category

REVIEW = 2
"""The step from which the policy does not approve."""

_Cuts = Mapping[Category, list[float]]


class Steps:
    """Made once per document, of the audit facts. Raises InputError where they have no policy.

    The steps of a category with the thresholds `review` and `block`: 0 below half of review, 1 from
    there, 2 from review, 3 from halfway between review and block, 4 from block.
    """

    def __init__(self, facts: Mapping[str, str]) -> None:
        try:
            policy = Policy.model_validate_json(facts.get("policy_json", ""))
        except ValidationError as error:
            raise InputError(
                "the results do not say by which policy they were decided, and this shape counts "
                "by its thresholds: write rows that do with 'moderate decide RESULTS --policy NAME "
                "--out FILE'"
            ) from error
        self._usual = _cuts(policy)
        self._overrides: list[tuple[Condition, _Cuts]] = [
            (parse_when(override.when), _cuts(override.applied(policy)))
            for override in policy.override
        ]

    def of(self, row: Mapping[str, Any]) -> dict[Category, int | None]:
        """The step of each category; None where it was not scored."""
        cuts = self._cuts_for(row) if self._overrides else self._usual
        return {
            category: None if score is None else bisect_right(cuts[category], score)
            for category in CATEGORIES
            for score in (row.get(category),)
        }

    def _cuts_for(self, row: Mapping[str, Any]) -> _Cuts:
        path = row.get("path_bytes") or row["path"].encode("utf-8", "backslashreplace")
        for condition, cuts in self._overrides:
            if condition.holds(path, row):
                return cuts
        return self._usual


def highest(
    steps: Mapping[Category, int | None],
    needed: tuple[Category, ...],
    others: tuple[Category, ...] = (),
) -> int | None:
    """The highest step of categories that a service has as one.

    None where one that is needed was not scored, and the rest would pass: what nobody looked for is
    unknown, not unlikely.
    """
    known = [step for name in (*needed, *others) if (step := steps[name]) is not None]
    top = max(known, default=0)
    missing = any(steps[name] is None for name in needed)
    return None if missing and top < REVIEW else top


def _cuts(policy: Policy) -> _Cuts:
    """As float32, as scores are compared with thresholds everywhere."""
    cuts = {}
    for category in CATEGORIES:
        review, block = policy.categories[category].review, policy.categories[category].block
        exact = (review / 2, review, (review + block) / 2, block)
        cuts[category] = [float(np.float32(cut)) for cut in exact]
    return cuts
