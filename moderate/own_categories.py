"""Categories besides the five, which a run's weights bring along: their names and columns.

Their scores travel with those of the networks' own labels: in one mapping, told apart by name, as
every label is named MODEL/LABEL and no category has a slash.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any

from pydantic import AfterValidator

from moderate.errors import UsageError
from moderate.text import one_line
from moderate.types import CATEGORIES, LABEL_PREFIX, Category

_NAME = re.compile(r"^[a-z][a-z0-9_]{0,39}$")

_FORM = "up to 40 of a-z, 0-9 and _, a letter first"


def _of_form(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"is no name for an own category: {_FORM}")
    return name


OwnCategory = Annotated[str, AfterValidator(_of_form)]
"""The name of a category besides the five, which is also that of its column."""

OWN = "own"
"""The key under `categories` of a file that holds own categories."""

_LIFTED = re.compile(rf"^((?:\w+\.[0-9]+\.)?){OWN}\.")

# Columns of results, which a test holds this against, and of tables made of them.
_COLUMNS = """
path path_bytes uri origin run_id scored_at status decision reasons label nsfw_score safe_score
confidence risk is_nsfw rating width height format frames frames_scored highest_at unseen embedded
segments duration bytes sha256 duplicate_of warnings error_code error_message final_decision
decided_by decided_at shard_input shard_row shard_content number date
"""
# Columns of files of labels, and names of folders of labelled images.
_LABELS = """
file id image category band chosen_by chosen_for inclusion_probability approve review block safe
none clean neutral negative sfw
"""
# What reasons and tables of policies start with.
_WORDS = "own error warning cleared override other people unscored"

TAKEN = frozenset(f"{_COLUMNS} {_LABELS} {_WORDS}".split())
"""Names that no own category may have, as they mean something else where it would stand."""

FIRST, LAST = CATEGORIES[-1].value, "nsfw_score"
"""The columns of results between which those of own categories stand, and then `label`.

In a folder by `label` the files lack that column.
"""


def category_of(name: str) -> str:
    """One of the five, or the name of an own category. Raises ValueError for neither."""
    if name in CATEGORIES:
        return Category(name)
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is neither one of {', '.join(CATEGORIES)} nor a name for an own category: "
            f"{_FORM}"
        )
    return name


CategoryName = Annotated[str, AfterValidator(category_of)]
"""One of the five, or the name of an own category."""


def is_own_name(name: str) -> bool:
    """Whether an own category may be called so."""
    return bool(_NAME.fullmatch(name)) and name not in CATEGORIES and name not in TAKEN


def category_named(option: str, name: str, categories: Sequence[str]) -> str:
    """One of these categories as an option names it. Raises UsageError for another."""
    text = name.strip()
    if text not in categories:
        raise UsageError(f"{option} {one_line(name, 60)}: categories are {', '.join(categories)}")
    return Category(text) if text in CATEGORIES else text


def why_taken(name: str) -> str | None:
    """Why no own category may have a name of the right form; None where it may."""
    if name in CATEGORIES:
        return f"{name} is one of the five categories; name it under categories"
    if name in TAKEN:
        return f"the name {name} is taken, as by a column of results; choose another"
    return None


def own_names(scored: Iterable[str]) -> tuple[str, ...]:
    """The own categories among the names of scores besides the five, in their order."""
    return tuple(name for name in scored if "/" not in name)


def label_names(scored: Iterable[str]) -> tuple[str, ...]:
    """The labels among the names of scores besides the five, in their order."""
    return tuple(name for name in scored if "/" in name)


def score_column(name: str) -> str:
    """The column of a score besides the five: of a label or an own category."""
    return LABEL_PREFIX + name if "/" in name else name


@lru_cache(maxsize=64)
def own_columns_of(names: tuple[str, ...]) -> tuple[str, ...]:
    """The own categories that results with these columns have: those right after the five.

    What a manifest carries, or another program added, stands elsewhere, whatever it is called.
    """
    if FIRST not in names or LAST not in names:
        return ()
    between = names[names.index(FIRST) + 1 : names.index(LAST)]
    if between[-1:] == ("label",):
        between = between[:-1]
    return between if all(map(is_own_name, between)) else ()


def scored_columns_of(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of all scores besides the five that results with these columns have."""
    labels = [name.removeprefix(LABEL_PREFIX) for name in names if is_label_column(name)]
    return (*own_columns_of(names), *labels)


def categories_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The categories that a row has columns for, by their names: the five, then own ones."""
    return (*CATEGORIES, *own_columns_of(tuple(row)))


def is_label_column(name: str) -> bool:
    """Whether a column has the scores of a label."""
    return name.startswith(LABEL_PREFIX) and "/" in name


def lift_own(table: Any) -> Any:
    """A table with what `categories.own` holds as `own`: the closed list has none of its names."""
    categories = table.get("categories") if isinstance(table, dict) else None
    if not isinstance(categories, dict) or OWN not in categories:
        return table
    five = {name: value for name, value in categories.items() if name != OWN}
    return {**table, "categories": five, OWN: categories[OWN]}


def as_in_file(problem: str) -> str:
    """A problem of validation with the key of own categories as the file has it."""
    return _LIFTED.sub(rf"\1categories.{OWN}.", problem)


def lower_own(table: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `lift_own`; without own categories nothing shows that there can be any."""
    own = table.pop(OWN, None)
    if own:
        table["categories"] = {**table["categories"], OWN: own}
    return table
