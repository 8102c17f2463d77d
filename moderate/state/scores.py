"""The store of scores: the outcome of each content, and which content each file had.

Keys are digests. No image, no part of one, and no path is stored.
"""

from __future__ import annotations

import datetime
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import compress
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from moderate.state.database import BusyError, Database, UnavailableError
from moderate.state.records import (
    FileStat,
    Outcome,
    ScoredContents,
    are_intact,
    pack_outcome,
    pack_stat,
    unpack_outcome,
    unpack_scored,
    unpack_stat,
)
from moderate.types import ImageError

log = logging.getLogger(__name__)

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

_FILES_AT_ONCE = 1024
_MOST_WAITING = 100_000  # records, while another process writes
_PATIENCE_AT_START, _PATIENCE_AT_END = 60.0, 15.0  # seconds, for a vacuum of a large file
_KNOWN_SIZES = (1, 16, 256, 1024, MOST_KEYS)  # few different statements are prepared once each


@dataclass(frozen=True, slots=True)
class Scopes:
    """What outcomes depend on besides the content: digests (32 bytes) for scores and errors."""

    scores: bytes
    errors: bytes


@dataclass(frozen=True, slots=True)
class ScopeFacts:
    """How scores are computed: the protections of the decoders, and the backend of the model."""

    sandbox: tuple[str, ...]
    backend: str


@dataclass(frozen=True, slots=True)
class KnownFile:
    """What is known of a file by its path.

    outcome is None where its content is unknown under these scopes. stale says that the day of
    its last use is to be updated.
    """

    stat: FileStat
    sha256: bytes
    outcome: Outcome | None
    stale: bool


@dataclass(frozen=True, slots=True)
class UnchangedFiles:
    """Files that are as they were when their content was scored, by columns.

    places are those of the files among the ones that were asked for, in their order; stale is that
    of `KnownFile`.
    """

    places: Sequence[int]
    sha256: Sequence[bytes]
    stale: Sequence[bool]
    contents: ScoredContents

    def __len__(self) -> int:
        return len(self.places)

    def take(self, mask: Any) -> UnchangedFiles:
        """Those of a mask (booleans)."""
        return UnchangedFiles(
            list(compress(self.places, mask)),
            list(compress(self.sha256, mask)),
            list(compress(self.stale, mask)),
            self.contents.take(np.asarray(mask, bool)),
        )


class KnownFiles:
    """What the state knows of some files, by the digests of their paths.

    Most files of a second run are unchanged, and `unchanged` unpacks all of those at once; `get`
    is for each of the others.
    """

    def __init__(
        self,
        rows: Sequence[tuple[Any, ...]],
        ids: tuple[int, int],
        scopes: Scopes,
        wanted: Callable[[Outcome], bool] = lambda outcome: True,
    ) -> None:
        """rows are those of the database; an outcome that is not wanted is left out."""
        self._rows = {row[0]: row for row in rows}
        self._ids = ids
        self._scopes = scopes
        self._wanted = wanted
        self._today = _today()

    def get(self, path: bytes) -> KnownFile | None:
        """What is known of one file; None for nothing."""
        row = self._rows.get(path)
        if row is None:
            return None
        _, digest, used, packed, scope, outcome_used, payload = row
        stat = unpack_stat(path, digest, packed)
        if stat is None:
            return None
        outcome = None
        if payload is not None:
            name = _scope(scope, self._ids, self._scopes)
            outcome = unpack_outcome(digest, name, payload)
        stale = _is_before(used, self._today) or (
            outcome is not None and _is_before(outcome_used, self._today)
        )
        if outcome and not self._wanted(outcome):
            outcome = None
        return KnownFile(stat, digest, outcome, stale)

    def all(self) -> dict[bytes, KnownFile]:
        """What is known of each."""
        return {path: file for path in self._rows if (file := self.get(path))}

    def unchanged(
        self,
        paths: Sequence[bytes],
        stats: NDArray[np.int64],
        label_count: int,
        *,
        hashed: bool = False,
    ) -> UnchangedFiles:
        """Those of these files that have scores, so many of labels, and are as stats say.

        stats (n, 3) are those of `FileStat`. With hashed, only those that have a hash of the
        picture, too. What is out of the ordinary is not among the files: `get` says what is known
        of it.
        """
        known_rows, scored = self._rows, self._ids[0]
        rows = [row for path in paths if (row := known_rows.get(path)) is not None]
        if not _are_regular(rows, scored):
            rows = [row for row in rows if _are_regular([row], scored)]
        if not rows:
            return _NO_FILES
        keys, digests, used, packed, _, outcomes_used, payloads = zip(*rows, strict=True)
        places: Sequence[int] = range(len(paths))
        if len(rows) < len(paths):
            regular = set(keys)
            places = [place for place, path in enumerate(paths) if path in regular]
            stats = stats[places]
        usable = are_intact(keys, digests, stats, packed)
        contents, known = unpack_scored(digests, self._scopes.scores, payloads, label_count)
        usable &= known
        if hashed:
            usable &= np.array([each is not None for each in contents.hashes], bool)
        today = self._today
        stale = [False] * len(rows)
        if set(used) | set(outcomes_used) != {today}:
            stale = [
                _is_before(one, today) or _is_before(other, today)
                for one, other in zip(used, outcomes_used, strict=True)
            ]
        files = UnchangedFiles(places, digests, stale, contents)
        return files if usable.all() else files.take(usable)


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file as it was when it was read: digest of its path, digest of its bytes."""

    path: bytes
    sha256: bytes
    stat: FileStat


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
            outcome = unpack_outcome(digest, _scope(scope, ids, scopes), payload)
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
        today = _today()
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


class RunScores:
    """The store as one run uses it, for its scopes. It never stops the run.

    Where the store becomes unusable, one warning says so and the run goes on without it: lookups
    return nothing, and nothing is stored. Reading threads look up; the caller's thread records.
    """

    def __init__(
        self,
        store: ScoreStore,
        scopes: Scopes,
        *,
        rescore: bool,
        retry_errors: bool,
        hashed: bool = False,
        read_only: bool = False,
    ) -> None:
        """With read_only, nothing is to be added; with hashed, scores without a hash do not count.

        Those of an earlier run that asked for no hashes: the images are looked at once more.
        """
        self._store = store
        self._scopes = scopes
        self._rescore = rescore
        self._retry_errors = retry_errors
        self._hashed = hashed
        self._ids: tuple[int, int] | None = None
        self._outcomes: list[tuple[bytes, Outcome]] = []
        self._files: list[FileRecord] = []
        self._used: list[tuple[bytes, bytes]] = []
        # What this run finds out itself, `Contents` knows.
        self._empty = False
        try:
            ids_of = store.known_scope_ids if read_only else store.scope_ids
            self._ids = _patiently(lambda: ids_of(scopes), _PATIENCE_AT_START)
            self._empty = store.is_empty()
        except UnavailableError as error:
            self._give_up(error)

    def look_up(self, paths: Sequence[bytes]) -> KnownFiles | None:
        """See `ScoreStore.by_path`; outcomes that are to be computed again are left out.

        None where nothing can be known.
        """
        ids = self._ids
        if ids is None or self._empty:
            return None
        try:
            return self._store.by_path(paths, ids, self._scopes, self._wanted)
        except UnavailableError as error:
            self._failed(error)
            return None

    def by_path(self, paths: Sequence[bytes]) -> dict[bytes, KnownFile]:
        """What is known of each of these files, see `look_up`."""
        known = self.look_up(paths)
        return known.all() if known else {}

    @property
    def hashed(self) -> bool:
        """Whether only scores count that have a hash of the picture beside them."""
        return self._hashed

    @property
    def recomputes(self) -> bool:
        """Whether no outcome of an earlier run counts."""
        return self._rescore

    def by_content(self, digest: bytes) -> Outcome | None:
        """The outcome of this content, unless it is to be computed again."""
        ids = self._ids
        if ids is None or self._empty:
            return None
        try:
            outcome = self._store.by_content([digest], ids, self._scopes).get(digest)
        except UnavailableError as error:
            self._failed(error)
            return None
        return outcome if outcome and self._wanted(outcome) else None

    def facts(self, now: ScopeFacts | None = None) -> ScopeFacts | None:
        """How these scores were computed; stores `now` as how they are from now on."""
        ids = self._ids
        if ids is not None:
            try:
                if now is not None:
                    self._store.set_facts(ids[0], now)
                return self._store.facts(ids[0])
            except UnavailableError as error:
                self._failed(error)
        return now

    def add(
        self,
        file: FileRecord | None,
        outcome: tuple[bytes, Outcome] | None = None,
        used: tuple[bytes, bytes] | None = None,
    ) -> None:
        """Add records for the next `commit`."""
        if file:
            self._files.append(file)
        if outcome:
            self._outcomes.append(outcome)
        if used:
            self._used.append(used)

    def commit(self, *, everything: bool = False) -> None:
        """Store what was added. What cannot be written now, because others write, waits.

        Outcomes are stored at once, so that no image is scored again. Losing which file had which
        content costs only reading it: that is written in fewer, cheaper batches, or with
        `everything`.
        """
        try:
            self._commit(everything)
        except BusyError:
            if len(self._files) + len(self._outcomes) + len(self._used) >= _MOST_WAITING:
                self._drop()

    def finish(self) -> None:
        """The last commit, which waits some time for other processes."""
        try:
            _patiently(lambda: self._commit(everything=True), _PATIENCE_AT_END)
        except BusyError:
            self._drop()

    def _commit(self, everything: bool) -> None:
        waiting = len(self._files) + len(self._used)
        files, used = (
            (self._files, self._used) if everything or waiting >= _FILES_AT_ONCE else ([], [])
        )
        ids, kept = self._ids, (self._outcomes, files, used)
        if not any(kept):
            return
        if ids is not None:
            try:
                self._store.record(*kept, ids, self._scopes)
            except BusyError:
                raise
            except UnavailableError as error:
                self._give_up(error)
        self._outcomes = []
        if files or used:
            self._files, self._used = [], []

    def _drop(self) -> None:
        count = len(self._outcomes)
        log.warning("the state is kept busy by other runs; %d scores were not kept", count)
        self._outcomes, self._files, self._used = [], [], []

    def _wanted(self, outcome: Outcome) -> bool:
        if self._rescore:
            return False
        if isinstance(outcome.result, ImageError):
            return not self._retry_errors
        return outcome.facts.pdq is not None or not self._hashed

    def _failed(self, error: UnavailableError) -> None:
        if not isinstance(error, BusyError):
            self._give_up(error)

    def _give_up(self, error: UnavailableError) -> None:
        if not self._store.given_up:
            self._store.given_up = True
            log.warning(
                "the state cannot be used any more (%s); the run goes on, but could not be resumed",
                error,
            )
        self._ids = None


_NO_FILES = UnchangedFiles((), (), (), unpack_scored((), b"", (), 0)[0])


def _patiently(work: Callable[[], T], seconds: float) -> T:
    """The result of `work`, tried again while the state is busy. Raises UnavailableError."""
    end = time.monotonic() + seconds
    while True:
        try:
            return work()
        except BusyError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.05)


def path_digest(path: bytes, folder: bytes) -> bytes:
    """The key (16 bytes) of a local file: of its absolute path, `folder` being the working one."""
    return sha256(_absolute(path, folder)).digest()[:16]


def path_digests(start: bytes, names: Sequence[bytes], folder: bytes) -> list[bytes]:
    """`path_digest` of files whose paths are `start`, which ends a folder, and one of the names."""
    start = _absolute(start, folder)
    return [sha256(start + name).digest()[:16] for name in names]


def _absolute(path: bytes, folder: bytes) -> bytes:
    return path if path.startswith(b"/") else folder + b"/" + path.removeprefix(b"./")


def _are_regular(rows: Sequence[tuple[Any, ...]], scored: int) -> bool:
    """Whether rows of `ScoreStore.by_path` have scores, and the types that they should have."""
    if not rows:
        return True
    columns = list(zip(*rows, strict=True))
    types = {each for number in (1, 3, 6) for each in set(map(type, columns[number]))}
    return types == {bytes} and set(columns[4]) == {scored}


def _scope(number: int, ids: tuple[int, int], scopes: Scopes) -> bytes:
    return scopes.scores if number == ids[0] else scopes.errors


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


def _is_before(day: object, today: int) -> bool:
    """Whether a day of last use is past; True for a damaged one, so that it is written again."""
    return not isinstance(day, int) or day < today


def _iso_day(day: object) -> str | None:
    try:
        return datetime.date.fromordinal(day).isoformat() if isinstance(day, int) else None
    except (ValueError, OverflowError):
        return None


def _today() -> int:
    return datetime.datetime.now(datetime.UTC).toordinal()
