"""The store of scores: the outcome of each content, and which content each file had.

Keys are digests. No image, no part of one, and no path is stored.
"""

from __future__ import annotations

import datetime
import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from moderate.state.database import Database
from moderate.state.known_files import FileRecord, KnownFiles, Scopes, day_of_use, scope_of
from moderate.state.records import Outcome, pack_outcome, pack_stat, unpack_outcome
from moderate.types import ImageError

T = TypeVar("T")

FILE = "scores.sqlite3"

# facts: the audit facts of scores under a scope, from the last run that computed any.
# used: the proleptic ordinal of the day of its last use, for `prune`.
_MIGRATIONS = (
    """
    CREATE TABLE scopes (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, facts TEXT);
    CREATE TABLE outcomes (
        sha256 BLOB NOT NULL, scope INTEGER NOT NULL, used INTEGER NOT NULL,
        is_error INTEGER NOT NULL, payload BLOB NOT NULL,
        PRIMARY KEY (sha256, scope)
    ) WITHOUT ROWID;
    CREATE TABLE files (
        path BLOB PRIMARY KEY, sha256 BLOB NOT NULL, used INTEGER NOT NULL, stat BLOB NOT NULL
    ) WITHOUT ROWID
    """,
)

MOST_KEYS = 4096
"""Keys of one lookup."""

_KNOWN_SIZES = (1, 16, 256, 1024, MOST_KEYS)  # few different statements are prepared once each


@dataclass(frozen=True, slots=True)
class ScopeFacts:
    """How scores are computed: the protections of the decoders, and the backend of the model."""

    sandbox: tuple[str, ...]
    backend: str


@dataclass(frozen=True, slots=True)
class ScoresInfo:
    """How much is stored. Days are ISO dates, None where there is nothing; nbytes is on disk."""

    images: int
    outcomes: int
    errors: int
    files: int
    scorers: int
    oldest_used: str | None
    newest_used: str | None
    nbytes: int


class ScoreStore:
    """The scores of all runs of a state folder. Every method raises UnavailableError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.given_up = False
        """Whether a run has stopped using it."""
        self.scores_kept = 0
        """How many scores were stored since it was opened, without errors."""

    @classmethod
    def open(cls, folder: Path, *, read_only: bool = False) -> Self:
        """Open or create the store of a state folder. Raises UnavailableError, StateError."""
        return cls(Database(folder / FILE, _MIGRATIONS, read_only=read_only))

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def scope_ids(self, scopes: Scopes) -> tuple[int, int]:
        """The row ids of the two scopes, which are added where they are new."""

        def work(connection: sqlite3.Connection) -> tuple[int, int]:
            digests = (scopes.scores, scopes.errors)
            connection.executemany(
                "INSERT OR IGNORE INTO scopes (digest) VALUES (?)", [(d,) for d in digests]
            )
            scope_ids = dict(connection.execute("SELECT digest, id FROM scopes").fetchall())
            return scope_ids[scopes.scores], scope_ids[scopes.errors]

        return self._database.write(work)

    def known_scope_ids(self, scopes: Scopes) -> tuple[int, int]:
        """The row ids of the two scopes, of which nothing is written; -1 where one is new."""
        query = "SELECT digest, id FROM scopes WHERE digest IN (?, ?)"
        digests = (scopes.scores, scopes.errors)
        ids = dict(self._database.read(lambda connection: connection.execute(query, digests)))
        return ids.get(scopes.scores, -1), ids.get(scopes.errors, -1)

    def is_empty(self) -> bool:
        """Whether there is nothing to look up yet."""
        query = "SELECT EXISTS (SELECT 1 FROM outcomes) OR EXISTS (SELECT 1 FROM files)"
        return not self._database.read(lambda connection: connection.execute(query).fetchone()[0])

    def facts(self, scope: int) -> ScopeFacts | None:
        """How the last scores under this scope were computed; None where there are none."""
        query = "SELECT facts FROM scopes WHERE id = ?"
        row = self._database.read(lambda connection: connection.execute(query, (scope,)).fetchone())
        return _scope_facts(row[0]) if row else None

    def set_facts(self, scope: int, facts: ScopeFacts) -> None:
        """Store how they are computed from now on."""
        values = (json.dumps(asdict(facts)), scope)
        self._database.write(
            lambda connection: connection.execute(
                "UPDATE scopes SET facts = ? WHERE id = ?", values
            )
        )

    def by_path(
        self,
        paths: Sequence[bytes],
        ids: tuple[int, int],
        scopes: Scopes,
        wanted: Callable[[Outcome], bool] = lambda outcome: True,
    ) -> KnownFiles:
        """What is known of these files (at most MOST_KEYS), by the digests of their paths.

        Where there are both scores and an error, of different days, it is the scores.
        """
        query = (
            "SELECT f.path, f.sha256, f.used, f.stat, o.scope, o.used, o.payload FROM files f "
            "LEFT JOIN outcomes o ON o.sha256 = f.sha256 AND o.scope = ? WHERE f.path IN "
        )
        # Most files have scores, and looking for two outcomes of each costs a third more.
        rows = self._select(query, ids[:1], paths)
        if without := [row[0] for row in rows if row[6] is None]:
            rows += self._select(query, ids[1:], without)
        return KnownFiles(rows, ids, scopes, wanted)

    def by_content(
        self, digests: Sequence[bytes], ids: tuple[int, int], scopes: Scopes
    ) -> dict[bytes, Outcome]:
        """The outcomes of these contents (at most MOST_KEYS), by their digests."""
        query = "SELECT sha256, scope, payload FROM outcomes WHERE scope IN (?, ?) AND sha256 IN "
        outcomes: dict[bytes, Outcome] = {}
        for digest, scope, payload in self._select(query, ids, digests):
            outcome = unpack_outcome(digest, scope_of(scope, ids, scopes), payload)
            if outcome and (digest not in outcomes or not isinstance(outcome.result, ImageError)):
                outcomes[digest] = outcome
        return outcomes

    def record(
        self,
        outcomes: Sequence[tuple[bytes, Outcome]],
        files: Sequence[FileRecord],
        used: Sequence[tuple[bytes, bytes]],
        ids: tuple[int, int],
        scopes: Scopes,
    ) -> None:
        """Store outcomes by content, files by path, and that (path, content) were used today."""
        today = day_of_use()
        rows = []
        for digest, outcome in outcomes:
            error = isinstance(outcome.result, ImageError)
            scope = scopes.errors if error else scopes.scores
            payload = pack_outcome(digest, scope, outcome)
            rows.append((digest, ids[error], today, error, payload))
        packed = [(file, pack_stat(file.path, file.sha256, file.stat)) for file in files]
        entries = [(f.path, f.sha256, today, stat) for f, stat in packed if stat is not None]

        def work(connection: sqlite3.Connection) -> None:
            if rows:
                connection.executemany("INSERT OR REPLACE INTO outcomes VALUES (?,?,?,?,?)", rows)
            if entries:
                connection.executemany("INSERT OR REPLACE INTO files VALUES (?,?,?,?)", entries)
            if used:
                paths = [(today, path) for path, _ in used]
                connection.executemany("UPDATE files SET used = ? WHERE path = ?", paths)
                contents = [(today, digest, *ids) for _, digest in used]
                connection.executemany(
                    "UPDATE outcomes SET used = ? WHERE sha256 = ? AND scope IN (?, ?)", contents
                )

        self._database.write(work)
        self.scores_kept += sum(not is_error for _, _, _, is_error, _ in rows)

    def info(self) -> ScoresInfo:
        """How much is stored."""

        def work(connection: sqlite3.Connection) -> ScoresInfo:
            def one(query: str) -> tuple[Any, ...]:
                return tuple(connection.execute(query).fetchone())

            outcomes, images, errors, oldest, newest, scorers = one(
                "SELECT count(*), count(DISTINCT sha256), total(is_error = 1), min(used), "
                "max(used), count(DISTINCT scope) FROM outcomes"
            )
            (files,) = one("SELECT count(*) FROM files")
            size = self._database.nbytes
            days = (_iso_day(oldest), _iso_day(newest))
            return ScoresInfo(images, outcomes, int(errors), files, scorers, *days, size)

        return self._database.read(work)

    def prune(self, before: datetime.date) -> int:
        """Delete what was last used before that day; returns the number of outcomes."""

        def work(connection: sqlite3.Connection) -> int:
            day = (before.toordinal(),)
            gone = connection.execute("DELETE FROM outcomes WHERE used < ?", day).rowcount
            connection.execute("DELETE FROM files WHERE used < ?", day)
            connection.execute(
                "DELETE FROM files WHERE sha256 NOT IN (SELECT sha256 FROM outcomes)"
            )
            return gone

        return self._database.write(work)

    def clear(self) -> int:
        """Delete everything; returns the number of outcomes."""

        def work(connection: sqlite3.Connection) -> int:
            gone = connection.execute("DELETE FROM outcomes").rowcount
            connection.execute("DELETE FROM files")
            connection.execute("DELETE FROM scopes")
            return gone

        return self._database.write(work)

    def each_scope(self) -> dict[int, tuple[bytes, object]]:
        """The digests and facts of all scopes, by their row ids."""
        query = "SELECT id, digest, facts FROM scopes"
        rows = self._database.read(lambda connection: connection.execute(query).fetchall())
        return {number: (digest, facts) for number, digest, facts in rows}

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` makes of the file, which it only reads."""
        return self._database.read(work)

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` makes of the file, in one transaction."""
        return self._database.write(work)

    def vacuum(self) -> None:
        """Return free space to the file system."""
        self._database.vacuum()

    def _select(
        self, query: str, ids: Sequence[int], keys: Sequence[bytes]
    ) -> list[tuple[Any, ...]]:
        size = next(size for size in _KNOWN_SIZES if len(keys) <= size)
        places = ",".join("?" * size)
        # In order, they are found faster.
        padded = (*ids, *(b"",) * (size - len(keys)), *sorted(keys))
        return self._database.read(
            lambda connection: connection.execute(f"{query}({places})", padded).fetchall()
        )


def _scope_facts(text: object) -> ScopeFacts | None:
    """The stored facts; None for what this program cannot have written."""
    try:
        facts = json.loads(text) if isinstance(text, str) else None
        sandbox, backend = (facts["sandbox"], facts["backend"]) if facts else (None, None)
    except (ValueError, RecursionError, TypeError, KeyError):
        return None
    if not isinstance(sandbox, list) or not isinstance(backend, str):
        return None
    if not all(isinstance(name, str) for name in sandbox):
        return None
    return ScopeFacts(tuple(sandbox), backend)


def _iso_day(day: object) -> str | None:
    try:
        return datetime.date.fromordinal(day).isoformat() if isinstance(day, int) else None
    except (ValueError, OverflowError):
        return None
