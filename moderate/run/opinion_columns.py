"""The columns that rows have in runs with second opinions: whose it was, and the first scores."""

from __future__ import annotations

from collections.abc import Collection

from moderate.types import CATEGORIES, Category

SECOND_WEIGHTS = "second_weights"
"""The weights whose second opinion the policy asked for; null where it asked for none."""

SECOND_ERROR = "second_error"
"""Why there is no second opinion although the policy asked for one, as `code: message`."""


SECOND_OPINION = "second_opinion"
"""The audit fact that has what the policy of the scan asked for, as a list in JSON."""


def first_score(category: Category) -> str:
    """The column of a score as it was before the second opinion; null where none was asked for."""
    return f"first_{category.value}"


def opinion_columns(carried: Collection[str]) -> list[str]:
    """Those of these carried columns that are about second opinions; none without SECOND_WEIGHTS.

    A manifest may carry columns of such names, too, but not a column SECOND_WEIGHTS in such a run.
    """
    if SECOND_WEIGHTS not in carried:
        return []
    names = {SECOND_WEIGHTS, SECOND_ERROR, *map(first_score, CATEGORIES)}
    return [name for name in carried if name in names]
