"""Labelling a template of `moderate sample` on the review page.

Each answer goes into the journal first and then into the template: only into cells that are empty,
so that nothing that somebody filled in is lost. One that is taken back leaves the template first.
So what a kill left out is an answer in the journal, which is written at the next start.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moderate.errors import InputError, OutputError
from moderate.locks import lock_file
from moderate.own_categories import is_own_name
from moderate.regular import read_regular
from moderate.results.atomic import write_atomic
from moderate.results.cells import quoted
from moderate.results.schema import COLUMNS
from moderate.review.journal import Entry, read_journal, standing
from moderate.review.session import Session
from moderate.tables.csv import strict_records, unguarded
from moderate.tables.lines import file_name
from moderate.text import one_line
from moderate.types import CATEGORIES

MOST_BYTES = 256 << 20
"""Of a template: about a million images."""

WAIT_SECONDS = 10.0
"""For another process that writes the template."""

_NAMES = tuple(category.value for category in CATEGORIES)
_UNSEEN = ("chosen_by", "chosen_for", "inclusion_probability")
"""Columns that whoever labels does not see: the machine's opinion must not become theirs."""
_ANSWERS = ("", "0", "1")
_BOM = b"\xef\xbb\xbf"
_OWN = frozenset(column.name for column in COLUMNS)


@dataclass(frozen=True, slots=True)
class _Table:
    """A template as it is: cells as they are written, and how lines end."""

    header: tuple[str, ...]
    records: list[list[str]]
    line_end: str
    bom: bool

    @property
    def categories(self) -> tuple[str, ...]:
        """The five, and own ones: columns after these that hold answers alone."""
        if "chosen_by" not in self.header:
            return _NAMES
        first, last = self.header.index(_NAMES[-1]) + 1, self.header.index("chosen_by")
        own = [name for name in self.header[first:last] if is_own_name(name)]
        return (*_NAMES, *(name for name in own if self._has_answers(name)))

    def _has_answers(self, name: str) -> bool:
        return all(self.text(record, name).strip() in _ANSWERS for record in self.records)

    def text(self, record: Sequence[str], name: str) -> str:
        """A cell without its guard; empty where there is no such column."""
        return unguarded(record[self.header.index(name)]) if name in self.header else ""

    def key(self, record: Sequence[str]) -> tuple[str, str]:
        """Path and digest of a record."""
        return self.text(record, "path"), self.text(record, "sha256").strip().lower()

    def is_filled(self, record: Sequence[str]) -> bool:
        """Whether there is a label in one of its cells."""
        return any(self.text(record, name).strip() for name in self.categories)

    def data(self) -> bytes:
        """The bytes of the file."""
        lines = (
            quoted(cells).removesuffix("\n") + self.line_end
            for cells in [list(self.header), *self.records]
        )
        return (_BOM if self.bom else b"") + "".join(lines).encode()


def is_template(path: str) -> bool:
    """Whether a file is a template to label, and not results, by its suffix and header.

    False also for what cannot be read: whoever reads it as results tells why.
    """
    if not path.lower().endswith(".csv") or not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            _, header = next(strict_records(file, file_name(path)), (0, ()))
    except (OSError, InputError):
        return False
    names = set(header)
    return {"path", *_NAMES} <= names and not names & {"status", "decision"}


class Template:
    """The rows of a template, as `Session` wants them, and who writes answers into it.

    approve_is_no: who approves an image says no to every category that they do not answer for.
    Raises InputError for what cannot be read.
    """

    def __init__(self, path: str, *, approve_is_no: bool = False) -> None:
        self.path = path
        self._approve_is_no = approve_is_no
        table = _read(path)
        self._records = table.records
        self._table = table
        self.numbers = np.arange(1, len(table.records) + 1, dtype=np.int64)
        self.salt = ""
        self.own = _OWN
        self.categories = table.categories
        # Cells that were written for an entry, by its id: those alone an undo empties again.
        self._written: dict[str, dict[str, str]] = {}

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """The columns of a result row, all null but path and sha256, and what else there is."""
        record = self._record(number)
        path, digest = self._table.key(record)
        others = {
            name: unguarded(cell)
            for name, cell in zip(self._table.header, record, strict=True)
            if name not in _OWN and name not in _UNSEEN and name not in self.categories
        }
        null = dict.fromkeys(column.name for column in COLUMNS)
        return {**null, "path": path, "sha256": digest or None, "decision": "", **others}

    def identity(self, number: int) -> str:
        """See `Rows`."""
        path, digest = self._table.key(self._record(number))
        return digest or path

    def probability(self, number: int) -> float | None:
        """See `Rows`: what the template says."""
        try:
            chance = float(self._table.text(self._record(number), "inclusion_probability"))
        except ValueError:
            return None
        return chance if 0 < chance <= 1 else None

    def begin(self, entries: Sequence[Entry]) -> frozenset[int]:
        """Write what earlier decisions, those that hold, have not written yet.

        The rows that were filled in without a decision. Raises InputError for decisions on other
        images, OutputError.
        """
        for entry in entries:
            self._check(entry)
        decided = {entry.row for entry in entries}
        filled = {
            number
            for number, record in enumerate(self._records, 1)
            if self._table.is_filled(record)
        }
        with self._changing() as table:
            for entry in entries:
                cells = self._cells(entry)
                self._fill(table, entry, cells)
                record = _find(table, entry)
                if record is not None:
                    self._written[entry.id] = {
                        name: cell
                        for name, cell in cells.items()
                        if table.text(record, name).strip() == cell
                    }
        return frozenset(filled - decided)

    def record(self, entry: Entry) -> None:
        """Write the answer of an entry, or empty the cells that the one it undoes has filled.

        Raises InputError and OutputError; then the journal has the decision, and the next start
        writes it.
        """
        if entry.undoes is None:
            with self._changing() as table:
                self._written[entry.id] = self._fill(table, entry, self._cells(entry))
            return
        written = self._written.pop(entry.undoes, {})
        with self._changing() as table:
            record = _find(table, entry)
            for name, cell in written.items() if record is not None else ():
                assert record is not None
                if table.text(record, name).strip() == cell:
                    record[table.header.index(name)] = ""

    def _record(self, number: int) -> list[str]:
        if not 1 <= number <= len(self._records):
            raise KeyError(number)
        return self._records[number - 1]

    def _check(self, entry: Entry) -> None:
        if 1 <= entry.row <= len(self) and _key(entry) == self._table.key(self._record(entry.row)):
            return
        raise InputError(
            f"the decisions are on other images than those of {file_name(self.path)}: "
            f"row {entry.row} is {one_line(entry.path, 80)!r} there; name another journal "
            "(--decisions)"
        )

    def _cells(self, entry: Entry) -> dict[str, str]:
        """The cells that an entry has an answer for."""
        answers: Mapping[str, bool] = entry.labels
        if self._approve_is_no and entry.decision == "approve":
            answers = {**dict.fromkeys(self.categories, False), **answers}
        return {name: "1" if yes else "0" for name, yes in answers.items()}

    def _fill(self, table: _Table, entry: Entry, cells: Mapping[str, str]) -> dict[str, str]:
        """Fill those of the cells that are empty; which they were."""
        record = _find(table, entry)
        if record is None:
            raise InputError(
                f"{file_name(self.path)} has no line for {one_line(entry.path, 80)!r} any more; "
                "the decision is in the journal alone"
            )
        empty = {n: cell for n, cell in cells.items() if not table.text(record, n).strip()}
        for name, cell in empty.items():
            record[table.header.index(name)] = cell
        return empty

    @contextlib.contextmanager
    def _changing(self) -> Iterator[_Table]:
        """A block that changes the template as it is now, and writes it as a whole.

        It is locked meanwhile against other processes of this tool; what a person saved before is
        kept. Raises InputError and OutputError.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock_file(f"{self.path}.lock", WAIT_SECONDS))
            except OSError as error:
                reason = error.strerror or str(error)
                raise OutputError(f"cannot write {file_name(self.path)}: {reason}") from None
            table = _read(self.path)
            before = [list(record) for record in table.records]
            yield table
            if table.records != before:
                write_atomic(self.path, table.data())


def label_session(
    path: str, journal: Path, second_look: float = 0.0, *, approve_is_no: bool = False
) -> Session:
    """A session on the rows of a template; what is filled in already is done.

    Raises InputError, OutputError and UsageError.
    """
    template = Template(path, approve_is_no=approve_is_no)
    entries = list(standing(read_journal(journal))) if journal.exists() else []
    done = template.begin(entries)
    return Session(
        template,
        journal,
        journal.with_name(journal.name + ".leases"),
        second_look,
        done=done,
        on_record=template.record,
    )


def _find(table: _Table, entry: Entry) -> list[str] | None:
    """The record of an entry, wherever it is now; people may sort lines meanwhile."""
    key = _key(entry)
    here = table.records[entry.row - 1] if entry.row <= len(table.records) else None
    if here is not None and table.key(here) == key:
        return here
    return next((record for record in table.records if table.key(record) == key), None)


def _key(entry: Entry) -> tuple[str, str]:
    return entry.path, entry.sha256 or ""


def _read(path: str) -> _Table:
    try:
        data = read_regular(path, MOST_BYTES)
    except OSError as error:
        raise InputError(f"cannot read {file_name(path)}: {error.strerror or error}") from None
    records: Iterator[tuple[int, Sequence[str]]] = strict_records(io.BytesIO(data), file_name(path))
    _, header = next(records, (0, ()))
    rows = [list(cells) for _, cells in records]
    missing = [name for name in ("path", *_NAMES) if list(header).count(name) != 1]
    if missing:
        raise InputError(f"{file_name(path)} is no template to label: see column {missing[0]}")
    line_end = "\r\n" if b"\r\n" in data else "\n" if b"\n" in data else "\r"
    return _Table(tuple(header), rows, line_end, data.startswith(_BOM))
