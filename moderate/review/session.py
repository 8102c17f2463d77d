"""One queue as its reviewers work on it: what comes next, what was decided, how far it is.

Any number of threads, and of processes with sessions on the same files, work on one queue: leases
say who has which row, the journal says what was decided, and each session reads in the journal what
the others have added.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from moderate.errors import UsageError
from moderate.review.agreement import Agreement, cohens_kappa
from moderate.review.journal import (
    MOST_NOTE,
    Entry,
    HumanDecision,
    Journal,
    Reveal,
    Tail,
    as_undone,
    is_severe,
)
from moderate.review.leases import Leases
from moderate.review.queue import needs_second_look

MOST_AT_ONCE = 64
"""Rows that one reviewer has at a time: a grid, and what is decoded ahead."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a reviewer says of one row; see `Entry` for the fields.

    id is the entry's: a decision that is sent once more, since its answer was lost, is recorded
    once. None: a new one.
    """

    decision: HumanDecision
    labels: Mapping[str, bool]
    note: str = ""
    seconds: float = 0.0
    revealed: Reveal = "blur"
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the queue is. total are rows, second_looks those of them that two people judge.

    decided are rows that need nobody any more; mine and severe are of one reviewer: decisions, and
    severe pictures seen sharp.
    """

    total: int
    decided: int
    second_looks: int
    mine: int
    severe: int


class NotYoursError(Exception):
    """Somebody else has the row, or it is decided already."""


class Rows(Protocol):
    """The rows of a queue: `numbers` in their order, each row by its number.

    salt is the same for all queues that are to have the same rows judged by two people. own are the
    columns of a row that are not carried, categories those that it has scores of, or answers for.
    """

    numbers: NDArray[np.int64]
    salt: str
    own: frozenset[str]
    categories: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> dict[str, Any]:
        """The columns of a row. Raises KeyError."""

    def identity(self, number: int) -> str:
        """What is the same for the same picture: its digest, else its path."""

    def probability(self, number: int) -> float | None:
        """How likely the row was to be in the queue; see `Entry`."""


class Session:
    """A session on `rows`.

    second_look is the share of rows that two people judge. done are rows that nobody needs to look
    at. on_record is called with each line that this session puts into the journal: after a decision
    is there, before the end of one is. So a kill leaves a decision whose effects can be had again,
    never effects without it. It may raise what `decide` and `undo` raise. Raises InputError for a
    journal that cannot be read, OutputError for one that cannot be written.
    """

    def __init__(
        self,
        rows: Rows,
        journal: Path,
        leases: Path,
        second_look: float = 0.0,
        *,
        done: frozenset[int] = frozenset(),
        on_record: Callable[[Entry], None] | None = None,
    ) -> None:
        if not 0 <= second_look <= 1:
            raise UsageError(f"--second-look {second_look:g}: use a share of 0 to 1")
        self._rows = rows
        self._done = done
        self._on_record = on_record or (lambda _: None)
        self._by_two = frozenset(
            number
            for number in (rows.numbers.tolist() if second_look else ())
            if needs_second_look(rows.identity(number), second_look, rows.salt)
        )
        self._lock = threading.RLock()
        self._journal = Journal(journal)
        self._tail = Tail(journal)
        self._leases = Leases(leases)
        self._held: dict[int, dict[str, Entry]] = defaultdict(dict)
        self._order: dict[str, list[Entry]] = defaultdict(list)  # each one's decisions, for undo
        self._severe: Counter[str] = Counter()
        self._open_from = 0  # all rows before this place of the order need nobody any more
        self._catch_up()

    @property
    def own(self) -> frozenset[str]:
        """The columns of a row that are not carried."""
        return self._rows.own

    @property
    def categories(self) -> tuple[str, ...]:
        """The categories that people may answer for."""
        return self._rows.categories

    def next(self, reviewer: str, count: int = 1) -> list[dict[str, Any]]:
        """The rows that this reviewer is to look at now, leased; `row` is the number of each."""
        with self._lock:
            self._catch_up()
            wanted = self._leases.take(self._open(reviewer), reviewer, min(count, MOST_AT_ONCE))
            return [self._shown(number, reviewer) for number in wanted]

    def row(self, number: int) -> dict[str, Any]:
        """A row of the queue by its number. Raises KeyError."""
        return self._rows[number]

    def decide(self, number: int, reviewer: str, judgement: Judgement) -> Entry:
        """Record a decision; when this returns, it is on the disk.

        Raises KeyError for a row that is not in the queue, NotYoursError, OutputError.
        """
        with self._lock:
            row = self._rows[number]
            self._catch_up()
            before = self._held[number].get(reviewer) if number in self._held else None
            if before is not None:
                if before.id == judgement.id:
                    return before
                raise NotYoursError("you have decided on this image already")
            if self._is_done(number, reviewer) or not self._leases.holds(number, reviewer):
                raise NotYoursError("somebody else has this image, or has decided on it")
            entry = Entry(
                row=number,
                path=row["path"],
                sha256=row["sha256"],
                reviewer=reviewer,
                machine_decision=row["decision"],
                machine_scores={name: row.get(name) for name in self._rows.categories},
                decision=judgement.decision,
                labels=dict(judgement.labels),
                note=judgement.note[:MOST_NOTE],
                seconds=judgement.seconds,
                revealed=judgement.revealed,
                second=bool(self._held[number]),
                inclusion_probability=self._rows.probability(number),
                id=judgement.id or uuid4().hex,
            )
            self._journal.append(entry)
            self._catch_up()
            self._leases.give_back([number], reviewer)
            self._on_record(entry)
            return entry

    def undo(self, reviewer: str) -> dict[str, Any] | None:
        """Take the reviewer's last decision back, and give them its row again; None: none is left.

        Raises OutputError.
        """
        with self._lock:
            self._catch_up()
            decisions = self._order[reviewer]
            if not decisions:
                return None
            last = decisions[-1]
            undone = as_undone(last)
            self._on_record(undone)
            self._journal.append(undone)
            self._catch_up()
            self._leases.holds(last.row, reviewer)
            return self._shown(last.row, reviewer)

    def progress(self, reviewer: str) -> Progress:
        """How far the queue is."""
        with self._lock:
            self._catch_up()
            decided = sum(self._is_finished(number) for number in {*self._held, *self._done})
            return Progress(
                total=len(self._rows),
                decided=decided,
                second_looks=len(self._by_two),
                mine=len(self._order[reviewer]),
                severe=self._severe[reviewer],
            )

    def agreement(self) -> Agreement | None:
        """How far the two reviewers of the second looks agree; None before there is one."""
        with self._lock:
            self._catch_up()
            pairs = [
                (str(first.decision), str(second.decision))
                for first, second, *_ in (
                    tuple(held.values()) for held in self._held.values() if len(held) > 1
                )
            ]
            return cohens_kappa(pairs)

    def close(self) -> None:
        """Close the files."""
        self._journal.close()
        self._leases.close()

    def _catch_up(self) -> None:
        """Take in what this session and others have added to the journal."""
        for entry in self._tail.entries():
            held, decisions = self._held[entry.row], self._order[entry.reviewer]
            last = held.get(entry.reviewer)
            if entry.undoes is None:
                self._forget(last)
                held[entry.reviewer] = entry
                decisions.append(entry)
                # Exposure counts even where the decision is taken back: it was seen.
                self._severe[entry.reviewer] += is_severe(entry)
            elif last is not None and last.id == entry.undoes:
                self._forget(last)
                del held[entry.reviewer]
                self._open_from = 0

    def _forget(self, entry: Entry | None) -> None:
        if entry is not None:
            self._order[entry.reviewer].remove(entry)

    def _open(self, reviewer: str) -> Iterator[int]:
        """The rows that this reviewer may be given, in order."""
        numbers = self._rows.numbers
        while self._open_from < len(numbers) and self._is_finished(int(numbers[self._open_from])):
            self._open_from += 1
        for number in numbers[self._open_from :].tolist():
            if not self._is_done(number, reviewer):
                yield number

    def _is_done(self, number: int, reviewer: str) -> bool:
        """Whether this reviewer has nothing to do with the row any more."""
        return reviewer in self._held.get(number, ()) or self._is_finished(number)

    def _is_finished(self, number: int) -> bool:
        """Whether all who have to judge the row have."""
        if number in self._done:
            return True
        count = len(self._held.get(number, ()))
        return count > 1 or (count == 1 and number not in self._by_two)

    def _shown(self, number: int, reviewer: str) -> dict[str, Any]:
        others = [name for name in self._held.get(number, ()) if name != reviewer]
        return {**self._rows[number], "row": number, "second": bool(others)}
