"""The rows that a report lists: compact, bounded, the most severe first.

They are kept as Arrow tables, which take little more memory than their text. Where there are more
rows than a page should hold, those with the mildest decisions and lowest scores are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moderate.policy.model import Policy
from moderate.results.schema import own_columns, values
from moderate.types import CATEGORIES, Decision, Row

if TYPE_CHECKING:
    import pyarrow as pa

    from moderate.results.read import Results

MOST_ROWS = 200_000
"""Rows of one page at the most."""

MOST_TEXT_BYTES = 64 << 20
"""Bytes of the listed rows in memory at the most; long names take it up with fewer rows."""

MOST_CHARACTERS = 1000
"""Of one cell of text; a longer one is cut in the middle. A path may be as long as a system's."""

_LONGEST = {"path": 4096, "uri": 3 * 4096}

BINS = 20
"""Bars of a histogram of scores, each as wide."""

_PLACES = {column.name: place for place, column in enumerate(own_columns())}
_TEXTS = (
    *("path", "decision", "reasons", "format", "highest_at", "embedded", "sha256"),
    *("duplicate_of", "warnings", "error_code", "error_message"),
    *({"uri"} & _PLACES.keys()),
)
_NUMBERS = ("width", "height", "frames", "bytes")
LISTED = (*_TEXTS, *_NUMBERS, "path_bytes", *(category.value for category in CATEGORIES))
"""The result columns that are kept of each row, besides those of own categories."""

NUMBER = "number"
"""The column of a listing that counts the rows of the results from 1, in their order."""

_CHUNK_ROWS = 4096
_SLACK = 1.25  # how much more than is kept may gather, so that sorting is rare


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """Small images by the place of their row in the listing, as bytes of JPEG files.

    asked is for how many of the first rows they were tried, missing says why some have none, with
    the number of rows for each reason.
    """

    images: Mapping[int, bytes]
    asked: int
    missing: Mapping[str, int]


@dataclass(slots=True)
class Listing:
    """Takes rows in, and gives the most severe of them.

    own are the own categories that rows have scores of. histograms counts the scores of all rows,
    BINS by category; those without a score are in none. thumbnails are made where they are asked
    for, when all rows are there.
    """

    policy: Policy
    most_rows: int = MOST_ROWS
    most_bytes: int = MOST_TEXT_BYTES
    rows: int = 0
    histograms: dict[str, NDArray[np.int64]] = field(
        default_factory=lambda: {name.value: np.zeros(BINS, np.int64) for name in CATEGORIES}
    )
    thumbnails: Thumbnails | None = None
    own: tuple[str, ...] = ()
    _pending: list[list[Any]] = field(default_factory=list)
    _tables: list[pa.Table] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Count scores of own categories, too."""
        for name in self.own:
            self.histograms[name] = np.zeros(BINS, np.int64)

    @property
    def columns(self) -> tuple[str, ...]:
        """The result columns that are kept of each row."""
        return (*LISTED, *self.own)

    @classmethod
    def of_results(cls, results: Results, policy: Policy) -> Listing:
        """The listing of a results file, which is read in parts, as people decided on its rows.

        Raises InputError.
        """
        from moderate.results.final import columns_of_final, decided

        listing = cls(policy, own=results.own_categories)
        for own, carried in results.parts(listing.columns, columns_of_final(results)):
            listing.add_columns(decided(results, own, carried))
        return listing

    def add(self, row: Row) -> None:
        """Take one row in."""
        cells = values(row)
        own = [row.labels.get(name) for name in self.own]
        self._pending.append([*(cells[_PLACES[name]] for name in LISTED), *own])
        if len(self._pending) == _CHUNK_ROWS:
            self._take_pending()

    def add_batch(self, columns: Mapping[str, Any]) -> None:
        """Take rows in, after those that `add` has taken; see `add_columns`."""
        self._take_pending()
        self.add_columns(columns)

    def add_columns(self, columns: Mapping[str, Any]) -> None:
        """Take rows in by the Arrow arrays of their columns."""
        import pyarrow as pa

        schema = _schema(self.own)
        arrays = [_array(columns[name], name, schema.field(name).type) for name in self.columns]
        count = len(arrays[0])
        numbers = pa.array(np.arange(self.rows + 1, self.rows + count + 1))
        self.rows += count
        table = pa.Table.from_arrays([*arrays, numbers], schema=schema)
        for name, counts in self.histograms.items():
            scores = _scores(table, name)
            known = scores[~np.isnan(scores)]
            counts += np.bincount((known * BINS).astype(int).clip(0, BINS - 1), minlength=BINS)
        self._tables.append(table)
        rows = sum(map(len, self._tables))
        size = sum(each.nbytes for each in self._tables)
        if rows > _SLACK * self.most_rows or size > _SLACK * self.most_bytes:
            self._tables = [self._most_severe()]

    def table(self) -> pa.Table:
        """The rows that are listed, the most severe first: `columns`, and NUMBER.

        Severe is the decision, then the highest score of any category, then the place in the run.
        """
        self._take_pending()
        self._tables = [self._most_severe()]
        return self._tables[0]

    def _take_pending(self) -> None:
        import pyarrow as pa

        if rows := self._pending:
            self._pending = []
            types = _schema(self.own)
            columns = zip(self.columns, zip(*rows, strict=True), strict=True)
            self.add_columns(
                {name: pa.array(_shortened(name, cells), types.field(name).type)
                 for name, cells in columns}
            )  # fmt: skip

    def _most_severe(self) -> pa.Table:
        import pyarrow as pa

        table = pa.concat_tables([*self._tables, _schema(self.own).empty_table()])
        best = np.full(len(table), -1.0, np.float32)
        for category in self.histograms:
            np.fmax(best, _scores(table, category), out=best)
        order = np.lexsort((table[NUMBER].to_numpy(), -best, -_severities(table)))
        table = table.take(pa.array(order[: self.most_rows]))
        while table.nbytes > self.most_bytes and len(table) > 1:
            # Rows differ in size: a few rounds bring it below.
            kept = int(len(table) * min(0.95, self.most_bytes / table.nbytes))
            table = table.take(pa.array(np.arange(max(1, kept))))
        return table


def _schema(own: Sequence[str]) -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            *((name, pa.string()) for name in _TEXTS),
            *((name, pa.int64()) for name in _NUMBERS),
            ("path_bytes", pa.binary()),
            *((category.value, pa.float32()) for category in CATEGORIES),
            *((name, pa.float32()) for name in own),
            (NUMBER, pa.int64()),
        ]
    )


def _array(array: Any, name: str, kind: Any) -> Any:
    """A column in the type of the listing, with its texts cut where they are too long."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    array = array.cast(kind)
    most = _LONGEST.get(name, MOST_CHARACTERS)
    if kind == pa.string() and (pc.max(pc.utf8_length(array)).as_py() or 0) > most:
        array = pa.array([_cut(text, most) for text in array.to_pylist()], kind)
    return array


def _shortened(name: str, cells: Sequence[Any]) -> Sequence[Any]:
    """Cells that Arrow takes: texts are not yet cut, and may hold what UTF-8 has no bytes for."""
    if name not in _TEXTS:
        return cells
    return [
        cell if cell is None or cell.isascii() else _encodable(cell)
        for cell in (None if cell is None else str(cell) for cell in cells)
    ]


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _cut(text: str | None, most: int) -> str | None:
    if text is None or len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}…{text[-half + 1 :]}"


def _scores(table: pa.Table, name: str) -> NDArray[np.float32]:
    """The scores of a category, NaN where there is none."""
    scores: NDArray[np.float32] = table[name].to_numpy().astype(np.float32, copy=False)
    return scores


def _severities(table: pa.Table) -> NDArray[np.int64]:
    import pyarrow as pa
    import pyarrow.compute as pc

    places = pc.index_in(table["decision"], pa.array([decision.value for decision in Decision]))
    return np.asarray(pc.fill_null(places, 0).to_numpy(), np.int64)
