"""Which contents a run has met, so that each is decoded and scored once. Lives as long as the run.

A database without a name, which SQLite keeps in memory up to a bound and in a nameless temporary
file beyond: memory does not grow with the number of images.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moderate.errors import RunError
from moderate.state.records import Outcome, pack_outcome, unpack_outcome

_SCHEMA = """CREATE TABLE contents (
    sha256 BLOB PRIMARY KEY, position INTEGER NOT NULL, path BLOB NOT NULL, reused INTEGER NOT NULL,
    outcome BLOB
) WITHOUT ROWID"""
_CACHE_KIB = 8 * 1024
"""What of it is kept in memory. A larger cache is hardly faster: digests come in no order."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a claim on a content found. first is the path of an earlier row with the same bytes.

    owner says that nobody claimed it before: it is for the claimant to have it scored. reused says
    that whoever did had the outcome from an earlier run.
    """

    owner: bool
    first: bytes | None
    reused: bool


class Contents:
    """The contents of one run, by their SHA-256 (32 bytes). Threads may share it.

    Raises RunError where there is no room for the temporary file.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = OFF")
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._connection.execute(_SCHEMA)
        # One transaction, which is never committed: nobody else reads it, and it goes with the run.
        # Each commit would go through all changed pages of the cache, once per image.
        self._connection.execute("BEGIN")
        self.out_of_order = False
        """Whether a row was examined after a later one of the same content: then ask `first`."""

    def close(self) -> None:
        """Forget everything."""
        with self._locked():
            self._connection.close()

    def claim(self, sha256: bytes, position: int, path: bytes, *, reused: bool = False) -> Claim:
        """Say that the row at `position`, called `path`, has this content."""
        with self._locked():
            if self._insert([(sha256, position, path, reused)]):
                return Claim(True, None, reused)
            return self._other(sha256, position, path)

    def claim_all(self, rows: Sequence[tuple[bytes, int, bytes]]) -> list[Claim] | None:
        """Claim for rows (sha256, position, path) known from an earlier run; None: all are owners.

        Positions rise.
        """
        return self.claim_each([(*row, True) for row in rows])

    def claim_each(self, rows: Sequence[tuple[bytes, int, bytes, bool]]) -> list[Claim] | None:
        """The same for rows (sha256, position, path, reused) of which not all are known."""
        with self._locked():
            if self._insert(rows) == len(rows):
                return None
            return [self._other(*row[:3]) for row in rows]

    def first(self, sha256: bytes, position: int) -> bytes | None:
        """The path of the first row with this content, None where that is the row itself."""
        with self._locked():
            entry = self._get(sha256)
        return entry[1] if entry and entry[0] < position else None

    def settle(self, sha256: bytes, outcome: Outcome) -> None:
        """Set the outcome of the content."""
        packed = pack_outcome(sha256, b"", outcome)
        with self._locked():
            self._connection.execute(
                "UPDATE contents SET outcome = ? WHERE sha256 = ?", (packed, sha256)
            )

    def outcome(self, sha256: bytes) -> Outcome | None:
        """What the content gave, None where that is not known yet."""
        query = "SELECT outcome FROM contents WHERE sha256 = ?"
        with self._locked():
            row = self._connection.execute(query, (sha256,)).fetchone()
        return unpack_outcome(sha256, b"", row[0]) if row and row[0] else None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except sqlite3.OperationalError as error:
                raise RunError(
                    f"cannot keep track of copies in a temporary file ({error}); is there room in "
                    "TMPDIR?"
                ) from error

    def _insert(self, rows: Sequence[tuple[bytes, int, bytes, bool]]) -> int:
        before = self._connection.total_changes
        self._connection.executemany(
            "INSERT OR IGNORE INTO contents (sha256, position, path, reused) VALUES (?, ?, ?, ?)",
            rows,
        )
        return self._connection.total_changes - before

    def _get(self, sha256: bytes) -> tuple[int, bytes, bool] | None:
        query = "SELECT position, path, reused FROM contents WHERE sha256 = ?"
        row = self._connection.execute(query, (sha256,)).fetchone()
        return (row[0], row[1], bool(row[2])) if row else None

    def _other(self, sha256: bytes, position: int, path: bytes) -> Claim:
        entry = self._get(sha256)
        assert entry is not None
        if entry[0] < position:
            return Claim(False, entry[1], entry[2])
        if entry[0] > position:  # it was read earlier, but comes later in the input
            self.out_of_order = True
            self._connection.execute(
                "UPDATE contents SET position = ?, path = ? WHERE sha256 = ?",
                (position, path, sha256),
            )
        return Claim(entry[0] == position, None, entry[2])
