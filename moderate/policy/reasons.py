"""The words of decisions: what a reason says, and how parts of one are told apart."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from moderate.places import AT
from moderate.types import Decision, Places

BLOCK_LIST = "block list: "
CLEARED = "cleared until "
"""What the reason of a decision by a list starts with."""

NEAR = 0.01
"""Closer to a limit than this, two digits of a score may not be enough."""

_OVERRIDE = " (override "


def comparison(term: str, score: float, sign: str, limit: float, *, reached: bool) -> str:
    """`nudity 0.91 >= block 0.85`, with as many digits as keep the comparison true as printed.

    reached says whether the score reaches the limit by the rule of `thresholds`.
    """
    digits = 2
    if abs(score - limit) <= NEAR:
        while digits < 9 and (round(score, digits) >= limit) != reached:
            digits += 1
    return f"{term} {score:.{digits}f} {sign} {_limit_text(limit)}"


def error_reason(code: str, on_error: Decision) -> str:
    """Why an image without scores is decided as it is."""
    return f"error {code}: on_error {on_error}"


def label_term(name: str) -> str:
    """What reasons call a score besides the five: `label MODEL/LABEL`, or an own category's name.

    No category is called so.
    """
    return f"label {name}" if "/" in name else name


def by_override(label: str) -> str:
    """What the reasons of rows end with that an override is for."""
    return f"{_OVERRIDE}{as_part(label)})"


def at_place(reason: str, place: str) -> str:
    """A reason with the frame, part or time that it is about; what it ends with stays the end."""
    what, override, label = reason.partition(_OVERRIDE)
    return f"{what}{AT}{place}{override}{label}"


def placed(reasons: Sequence[str], places: Places) -> tuple[str, ...]:
    """Reasons with the places that their terms have."""
    if not places:
        return tuple(reasons)
    return tuple(_placed(reason, places) for reason in reasons)


def _placed(reason: str, places: Places) -> str:
    # Names of labels may hold blanks: the longest that fits is meant.
    terms = [term for term in places if reason.startswith(f"{term} ")]
    return at_place(reason, places[max(terms, key=len)]) if terms else reason


def as_part(text: str) -> str:
    """Reasons are joined with `; `, which so never stands in one of them."""
    return text.replace("; ", ", ")


@lru_cache
def _limit_text(limit: float) -> str:
    return f"{limit:.2f}" if round(limit, 2) == limit else f"{limit:g}"
