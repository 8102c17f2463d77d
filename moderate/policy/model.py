"""What a policy file holds, validated: every mistake is reported with its key and the reason."""

from __future__ import annotations

import struct
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from moderate.text import printable
from moderate.types import CATEGORIES, Category, Decision, Warn
from moderate.validation import Table

Score = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False, strict=True)]
NotApprove = Literal[Decision.REVIEW, Decision.BLOCK]


def reaches(score: float, limit: float) -> bool:
    """Whether a float32 score is at or above a limit, as written: 0.95 reaches 0.95.

    In float32, 0.95 lies below the float64 number of that name; a decision taken again from a
    stored score must not differ for it.
    """
    rounded_score, rounded_limit = struct.unpack("2f", struct.pack("2f", score, limit))
    return bool(rounded_score >= rounded_limit)


def _showable(text: str) -> str:
    if printable(text) != text:
        raise ValueError("holds a control or direction-changing character")
    return text


Text = Annotated[str, AfterValidator(_showable)]


class Thresholds(Table):
    """Of one category: score < review approves, score >= block blocks, between is for people."""

    review: Score
    block: Score

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.review > self.block:
            raise ValueError(f"review ({self.review}) must not be above block ({self.block})")
        return self

    def decision(self, score: float) -> Decision:
        """What this category asks for at a score."""
        if reaches(score, self.block):
            return Decision.BLOCK
        return Decision.REVIEW if reaches(score, self.review) else Decision.APPROVE


class Level(Table):
    """One level of a rating scale, reached when a score in `any`, or all in `all`, are as high."""

    value: Annotated[Text, Field(min_length=1, max_length=24)]
    description: Annotated[Text, Field(min_length=1, max_length=150)]
    any: dict[Category, Score] = {}
    all: dict[Category, Score] = {}


class Bands(Table):
    """Cuts of the derived columns: which categories make nsfw_score, and where it turns."""

    categories: Annotated[tuple[Category, ...], Field(min_length=1)] = CATEGORIES
    nsfw_above: Score = 0.5
    risk_mid_from: Score = 0.1
    risk_high_above: Score = 0.5

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.risk_mid_from > self.risk_high_above:
            raise ValueError("risk_mid_from must not be above risk_high_above")
        return self


class Policy(Table):
    """Thresholds for the five categories and what to do where a score alone does not decide."""

    name: Annotated[Text, Field(min_length=1, max_length=80)]
    description: Annotated[Text, Field(max_length=500)] = ""
    on_error: NotApprove = Decision.REVIEW
    on_unscored: Literal["ignore", "review"] = "ignore"
    on_warning: dict[Warn, NotApprove] = {}
    categories: dict[Category, Thresholds]
    rating: Annotated[tuple[Level, ...], Field(max_length=7)] = ()
    bands: Bands = Bands()

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if missing := [c.value for c in CATEGORIES if c not in self.categories]:
            raise ValueError(f"categories: no thresholds for {', '.join(missing)}")
        if len(self.rating) == 1:
            raise ValueError("rating: a scale has 2 to 7 levels")
        for index, level in enumerate(self.rating):
            if index and not (level.any or level.all):
                raise ValueError(f"rating: level {level.value!r} needs a condition, any or all")
            if not index and (level.any or level.all):
                raise ValueError(
                    f"rating: the first level, {level.value!r}, takes what no other level does "
                    "and has no condition"
                )
        if len({level.value for level in self.rating}) != len(self.rating):
            raise ValueError("rating: two levels have the same value")
        return self
