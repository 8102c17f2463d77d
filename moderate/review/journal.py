"""What people decided: one JSON line for each decision, on disk before it is confirmed.

Lines are only ever added; taking a decision back is a line, too. Several processes may write to one
file. A line that a kill or a full disk left unfinished is ended by the next writer and is no
decision to any reader.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args
from uuid import uuid4

from moderate.errors import InputError, OutputError
from moderate.own_categories import is_own_name
from moderate.regular import read_regular
from moderate.tables.lines import file_name
from moderate.text import one_line
from moderate.types import CATEGORIES, Decision

SCHEMA = 1
"""Counts up when a key changes its meaning."""

MOST_BYTES = 4 << 30
"""Of a journal: about ten million decisions."""

MOST_NOTE = 2_000
"""Characters of a note."""

_MOST_ROWS = 2**63 - 1
_MOST_SECONDS = 1e9

HumanDecision = Literal["approve", "block", "unsure"]
Reveal = Literal["blur", "grey", "colour"]
"""How much of the picture was shown at most: blurred, sharp without colours, or as it is."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: a decision, or (`undoes`) the end of one.

    row counts from 1 in the results. machine_scores are those of the results, None: not scored.
    labels hold yes or no for categories that the reviewer judged. seconds is the time on screen.
    second: the image was shown to this reviewer to compare with somebody else's decision.
    inclusion_probability is how likely the row was to be in the queue, over 0 and at most 1, which
    is 1 where that was certain; None where it is not known.
    """

    row: int
    path: str
    sha256: str | None
    reviewer: str
    machine_decision: str
    machine_scores: Mapping[str, float | None]
    decision: HumanDecision | None
    labels: Mapping[str, bool] = field(default_factory=dict)
    note: str = ""
    seconds: float = 0.0
    revealed: Reveal = "blur"
    second: bool = False
    inclusion_probability: float | None = None
    undoes: str | None = None
    id: str = field(default_factory=lambda: uuid4().hex)
    time: datetime = field(default_factory=lambda: datetime.now(UTC))

    def line(self) -> bytes:
        """The line of the file, with its end."""
        values = {"schema": SCHEMA, **asdict(self), "time": self.time.isoformat()}
        return json.dumps(values, allow_nan=False).encode("ascii") + b"\n"


class Journal:
    """The decisions on the rows of one results file, in `path`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptor = os.open(self.path, flags, 0o600)
        except OSError as error:
            raise _unwritable(self.path, error) from None

    def append(self, entry: Entry) -> None:
        """Add a line and have it on the disk. Raises OutputError; then it is not decided."""
        line = entry.line()
        try:
            size = os.fstat(self._descriptor).st_size
            if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line
            # One write in append mode: lines of two processes never mix.
            written = os.write(self._descriptor, line)
            if written < len(line):
                raise OSError(errno.ENOSPC, "the disk is full")
            os.fsync(self._descriptor)
        except OSError as error:
            raise _unwritable(self.path, error) from None

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write {file_name(str(path))}: {error.strerror or error}")


def read_journal(path: str | os.PathLike[str]) -> list[Entry]:
    """All lines of a journal, in their order; what is unfinished at its end is left out.

    Raises InputError, naming the line, for what is no line of a journal.
    """
    try:
        data = read_regular(os.fspath(path), MOST_BYTES)
    except OSError as error:
        name = file_name(os.fspath(path))
        raise InputError(f"cannot read {name}: {error.strerror or error}") from None
    return _entries(data, os.fspath(path))


def _entries(data: bytes, path: str, before: int = 0) -> list[Entry]:
    """The entries of lines; `before` is how many lines come before them."""
    entries = []
    for number, line in enumerate(data.split(b"\n"), before + 1):
        if not line.strip():
            continue
        try:
            entries.append(_entry(line))
        except ValueError as error:
            if _was_cut(line):
                continue  # a kill came in between; nobody was told that it is decided
            raise InputError(
                f"{file_name(path)} line {number}: {one_line(str(error), 160)}; "
                "it is no line of a review's decisions"
            ) from None
    return entries


def _was_cut(line: bytes) -> bool:
    if not line.strip(b"\0"):
        return True  # what a power cut leaves on some file systems
    return line.startswith(b'{"schema"'[: len(line)]) and not line.endswith(b"}")


def _entry(line: bytes) -> Entry:
    """Raises ValueError."""
    try:
        values = json.loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError("not an object")
    if values.pop("schema", None) != SCHEMA:
        raise ValueError(f"not of schema {SCHEMA}; another version of moderate wrote it")
    try:
        entry = Entry(**{**values, "time": datetime.fromisoformat(values["time"])})
    except (TypeError, KeyError) as error:
        raise ValueError(f"keys are missing or unknown ({error})") from None
    _check(entry)
    return entry


def _check(entry: Entry) -> None:
    if entry.decision not in (None, *get_args(HumanDecision)):
        raise ValueError(f"decision {entry.decision!r}")
    if (entry.decision is None) == (entry.undoes is None):
        raise ValueError("neither a decision nor the end of one")
    if not (_is_row(entry.row) and isinstance(entry.path, str)):
        raise ValueError("no row")
    if not (entry.undoes is None or isinstance(entry.undoes, str)):
        raise ValueError("undoes is no id")
    if not isinstance(entry.second, bool):
        raise ValueError("second is not true or false")
    if not all(isinstance(text, str) for text in (entry.id, entry.reviewer, entry.note)):
        raise ValueError("id, reviewer or note is no text")
    if not (isinstance(entry.labels, dict) and isinstance(entry.machine_scores, dict)):
        raise ValueError("labels or machine_scores is no object")
    unknown = [name for name in entry.labels if not (name in CATEGORIES or is_own_name(name))]
    if unknown or not all(isinstance(value, bool) for value in entry.labels.values()):
        raise ValueError("labels that are not yes or no for a category")
    if not (entry.sha256 is None or isinstance(entry.sha256, str)):
        raise ValueError("sha256 is no text")
    if not (isinstance(entry.machine_decision, str) and entry.revealed in get_args(Reveal)):
        raise ValueError("machine_decision is no text, or revealed none of its values")
    if not (_is_number(entry.seconds) and 0 <= entry.seconds <= _MOST_SECONDS):
        raise ValueError("seconds is no number of seconds")
    chance = entry.inclusion_probability
    if chance is not None and not (_is_number(chance) and 0 < chance <= 1):
        raise ValueError("inclusion_probability is no probability over 0")
    if entry.time.tzinfo is None:
        raise ValueError("the time has no zone")
    try:
        entry.time.astimezone(UTC)
    except OverflowError:
        raise ValueError("the time is none of UTC") from None


def _is_row(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= _MOST_ROWS


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class Tail:
    """The lines of a journal that others add, as they come.

    What is not a line of a journal raises InputError; a line that has no end yet is read when it
    has, or is left out where a later line follows it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self._offset = 0
        self._number = 0

    def entries(self) -> list[Entry]:
        """Those that are new since the last call."""
        try:
            if os.stat(self._path).st_size == self._offset:
                return []
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                data = file.read(MOST_BYTES)
        except OSError as error:
            name = file_name(os.fspath(self._path))
            raise InputError(f"cannot read {name}: {error.strerror or error}") from None
        whole = data[: data.rfind(b"\n") + 1]
        entries = _entries(whole, os.fspath(self._path), self._number)
        self._offset += len(whole)
        self._number += whole.count(b"\n")
        return entries


def standing(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The decisions that hold: not taken back, and each reviewer's last on a row."""
    held: dict[tuple[int, str], Entry] = {}
    for entry in entries:
        key = entry.row, entry.reviewer
        if entry.undoes is None:
            held.pop(key, None)  # so that the order is that of the last decisions
            held[key] = entry
        elif (last := held.get(key)) is not None and last.id == entry.undoes:
            del held[key]
    yield from held.values()


def beside(results: str) -> Path:
    """Where the decisions on a results file are kept."""
    return Path(f"{results}.decisions.jsonl")


def as_undone(entry: Entry, *, seconds: float = 0.0) -> Entry:
    """The line that takes a decision back."""
    values: dict[str, Any] = {
        name: getattr(entry, name)
        for name in ("row", "path", "sha256", "reviewer", "machine_decision", "machine_scores")
    }
    values |= {"second": entry.second, "inclusion_probability": entry.inclusion_probability}
    return Entry(**values, decision=None, undoes=entry.id, seconds=seconds)


def is_severe(entry: Entry) -> bool:
    """Whether the reviewer saw a severe image sharp: one that they or the machine blocked."""
    seen = entry.decision is not None and entry.revealed != "blur"
    return seen and (entry.decision == "block" or entry.machine_decision == Decision.BLOCK.value)
