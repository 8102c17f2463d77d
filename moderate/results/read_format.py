"""What the readers of results files share: chunks of rows, and which values a column may have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from moderate.errors import InputError
from moderate.own_categories import is_label_column, own_columns_of, scored_columns_of
from moderate.results.parquet_writer import arrow_schema
from moderate.text import one_line
from moderate.types import CATEGORIES, Decision, Status

CHUNK_ROWS = 8192
"""Rows held as Python objects at once."""

MAX_WARNINGS = 64
"""Warnings of one row; the closed list that a run knows is far shorter."""

CONVERSION_ERRORS = (pa.ArrowException, ValueError, TypeError, OverflowError)
"""What Arrow and base64 raise for values that do not fit a type."""

_OWN_TYPES = {field.name: field.type for field in arrow_schema()}
_ALLOWED = {"status": tuple(s.value for s in Status), "decision": tuple(d.value for d in Decision)}
_SCORES = tuple(category.value for category in CATEGORIES)

_RELATED = ("status", "decision", "error_code", *_SCORES)


def own_categories(names: Sequence[str]) -> tuple[str, ...]:
    """The own categories whose scores results with these columns have."""
    return own_columns_of(tuple(names))


def scored_names(names: Sequence[str]) -> tuple[str, ...]:
    """The own categories and labels whose scores results with these columns have."""
    return scored_columns_of(tuple(names))


def carried_names(names: Sequence[str]) -> tuple[str, ...]:
    """Those of a file's columns that are none of ours, but carried from a manifest."""
    own = set(own_categories(names))
    return tuple(
        name for name in names if not (name in _OWN_TYPES or name in own or is_label_column(name))
    )


def related(names: Sequence[str]) -> tuple[str, ...]:
    """Columns whose cells have to agree with each other in every row; see `contradiction`."""
    return (*_RELATED, *own_categories(names))


class Chunk(ABC):
    """Consecutive rows of a file with columns of these names.

    first is the number of the first row, counted from 1; count is how many rows there are.
    """

    def __init__(self, names: Sequence[str], first: int, count: int) -> None:
        self.names = names
        self.first = first
        self.count = count

    def arrays(self, names: Sequence[str]) -> list[Any]:
        """Some of our own columns, as `columns` returns them, after `contradiction` has passed.

        Raises InputError for the first row that contradicts itself.
        """
        needed = list(dict.fromkeys([*names, *related(self.names)]))
        arrays = dict(zip(needed, self.columns(needed), strict=True))
        if (problem := contradiction(arrays, self.names)) is not None:
            raise self.error(*problem)
        return [arrays[name] for name in names]

    @abstractmethod
    def columns(self, names: Sequence[str]) -> list[Any]:
        """Some of our own columns as Arrow arrays of the schema's types, each value checked.

        A column that the file lacks is null. Raises InputError for a value that no run wrote.
        """

    @abstractmethod
    def carried(self, name: str) -> Any:
        """The values of a carried column: a list, or an Arrow array."""

    @abstractmethod
    def error(self, index: int, reason: str) -> InputError:
        """The error for the row of this index, from 0, which no run wrote."""


class ResultsFile(ABC):
    """A results file of one format. names are its columns, in its order."""

    names: tuple[str, ...]

    def __init__(self, path: str) -> None:
        self.path = path

    def facts(self) -> dict[str, str]:
        """The audit facts that the file itself holds."""
        return {}

    @abstractmethod
    def chunks(self) -> Iterator[Chunk]:
        """All rows, in order."""

    def carried_column(self, name: str, pieces: Sequence[Any]) -> Any:
        """What the chunks returned for a carried column, as one Arrow column."""
        return pa.array([value for piece in pieces for value in piece], pa.string())


def own_type(name: str) -> Any:
    """The Arrow type of one of our own columns; those of own categories and labels are scores."""
    return _OWN_TYPES[name] if name in _OWN_TYPES else pa.float32()


def type_name(name: str) -> str:
    """What messages call the type of one of our own columns."""
    names = {"float": "a number", "int64": "a whole number", "bool": "true or false"}
    return names.get(str(own_type(name)), "base64" if own_type(name) == pa.binary() else "text")


def contradiction(columns: Mapping[str, Any], names: Sequence[str]) -> tuple[int, str] | None:
    """The first row whose status, decision, error code and scores contradict each other, and why.

    columns are arrays of `related`, names the columns of the file. A row whose status is not ok is
    never approved and has no score, one without a score is never approved, and one that is ok has
    no error: a file that says otherwise was changed, or was not written by this tool.
    """
    is_error = pc.equal(columns["status"], Status.ERROR.value)
    is_approved = pc.equal(columns["decision"], Decision.APPROVE.value)
    has_code = columns["error_code"].is_valid()
    scores = (*_SCORES, *own_categories(names))
    has_score = {name: columns[name].is_valid() for name in scores}
    rules = [
        (pc.and_(pc.invert(is_error), has_code), "status is ok, but error_code is not empty"),
        (pc.and_(is_error, is_approved), "status is error, but decision is approve"),
        *(
            (pc.and_(is_error, mask), f"status is error, but {name} has a score")
            for name, mask in has_score.items()
        ),
    ]
    if all(name in names for name in _SCORES):
        is_unscored = pc.invert(reduce(pc.or_, has_score.values()))
        reason = "decision is approve, but no category has a score"
        rules.append((pc.and_(is_approved, is_unscored), reason))
    firsts = [(pc.index(mask, True).as_py(), reason) for mask, reason in rules]
    return min(((i, reason) for i, reason in firsts if i >= 0), key=itemgetter(0), default=None)


def first_invalid(name: str, array: Any) -> int | None:
    """The index of the first value that one of our own columns cannot have."""
    if name in _ALLOWED:
        is_valid = pc.is_in(array, pa.array(_ALLOWED[name], pa.string()))
    elif name == "path":
        is_valid = array.is_valid()
    elif _is_score(name):  # NaN fails both comparisons
        is_in_range = pc.and_(pc.greater_equal(array, 0.0), pc.less_equal(array, 1.0))
        is_valid = pc.fill_null(is_in_range, True)
    elif name == "warnings":
        is_valid = pc.fill_null(pc.less(pc.count_substring(array, "; "), MAX_WARNINGS), True)
    else:
        return None
    index: int = pc.index(is_valid, False).as_py()
    return None if index < 0 else index


def invalid_reason(name: str, value: Any) -> str:
    """Why one of our own columns cannot have the value, for a message."""
    if value is None:
        return f"{name} is missing"
    if _is_score(name):
        return f"{name}: {value} is not a score from 0 to 1"
    if name == "warnings":
        return f"{name}: more than {MAX_WARNINGS} in one row"
    return f"{name}: {one_line(str(value), 40)!r} is none of {', '.join(_ALLOWED[name])}"


def without_surrogates(text: str) -> str:
    """Text whose lone surrogates, which JSON can hold and UTF-8 cannot, are escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _is_score(name: str) -> bool:
    return name in _SCORES or name not in _OWN_TYPES
