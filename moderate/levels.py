"""Rating levels that are matched by their descriptions: what weights and policies agree on.

Such weights have a label `level:VALUE` for each level; its score is the probability that the
description of this level, among those of all, fits the image best.
"""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, Field

from moderate.text import one_line, printable
from moderate.validation import Table

LABEL = "level:"
"""What the label of a level starts with; its value follows."""

FEWEST, MOST = 2, 7
"""How many levels a scale has."""

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def showable(text: str) -> str:
    """The text as it is. Raises ValueError where a terminal would not show it as it is."""
    if printable(text) != text:
        raise ValueError("holds a control or direction-changing character")
    return text


Value = Annotated[str, AfterValidator(showable), Field(min_length=1, max_length=24)]
Description = Annotated[str, AfterValidator(showable), Field(min_length=1, max_length=150)]


class DescribedLevel(Table):
    """One level: its value, and the description that an image is held against."""

    value: Value
    description: Description


Scale = tuple[DescribedLevel, ...]
"""The levels of a scale, the mildest first."""


def check_scale(scale: Sequence[DescribedLevel]) -> None:
    """Raise ValueError for what can be no scale: too few levels, too many, or two alike."""
    if not FEWEST <= len(scale) <= MOST:
        raise ValueError(f"a scale has {FEWEST} to {MOST} levels")
    for number, level in enumerate(scale):
        for earlier in scale[:number]:
            if level.value == earlier.value:
                raise ValueError(f"two levels have the value {level.value!r}")
            if _as_read(level.description) == _as_read(earlier.description):
                raise ValueError(f"{earlier.value!r} and {level.value!r} have the same description")
        for text in (level.value, level.description):
            if text != text.strip():
                raise ValueError(f"{text!r} begins or ends with a blank")
        if not _as_read(level.description):
            raise ValueError(f"the description {level.description!r} has no word")
        if "; " in level.value:
            raise ValueError(f"{level.value!r} holds '; ', which separates reasons")


def _as_read(text: str) -> str:
    """The text without what some checkpoints do not read: case, punctuation and blanks."""
    return "".join(text.translate(_NO_PUNCTUATION).casefold().split())


def scale_labels(scale: Sequence[DescribedLevel], names: Sequence[str]) -> tuple[str, ...]:
    """The labels of a scale's levels, in its order, among these names (MODEL/LABEL).

    Empty where no model has all of them, or where several have.
    """
    models = dict.fromkeys(name.partition(f"/{LABEL}")[0] for name in names if f"/{LABEL}" in name)
    wanted = [[f"{model}/{LABEL}{level.value}" for level in scale] for model in models]
    there = set(names)
    complete = [labels for labels in wanted if there.issuperset(labels)]
    return tuple(complete[0]) if scale and len(complete) == 1 else ()


def difference(wanted: Sequence[DescribedLevel], there: Sequence[DescribedLevel]) -> str | None:
    """What is different about the levels that are there, in words; None where nothing is."""
    values, others = [level.value for level in wanted], [level.value for level in there]
    if values != others:
        order = " in another order" if sorted(values) == sorted(others) else ""
        return f"the levels{order} {one_line(', '.join(others), 200)}"
    for level, other in zip(wanted, there, strict=True):
        if level.description != other.description:
            shown = one_line(other.description, 160)
            return f"another description of level {level.value!r}: {shown!r}"
    return None


def levels_text(scale: Sequence[DescribedLevel]) -> str:
    """A scale as one line of JSON, as audit facts hold it; empty for none."""
    if not scale:
        return ""
    return json.dumps([[each.value, each.description] for each in scale], ensure_ascii=False)


def read_levels(text: str | None) -> Scale | None:
    """The scale that `levels_text` wrote; None for no text, and for what is none."""
    try:
        pairs = json.loads(text or "")
        scale = tuple(
            DescribedLevel(value=value, description=description) for value, description in pairs
        )
        check_scale(scale)
    except (ValueError, TypeError, RecursionError):
        return None
    return scale


def most_severe(shares: Sequence[Sequence[float]]) -> int:
    """Which of several parts of an image decides its level: that with the most severe one.

    shares holds for each part the scores of all levels, the mildest first. The level of a part is
    the one with the highest score, the mildest of equals. Of parts of the same level it is the one
    with the highest score for it, the first of equals.
    """

    def severity(part: int) -> tuple[int, float]:
        level = max(range(len(shares[part])), key=shares[part].__getitem__)
        return level, shares[part][level]

    return max(range(len(shares)), key=severity)
