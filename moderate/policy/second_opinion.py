"""A policy's second opinions: which rows another bundle of weights scores, too."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_serializer, model_validator

from moderate.text import printable
from moderate.types import CATEGORIES, Category
from moderate.validation import Table

MOST_OPINIONS = 4
"""Second opinions of one policy. A row gets one of them at most."""

Combination = Literal["replace", "max"]

_Score = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False, strict=True)]


def _weights(name: str) -> str:
    if printable(name) != name:
        raise ValueError("holds a control or direction-changing character")
    return name


class SecondOpinion(Table):
    """Rows with a score from `lower` to `upper`, both included, are scored by `weights`, too.

    One score of `categories` in the band is enough. The scores of the second weights replace those
    of the first in every category that they feed, or, with `max`, the higher of both counts. In the
    file the bounds are called `from` and `to`.
    """

    weights: Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_weights)]
    lower: Annotated[_Score, Field(alias="from")]
    upper: Annotated[_Score, Field(alias="to")]
    categories: Annotated[tuple[Category, ...], Field(min_length=1)] = CATEGORIES
    combine: Combination = "replace"

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.lower > self.upper:
            raise ValueError(f"from ({self.lower}) must not be above to ({self.upper})")
        return self

    @model_serializer
    def _as_in_the_file(self) -> dict[str, Any]:
        return {
            "weights": self.weights,
            "from": self.lower,
            "to": self.upper,
            "categories": [category.value for category in self.categories],
            "combine": self.combine,
        }

    @property
    def band(self) -> str:
        """Which rows get it, as reports say it."""
        text = f"for scores from {self.lower:g} to {self.upper:g}"
        if set(self.categories) != set(CATEGORIES):
            text += f" of {', '.join(self.categories)}"
        return text + (" (the higher score counts)" if self.combine == "max" else "")
