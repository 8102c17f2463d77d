"""The rows of a queue, read from results in one go: somebody waits for the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moderate.policy.model import Policy
from moderate.results.read import Results
from moderate.review.queue import Queue, Selection, Selector, queue_of

MOST_COPIES = 10
"""Names of copies that are kept for an image; the others are counted."""


@dataclass(slots=True)
class Copies:
    """Other files with the same bytes: how many there are, and the first names."""

    count: int = 0
    paths: list[str] = field(default_factory=list)


class ResultRows:
    """The rows of a queue in memory, as Arrow columns. See `session.Rows`.

    numbers are those of the rows in the order of the queue, counted from 1 in the results; table
    has the same rows in the order of the results, and only them. copies are by the path of the
    image that they are of.
    """

    def __init__(
        self,
        results: Results,
        queue: Queue,
        table: pa.Table | None,
        copies: Mapping[str, Copies] | None = None,
    ) -> None:
        self.numbers = queue.numbers
        self.own = frozenset(results.own)
        self.categories = tuple(map(str, results.categories))
        self.salt = results.facts.get("run_id", "")
        self.copies = copies or {}
        self._probability = queue.probability
        self._table = table
        self._sorted = np.sort(queue.numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: int) -> dict[str, Any]:
        place = self._place(number)
        assert self._table is not None
        row: dict[str, Any] = self._table.slice(place, 1).to_pylist()[0]
        return row

    def probability(self, number: int) -> float | None:
        """See `Rows`."""
        return self._probability

    def identity(self, number: int) -> str:
        """See `Rows`."""
        place = self._place(number)
        assert self._table is not None
        return str(self._table["sha256"][place].as_py() or self._table["path"][place].as_py())

    def _place(self, number: int) -> int:
        place = int(np.searchsorted(self._sorted, number))
        if place == len(self._sorted) or self._sorted[place] != number:
            raise KeyError(number)
        return place


def read_rows(results: Results, policy: Policy, selection: Selection) -> ResultRows:
    """The queue of a selection with its rows and their copies. Raises InputError.

    The results are read once; for a sample twice, as most rows of which it is drawn are not in it.
    """
    if selection.kind == "approve-sample":
        return rows_of(results, queue_of(results, policy, selection))
    selector = Selector(results, policy, selection)
    copies: dict[str, Copies] = {}
    pieces: list[pa.Table] = []
    # Not by chunks: parts are several times as fast.
    for own, carried in results.parts(results.own, results.carried):
        if len(places := selector.take(own, carried)):
            pieces.append(_table(results, own, carried, places))
        _count_copies(own, copies)
    return _rows(results, selector.queue(), pieces, copies)


def rows_of(results: Results, queue: Queue) -> ResultRows:
    """The rows of a queue, and their copies. Raises InputError."""
    wanted = np.sort(queue.numbers)
    copies: dict[str, Copies] = {}
    pieces: list[pa.Table] = []
    done = 0
    for own, carried in results.parts(results.own, results.carried):
        count = len(own["path"])
        first, last = np.searchsorted(wanted, [done + 1, done + count + 1])
        if first < last:
            pieces.append(_table(results, own, carried, wanted[first:last] - done - 1))
        _count_copies(own, copies)
        done += count
    return _rows(results, queue, pieces, copies)


def _rows(
    results: Results, queue: Queue, pieces: list[pa.Table], copies: dict[str, Copies]
) -> ResultRows:
    table = pa.concat_tables(pieces) if pieces else None
    if table is None:
        copies = {}
    elif copies:
        paths = table["path"].filter(pc.is_in(table["path"], pa.array(copies, pa.string())))
        copies = {path: copies[path] for path in paths.to_pylist()}
    return ResultRows(results, queue, table, copies)


def _count_copies(own: Mapping[str, Any], copies: dict[str, Copies]) -> None:
    """Take in the copies of a part, by the path of their image, which may come later."""
    copied = pc.is_valid(own["duplicate_of"])
    firsts = pc.filter(own["duplicate_of"], copied).to_pylist()
    for first, path in zip(firsts, pc.filter(own["path"], copied).to_pylist(), strict=True):
        found = copies.setdefault(first, Copies())
        found.count += 1
        if len(found.paths) < MOST_COPIES:
            found.paths.append(path)


def _table(
    results: Results, own: Mapping[str, Any], carried: Mapping[str, Any], places: NDArray[np.int64]
) -> pa.Table:
    """These rows of a part; cells of carried columns as text."""
    taken = pa.array(places)
    everything = len(places) == len(own["path"])
    kept = {name: own[name] if everything else own[name].take(taken) for name in results.own}
    for name, cells in carried.items():
        kept[name] = pa.array([_text(cells[place]) for place in places.tolist()], pa.string())
    return pa.table(kept)


def _text(cell: Any) -> str | None:
    value = cell.as_py() if hasattr(cell, "as_py") else cell
    return None if value is None else str(value)
