"""Which contents a run has met, so that each is decoded and scored once. Lives as long as the run.

A database without a name, which SQLite keeps in memory up to a bound and in a nameless temporary
file beyond: memory does not grow with the number of images.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from moderate.errors import RunError
from moderate.state.records import Outcome, pack_outcome, unpack_outcome

# Known contents come many at once, and are nearly always owned by the row that claims them. Each
# has only a number, the first bytes of its digest, and a place in a block: a third of what a row of
# `contents` costs. It gets such a row when another image has the same number. The place of a
# content that came by itself is -1.
_SCHEMA = (
    """CREATE TABLE contents (
        sha256 BLOB PRIMARY KEY, position INTEGER NOT NULL, path BLOB NOT NULL,
        reused INTEGER NOT NULL, outcome BLOB
    ) WITHOUT ROWID""",
    "CREATE TABLE numbers (number INTEGER PRIMARY KEY, place INTEGER NOT NULL)",
    "CREATE TABLE blocks (first INTEGER PRIMARY KEY, digests BLOB NOT NULL, paths BLOB NOT NULL, "
    "positions BLOB NOT NULL)",
)
_DIGEST_BYTES = 32
_NUMBERED_TOGETHER = 1024  # one by one costs several times as much
_PATHS_JOINT = b"\0"  # in no path of a local file
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
        for statement in _SCHEMA:
            self._connection.execute(statement)
        # One transaction, which is never committed: nobody else reads it, and it goes with the run.
        # Each commit would go through all changed pages of the cache, once per image.
        self._connection.execute("BEGIN")
        self._next_place = 0  # of a known content
        # Contents that came by themselves, as soon as there are known ones to compare them with.
        self._unnumbered: list[bytes] = []
        self.out_of_order = False
        """Whether a row was examined after a later one of the same content: then ask `first`."""

    def close(self) -> None:
        """Forget everything."""
        with self._locked():
            self._connection.close()

    def claim(self, sha256: bytes, position: int, path: bytes, *, reused: bool = False) -> Claim:
        """Say that the row at `position`, called `path`, has this content."""
        with self._locked():
            return self._claim(sha256, position, path, reused=reused)

    def claim_all(self, rows: Sequence[tuple[bytes, int, bytes]]) -> list[Claim] | None:
        """Claim for rows (sha256, position, path) known from an earlier run; None: all are owners.

        Positions rise.
        """
        with self._locked():
            claimed = self._claim_block(rows) if rows else []
            if claimed is None:
                claimed = [self._claim(*row, reused=True) for row in rows]
        return claimed or None

    def claim_each(self, rows: Sequence[tuple[bytes, int, bytes, bool]]) -> list[Claim] | None:
        """The same for rows (sha256, position, path, reused) of which not all are known."""
        with self._locked():
            if not self._next_place:
                if self._insert(rows) == len(rows):
                    return None
                return [self._other(*row[:3]) for row in rows]
            return [self._claim(*row[:3], reused=row[3]) for row in rows]

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

    def _claim(self, sha256: bytes, position: int, path: bytes, *, reused: bool) -> Claim:
        if entry := self._of_block(sha256):
            self._insert([(sha256, *entry)])
        if self._insert([(sha256, position, path, reused)]):
            return Claim(True, None, reused)
        return self._other(sha256, position, path)

    def _claim_block(self, rows: Sequence[tuple[bytes, int, bytes]]) -> list[Claim] | None:
        """Take in known contents; empty where the rows own all of them, None where it cannot."""
        digests, positions, paths = zip(*rows, strict=True)
        if self._next_place:
            self._number(self._unnumbered)
        else:
            before = self._connection.execute("SELECT sha256 FROM contents")
            while found := before.fetchmany(_NUMBERED_TOGETHER):
                self._number([sha256 for (sha256,) in found])
        joined_digests, joined_paths = b"".join(digests), _PATHS_JOINT.join(paths)
        are_digests = set(map(len, digests)) == {_DIGEST_BYTES}
        if not are_digests or joined_paths.count(_PATHS_JOINT) != len(rows) - 1:
            return None
        numbers = np.frombuffer(joined_digests, "<i8")[:: _DIGEST_BYTES // 8].tolist()
        places = range(self._next_place, self._next_place + len(rows))
        self._next_place += len(rows)
        block = (places[0], joined_digests, joined_paths, np.array(positions, np.int64).tobytes())
        self._connection.execute("INSERT INTO blocks VALUES (?, ?, ?, ?)", block)
        if self._insert_numbers(zip(numbers, places, strict=True)) == len(rows):
            return []
        return [
            Claim(True, None, True)
            if self._place(number) == place
            else self._claim(*row, reused=True)
            for number, place, row in zip(numbers, places, rows, strict=True)
        ]

    def _of_block(self, sha256: bytes) -> tuple[int, bytes, bool] | None:
        """The entry of a content that was taken in with a block; None for another content."""
        if not self._next_place:
            return None
        place = self._place(_number(sha256))
        if place is None or place < 0:
            return None
        query = "SELECT * FROM blocks WHERE first <= ? ORDER BY first DESC LIMIT 1"
        first, digests, paths, positions = self._connection.execute(query, (place,)).fetchone()
        index = place - first
        if digests[index * _DIGEST_BYTES : (index + 1) * _DIGEST_BYTES] != sha256:
            return None
        position = int(np.frombuffer(positions, np.int64)[index])
        return position, paths.split(_PATHS_JOINT)[index], True

    def _place(self, number: int) -> int | None:
        query = "SELECT place FROM numbers WHERE number = ?"
        row = self._connection.execute(query, (number,)).fetchone()
        return row[0] if row else None

    def _number(self, digests: Sequence[bytes]) -> None:
        """Give contents a number that came by themselves."""
        self._insert_numbers(zip(map(_number, digests), repeat(-1), strict=False))
        self._unnumbered = []

    def _insert_numbers(self, rows: Iterable[tuple[int, int]]) -> int:
        before = self._connection.total_changes
        self._connection.executemany("INSERT OR IGNORE INTO numbers VALUES (?, ?)", rows)
        return self._connection.total_changes - before

    def _insert(self, rows: Sequence[tuple[bytes, int, bytes, bool]]) -> int:
        if self._next_place:
            self._unnumbered += [row[0] for row in rows]
            if len(self._unnumbered) >= _NUMBERED_TOGETHER:
                self._number(self._unnumbered)
        before = self._connection.total_changes
        self._connection.executemany(
            "INSERT OR IGNORE INTO contents (sha256, position, path, reused) VALUES (?, ?, ?, ?)",
            rows,
        )
        return self._connection.total_changes - before

    def _get(self, sha256: bytes) -> tuple[int, bytes, bool] | None:
        query = "SELECT position, path, reused FROM contents WHERE sha256 = ?"
        row = self._connection.execute(query, (sha256,)).fetchone()
        if row is None:
            return self._of_block(sha256)
        return row[0], row[1], bool(row[2])

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


def _number(sha256: bytes) -> int:
    return int.from_bytes(sha256[:8], "little", signed=True)
