"""What people decided on the rows of a results file, put together from one or more journals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moderate.errors import InputError
from moderate.policy.thresholds import DECISIONS, Severities
from moderate.results.final import FINAL_COLUMNS
from moderate.results.read import Results
from moderate.review.journal import Entry, read_journal, standing
from moderate.tables.lines import file_name
from moderate.text import one_line
from moderate.types import Decision

_UNSURE = "unsure"


class DecisionsOfOthersError(InputError):
    """A journal is on other results than those that it was to go with."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one or more people decided on an image, in the order of their decisions."""

    entries: tuple[Entry, ...]

    def decision(self, machine: Decision) -> Decision:
        """What holds: the strictest decision, where somebody unsure leaves that of the machine."""
        answers = (
            machine if entry.decision in (_UNSURE, None) else Decision(str(entry.decision))
            for entry in self.entries
        )
        return max(answers, key=lambda decision: decision.severity)

    @property
    def is_unsure(self) -> bool:
        """Whether nobody was sure, so that the machine's decision stays."""
        return all(entry.decision == _UNSURE for entry in self.entries)

    @property
    def is_disputed(self) -> bool:
        """Whether people gave different answers."""
        return len({entry.decision for entry in self.entries}) > 1

    @property
    def by(self) -> str:
        """Who decided, and who was unsure."""
        names = (
            f"{entry.reviewer} (unsure)" if entry.decision == _UNSURE else entry.reviewer
            for entry in self.entries
        )
        return "; ".join(dict.fromkeys(names)).encode("utf-8", "backslashreplace").decode()

    @property
    def at(self) -> str:
        """The time of the last of the decisions: UTC, ISO 8601."""
        last = max(entry.time for entry in self.entries).astimezone(UTC)
        return last.strftime("%Y-%m-%dT%H:%M:%SZ")

    @property
    def labels(self) -> dict[str, bool]:
        """What people answered for categories; yes where they disagree, the stricter answer."""
        merged: dict[str, bool] = {}
        for entry in self.entries:
            for name, value in entry.labels.items():
                merged[name] = merged.get(name, False) or value
        return merged


@dataclass(frozen=True)
class Final:
    """What became of some rows: one value per row.

    severity counts people's decisions where there are any, else the machine's. verdicts are by the
    index of the row; copies are the indices of those that have the verdict of their image.
    """

    severity: Severities
    verdicts: Mapping[int, Verdict]
    copies: frozenset[int]

    def columns(self) -> dict[str, Any]:
        """FINAL_COLUMNS as Arrow arrays of text."""
        count = len(self.severity)
        cells: dict[str, list[str | None]] = {name: [None] * count for name in FINAL_COLUMNS}
        for index, verdict in self.verdicts.items():
            values = DECISIONS[self.severity[index]].value, verdict.by, verdict.at
            for name, value in zip(FINAL_COLUMNS, values, strict=True):
                cells[name][index] = value
        return {name: pa.array(values, pa.string()) for name, values in cells.items()}


@dataclass(frozen=True)
class Decisions:
    """The decisions that hold, from the journals in `files`; `all` are also those that do not.

    Each belongs to the row of its number, which has to have its path and digest.
    """

    files: tuple[str, ...]
    entries: tuple[Entry, ...]
    all: tuple[Entry, ...]
    _file_of: Mapping[str, str] = field(repr=False)

    @cached_property
    def by_row(self) -> dict[int, Verdict]:
        """Verdicts by the number of their row, from 1."""
        return _verdicts((entry.row, entry) for entry in self.entries)

    @cached_property
    def by_digest(self) -> dict[str, Verdict]:
        """Verdicts by the SHA-256 of their image, on whichever row."""
        return _verdicts((entry.sha256, entry) for entry in self.entries if entry.sha256)

    @cached_property
    def _numbers(self) -> NDArray[np.int64]:
        return np.array(sorted(self.by_row), np.int64)

    @cached_property
    def _digests(self) -> Any:
        return pa.array(list(self.by_digest), pa.string())

    def final(self, first: int, columns: Mapping[str, Any], severity: Severities) -> Final:
        """What became of consecutive rows, of which `first` is the number of the first.

        columns are Arrow arrays: path, sha256 and duplicate_of. severity is the machine's, int8 by
        row. Raises InputError for decisions on other results than these.
        """
        low, high = np.searchsorted(self._numbers, [first, first + len(severity)])
        verdicts: dict[int, Verdict] = {}
        for number in self._numbers[low:high].tolist():
            index = number - first
            self._check(number, columns["path"][index].as_py(), columns["sha256"][index].as_py())
            verdicts[index] = self.by_row[number]
        copies = []
        is_copy = pc.and_(
            pc.is_valid(columns["duplicate_of"]), pc.is_in(columns["sha256"], self._digests)
        )
        for index in np.flatnonzero(is_copy.to_numpy(zero_copy_only=False)).tolist():
            if index not in verdicts:
                verdicts[index] = self.by_digest[columns["sha256"][index].as_py()]
                copies.append(index)
        final = severity.copy()
        for index, verdict in verdicts.items():
            final[index] = verdict.decision(DECISIONS[severity[index]]).severity
        return Final(final, verdicts, frozenset(copies))

    def check_rows(self, count: int) -> None:
        """Raises InputError for decisions on rows after the last of `count` rows."""
        if len(self._numbers) and (last := int(self._numbers[-1])) > count:
            entry = self.by_row[last].entries[0]
            raise _of_others(self._file_of[entry.id], f"it decides on row {last} of {count}")

    def _check(self, number: int, path: str, digest: str | None) -> None:
        for entry in self.by_row[number].entries:
            file = self._file_of[entry.id]
            if entry.path != path:
                was, now = one_line(entry.path, 80), one_line(path, 80)
                raise _of_others(file, f"row {number} is {was!r} there and {now!r} here")
            if entry.sha256 != digest:
                what = f"row {number}, {one_line(path, 80)!r}"
                raise _of_others(file, f"{what}, had other bytes when it was decided on")


@dataclass(slots=True)
class People:
    """How many rows people decided on, and who they are.

    copies are those of the rows that have the verdict of another; on unsure ones the machine's
    decision stays; on disputed ones people disagree, and the strictest decision holds.
    """

    rows: int = 0
    copies: int = 0
    unsure: int = 0
    disputed: int = 0
    reviewers: tuple[str, ...] = ()

    @classmethod
    def of(cls, decisions: Decisions) -> People:
        """Those of decisions, before any row is counted."""
        return cls(reviewers=tuple({entry.reviewer: None for entry in decisions.entries}))

    def count(self, final: Final) -> None:
        """Take rows into the counts."""
        self.rows += len(final.verdicts)
        self.copies += len(final.copies)
        self.unsure += sum(verdict.is_unsure for verdict in final.verdicts.values())
        self.disputed += sum(verdict.is_disputed for verdict in final.verdicts.values())


def read_decisions(files: Sequence[str]) -> Decisions:
    """The decisions in journals. Of a reviewer's decisions on a row, the last counts.

    Raises InputError.
    """
    held: dict[tuple[int, str], Entry] = {}
    every: dict[str, Entry] = {}
    file_of: dict[str, str] = {}
    for file in files:
        entries = read_journal(file)
        every |= {entry.id: entry for entry in entries}
        file_of |= dict.fromkeys((entry.id for entry in entries), file)
        for entry in standing(entries):
            key = entry.row, entry.reviewer
            if key not in held or held[key].time <= entry.time:
                held[key] = entry
    return Decisions(tuple(files), tuple(held.values()), tuple(every.values()), file_of)


def check_decisions(results: Results, journal: Path) -> None:
    """Raises InputError where a journal that exists is on other results than these.

    So it is where a scan wrote its results over those that were reviewed.
    """
    if not journal.exists() or not (decisions := read_decisions([str(journal)])).entries:
        return
    try:
        for _ in decided_rows(results, decisions):
            pass
    except DecisionsOfOthersError as error:
        raise InputError(f"{error}; move it away, or name another one (--decisions)") from None


def decided_rows(
    results: Results, decisions: Decisions, names: Sequence[str] = ()
) -> Iterator[tuple[int, Final, dict[str, Any]]]:
    """The parts of results with what people decided on their rows, and these columns of them.

    The first value is the number of a part's first row; path, sha256, duplicate_of and decision are
    among the columns. Raises InputError, at the end for decisions on rows that are not there.
    """
    wanted = list(dict.fromkeys(["path", "sha256", "duplicate_of", "decision", *names]))
    severities = pa.array([decision.value for decision in DECISIONS], pa.string())
    first = 1
    for columns, _ in results.parts(wanted):
        machine = np.asarray(pc.index_in(columns["decision"], severities).to_numpy(), np.int8)
        yield first, decisions.final(first, columns, machine), columns
        first += len(machine)
    decisions.check_rows(first - 1)


def _verdicts(pairs: Iterable[tuple[Any, Entry]]) -> dict[Any, Verdict]:
    entries: dict[Any, list[Entry]] = defaultdict(list)
    for key, entry in pairs:
        entries[key].append(entry)
    return {key: Verdict(tuple(sorted(each, key=_time))) for key, each in entries.items()}


def _time(entry: Entry) -> datetime:
    return entry.time


def _of_others(file: str, reason: str) -> DecisionsOfOthersError:
    return DecisionsOfOthersError(
        f"{file_name(file)} holds decisions on other results than these: {reason}"
    )
