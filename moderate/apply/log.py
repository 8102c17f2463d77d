"""The log of what is done with files: written ahead of it, line by line, to undo and to resume.

JSON Lines, only ever appended to. A session begins with its roots; then there is a line for each
operation before it is done, on the disk before its file is touched, and one for its outcome. What
has no outcome may have been done in part: what is on the disk says how far. Names are text whose
bytes that are not UTF-8 are lone surrogates, as Python has them.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, cast

from moderate.apply.contents import Content
from moderate.apply.operations import Kind, Operation
from moderate.apply.refusal import RefusedError
from moderate.apply.trees import names_of
from moderate.errors import InputError, OutputError
from moderate.locks import is_file_at, is_unsupported, try_lock, unlock
from moderate.text import one_line, printable, utc
from moderate.types import Decision
from moderate.version import __version__

VERSION = 1
MAX_LINE_BYTES = 1 << 20

_TOKEN = re.compile(r"[0-9a-f]{16}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class State(StrEnum):
    """How far an operation has got, by the last line about it."""

    BEGUN = "begun"
    DONE = "done"
    DROPPED = "dropped"  # not done, and nothing is left of it
    UNDOING = "undoing"
    UNDONE = "undone"


@dataclass(frozen=True, slots=True)
class Session:
    """One run of the command: the folders it works in, as absolute paths."""

    token: str
    root: bytes
    targets: Mapping[str, bytes]


@dataclass(slots=True)
class Entry:
    """An operation with its session, and how far it has got."""

    operation: Operation
    session: Session
    state: State = State.BEGUN


@dataclass(slots=True)
class Read:
    """What a log holds."""

    entries: dict[int, Entry] = field(default_factory=dict)
    results: str = ""
    ends_whole: bool = True

    @property
    def unfinished(self) -> list[Entry]:
        """What a killed process was at."""
        return [e for e in self.entries.values() if e.state in (State.BEGUN, State.UNDOING)]


class Log:
    """A log that is open, and locked, for this process alone."""

    def __init__(self, path: str, *, create: bool) -> None:
        """Raises OutputError, and InputError for a file that is no log."""
        self.path = path
        self._shown = printable(path)
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            self._descriptor = os.open(path, flags | (os.O_CREAT if create else 0), 0o600)
        except OSError as error:
            advice = "; name another with --log FILE" if create else ""
            raise OutputError(
                f"cannot open the log {self._shown}: {error.strerror}{advice}"
            ) from None
        try:
            self._check()
            self.read = self._read()
            if create:
                self._settle_name()
        except BaseException:
            self.close()
            raise

    def begin(self, session: Session, results: str, sha256: str, kind: Kind) -> None:
        """Begin a session that may have operations."""
        self._end_line()
        self._write(
            {
                "apply": VERSION,
                "moderate": __version__,
                "time": utc(datetime.now(UTC)),
                "token": session.token,
                "kind": kind,
                "root": _text(session.root),
                "targets": {name: _text(path) for name, path in session.targets.items()},
                "results": results,
                "results_sha256": sha256,
            }
        )

    def begin_undoing(self) -> None:
        """Begin a session that undoes operations of others."""
        self._end_line()
        self._write({"undo": VERSION, "moderate": __version__, "time": utc(datetime.now(UTC))})

    def intend(self, operations: Sequence[Operation], session: Session) -> None:
        """Write down what is going to be done, and bring it to the disk."""
        for operation in operations:
            self.read.entries[operation.number] = Entry(operation, session)
        self._write(*map(_of_operation, operations))
        self.settle()

    def intend_undoing(self, entries: Iterable[Entry]) -> None:
        """Write down what is going to be undone, and bring it to the disk."""
        some = list(entries)
        for entry in some:
            entry.state = State.UNDOING
        self._write(*({"op": e.operation.number, "state": State.UNDOING} for e in some))
        self.settle()

    def note(self, number: int, state: State, reason: str | None = None) -> None:
        """Write down how far an operation has got; on the disk with the next `settle`."""
        self.read.entries[number].state = state
        self._write({"op": number, "state": state, **({"reason": reason} if reason else {})})

    @property
    def next_number(self) -> int:
        """A number that no operation has yet."""
        return max(self.read.entries, default=0) + 1

    def settle(self) -> None:
        """Bring all that was written to the disk. Raises OutputError."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise OutputError(f"cannot write the log {self._shown}: {error.strerror}") from error

    def close(self) -> None:
        """Let others have it."""
        unlock(self._descriptor)

    def _check(self) -> None:
        """That it is a file of this user's own, and that nobody else is at it."""
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{self._shown} is not a log: not a regular file")
        if status.st_uid != os.geteuid():
            raise InputError(f"{self._shown} is another user's: it may name any files")
        try:
            is_free = try_lock(self._descriptor) and is_file_at(self._descriptor, self.path)
        except OSError as error:
            if not is_unsupported(error):
                raise OutputError(f"cannot lock {self._shown}: {error.strerror}") from None
            is_free = True
        if not is_free:
            raise OutputError(f"another process is applying or undoing by {self._shown}")

    def _end_line(self) -> None:
        """End the line that a process was writing when it was killed."""
        if not self.read.ends_whole:
            self._append(b"\n")
            self.read.ends_whole = True

    def _settle_name(self) -> None:
        try:
            folder = os.open(os.path.dirname(os.path.abspath(self.path)), os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise OutputError(f"cannot write the log {self._shown}: {error.strerror}") from error

    def _write(self, *records: dict[str, Any]) -> None:
        self._append("".join(json.dumps(record) + "\n" for record in records).encode("ascii"))

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            raise OutputError(
                f"cannot write the log {self._shown}: {error.strerror}; make room, then run the "
                "same command again: it goes on from there"
            ) from error

    def _read(self) -> Read:
        """Raises InputError for what no session of this command wrote."""
        read, session, torn = Read(), None, 0
        with open(self._descriptor, "rb", closefd=False) as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                read.ends_whole = line.endswith(b"\n")
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    record = None
                if not isinstance(record, dict):
                    torn = torn or number
                    continue
                try:
                    if "apply" in record:
                        session, torn = _session(record), 0  # a torn line ended the one before
                        read.results = str(record["results"])
                    elif "undo" in record and session is not None:
                        torn = 0
                    elif torn or session is None:
                        raise ValueError("not a line of a log of moderate apply")
                    elif "state" in record:
                        read.entries[record["op"]].state = State(record["state"])
                    else:
                        operation = _operation(record, session)
                        read.entries[operation.number] = Entry(operation, session)
                except (KeyError, TypeError, ValueError, AttributeError, RefusedError) as error:
                    what = one_line(str(error) or type(error).__name__, 80)
                    raise InputError(
                        f"{self._shown}, line {torn or number}: not a line of a log of "
                        f"moderate apply ({what})"
                    ) from None
        if torn and session is None:
            raise InputError(f"{self._shown}, line {torn}: not a log of moderate apply")
        return read


def _of_operation(operation: Operation) -> dict[str, Any]:
    return {
        "op": operation.number,
        "kind": operation.kind,
        "decision": operation.decision,
        "path": _text(b"/".join(operation.names)),
        "bytes": operation.content.size,
        "sha256": operation.content.sha256,
        "folders_made": operation.made,
    }


def _operation(record: Mapping[str, Any], session: Session) -> Operation:
    number, size, made = (record[key] for key in ("op", "bytes", "folders_made"))
    if not all(type(each) is int and each >= 0 for each in (number, size, made)):
        raise ValueError("a number that is none")
    kind, decision = record["kind"], record["decision"]
    if kind not in ("copy", "move", "link") or decision not in session.targets:
        raise ValueError("an unknown operation")
    if not _SHA256.fullmatch(record["sha256"]):
        raise ValueError("no sha256")
    return Operation(
        number,
        session.token,
        cast("Kind", kind),
        decision,
        names_of(_bytes(record["path"])),
        Content(size, record["sha256"]),
        made,
    )


def _session(record: Mapping[str, Any]) -> Session:
    if record["apply"] != VERSION:
        raise ValueError(f"version {record['apply']}; this version reads {VERSION}")
    if not _TOKEN.fullmatch(record["token"]):
        raise ValueError("no token")
    targets = {str(Decision(name)): _folder(path) for name, path in record["targets"].items()}
    return Session(record["token"], _folder(record["root"]), targets)


def _folder(text: str) -> bytes:
    path = _bytes(text)
    if not path.startswith(b"/") or b"\0" in path:
        raise ValueError("a folder that is not an absolute path")
    return path


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
