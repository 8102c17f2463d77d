"""The rows of a results file in pieces, as decisions by a policy need them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moderate.arrow import python_values
from moderate.own_categories import score_column
from moderate.policy.batch import UNKNOWN_ERROR, Batch, Codes, Encoded
from moderate.policy.thresholds import DECISIONS, Severities
from moderate.results.read import Results
from moderate.results.schema import COLUMNS
from moderate.run.hash_columns import read_hashes
from moderate.types import CATEGORIES, Status, Warn

MOST_ROWS = 100_000
"""Rows that are decided at once."""

OWN = tuple(column.name for column in COLUMNS)

_KNOWN_WARNINGS = {warning.value: warning for warning in Warn}
_SEVERITIES = pa.array([decision.value for decision in DECISIONS], pa.string())


@dataclass(frozen=True)
class Piece:
    """Some rows of a results file: an Arrow array for each own column, cells of carried ones.

    first is the number of the first row, from 1.
    """

    first: int
    own: dict[str, Any]
    carried: dict[str, Any]

    def __len__(self) -> int:
        return len(self.own["path"])

    @cached_property
    def severity(self) -> Severities:
        """That of the decisions as they are stored."""
        found = pc.index_in(self.own["decision"], _SEVERITIES).to_numpy()
        return np.asarray(found, np.int8)

    @cached_property
    def failed(self) -> NDArray[np.bool_]:
        """Which rows have no scores for an error."""
        found = pc.equal(self.own["status"], Status.ERROR.value)
        return np.asarray(found.to_numpy(zero_copy_only=False), bool)

    @cached_property
    def exact_paths(self) -> Any:
        """The bytes of the paths, also of those that are not UTF-8."""
        return pc.coalesce(self.own["path_bytes"], self.own["path"].cast(pa.binary()))

    @cached_property
    def scores(self) -> NDArray[np.float32]:
        """Of the five categories, (5, rows), NaN for what was not scored."""
        return self.scores_of(CATEGORIES)

    def scores_of(self, categories: Sequence[str]) -> NDArray[np.float32]:
        """Of these categories, (categories, rows)."""
        return np.stack([_floats(self.own[name]) for name in categories])

    @cached_property
    def batch(self) -> Batch:
        """What decisions on the rows depend on."""

        @cache
        def paths() -> list[bytes]:
            return list(self.exact_paths.to_pylist())

        @cache
        def carried(name: str) -> list[Any]:
            cells = self.carried.get(name)
            return [None] * len(self) if cells is None else python_values(cells)

        def labelled(name: str) -> NDArray[np.float32]:
            column = self.own.get(score_column(name))
            return np.full(len(self), np.nan, np.float32) if column is None else _floats(column)

        codes = encoded(self.own["error_code"].fill_null(UNKNOWN_ERROR))
        warnings = encoded(self.own["warnings"])
        return Batch(
            scores=self.scores,
            unseen=_floats(self.own["unseen"]),
            warnings=Encoded([_warnings(text) for text in warnings.values], warnings.codes),
            errors=Encoded(codes.values, np.where(self.failed, codes.codes, np.int32(-1))),
            paths=paths,
            sha256=lambda: list(self.own["sha256"].to_pylist()),
            carried=carried,
            labels=labelled,
            hashes=read_hashes(carried),
        )


def encoded(column: Any) -> Encoded[str]:
    """A column of text as its values and their places; -1 is null."""
    found = column.dictionary_encode()
    codes: Codes = found.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return Encoded(found.dictionary.to_pylist(), codes.astype(np.int32, copy=False))


def _floats(column: Any) -> NDArray[np.float32]:
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float32)


def _warnings(text: str) -> tuple[Warn, ...]:
    """Those of a cell that are, or still are, of the closed list."""
    return tuple(_KNOWN_WARNINGS[name] for name in text.split("; ") if name in _KNOWN_WARNINGS)


def pieces(
    results: Results, names: Sequence[str] | None = None, carried: Sequence[str] | None = None
) -> Iterator[Piece]:
    """All rows in order, MOST_ROWS at the most at once. Raises InputError.

    Only these columns are there, None standing for all of ours or all carried ones; one of our own
    that the file lacks is null.
    """
    names = results.own if names is None else names
    wanted = results.carried if carried is None else carried
    first = 1
    for own, theirs in results.parts(names, wanted):
        count = len(own[names[0]])
        for start in range(0, count, MOST_ROWS):
            part = slice(start, min(start + MOST_ROWS, count))
            yield Piece(
                first + start,
                {name: array[part] for name, array in own.items()},
                {name: cells[part] for name, cells in theirs.items()},
            )
        first += count
