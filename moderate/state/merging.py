"""One state from several: the scores and runs of another state folder are added to one.

The other folder is only read. It may be on a file system of several machines: nobody writes to it
there, and its files are copied first.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from moderate.errors import StateError
from moderate.scratch import scratch_folder
from moderate.state import ledger, liveness, scores
from moderate.state.database import UnavailableError
from moderate.state.filesystems import of_several_machines
from moderate.state.ledger import Ledger
from moderate.state.records import unpack_outcome, unpack_stat
from moderate.state.scores import ScoreStore
from moderate.text import one_line, printable

_AT_ONCE = 4096
"""Records of one transaction."""


@dataclass(slots=True)
class MergedState:
    """What came of adding another state.

    scores and files are the records that were added, known those of scores that were there already.
    conflicts are contents for which the other had another outcome, of which the one that was there
    first stays. damaged are records that are left out. alive are runs in progress, which are left
    out, too.
    """

    scores: int = 0
    files: int = 0
    known: int = 0
    conflicts: int = 0
    damaged: int = 0
    runs: int = 0
    alive: int = 0

    def add(self, other: MergedState) -> None:
        """Take the counts of another into these."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    @property
    def text(self) -> str:
        """The counts as a sentence without its full stop."""
        said = [f"{_number(self.scores, 'score')} and {_number(self.runs, 'run')} added"]
        if self.known:
            said.append(f"{self.known:,} known already")
        if self.conflicts:
            said.append(
                f"{_number(self.conflicts, 'content')} with another outcome, of which the one that "
                "was there first stays"
            )
        if self.damaged:
            said.append(f"{_number(self.damaged, 'damaged record')} left out")
        if self.alive:
            said.append(f"{_number(self.alive, 'run')} in progress left out")
        return "; ".join(said)


def merge_state(folder: Path, into: Path) -> MergedState:
    """Add the scores and runs of the state `folder` to the state `into`, which is created.

    What `into` has stays: an outcome of the same content by the same weights and options, and a run
    of the same id that has ended. Raises StateError for a folder without a state, or with one that
    is damaged or of a newer version; UnavailableError where `into` cannot be used.
    """
    merged = MergedState()
    with _opened(folder, into) as (source, runs):
        shown = printable(str(folder))
        if source:
            with contextlib.closing(ScoreStore.open(into)) as target:
                _add_scores(source, target, merged, shown)
        if runs:
            with contextlib.closing(Ledger(into)) as to:
                _add_runs(runs, to, folder, merged, shown)
    return merged


def check_state(folder: Path, into: Path) -> None:
    """Raises StateError where `merge_state` would not begin; nothing is written."""
    with _opened(folder, into):
        pass


@contextlib.contextmanager
def _opened(folder: Path, into: Path) -> Iterator[tuple[ScoreStore | None, Ledger | None]]:
    """The scores and the runs of a folder that others may be added from, to be read."""
    shown = printable(str(folder))
    if os.path.realpath(folder) == os.path.realpath(into):
        raise StateError(f"{shown} is the state that others are added to")
    with _readable(folder, shown) as place, contextlib.ExitStack() as opened:
        has_scores, has_runs = (place / scores.FILE).exists(), (place / ledger.FILE).exists()
        if not (has_scores or has_runs):
            raise StateError(f"{shown} holds no state: there is no {scores.FILE} in it")
        source = runs = None
        with _readable_errors(shown):
            if has_scores:
                source = ScoreStore.open(place, read_only=True)
                opened.enter_context(contextlib.closing(source))
                source.each_scope()  # a database without them is of another program
            if has_runs:
                runs = Ledger(place, read_only=True)
                opened.enter_context(contextlib.closing(runs))
        yield source, runs


@contextlib.contextmanager
def _readable(folder: Path, shown: str) -> Iterator[Path]:
    """The folder, or a copy of what matters of it where it is on a file system of several machines.

    There, even a reader of a write-ahead log needs memory that it does not have.
    """
    if not of_several_machines(folder):
        yield folder
        return
    with scratch_folder("state") as copy:
        for file in (scores.FILE, ledger.FILE):
            for suffix in ("", "-wal", "-journal"):
                with contextlib.suppress(FileNotFoundError):
                    try:
                        shutil.copyfile(folder / f"{file}{suffix}", copy / f"{file}{suffix}")
                    except FileNotFoundError:
                        raise
                    except OSError as error:
                        raise StateError(f"{shown}: {error.strerror}") from error
        yield copy


@contextlib.contextmanager
def _readable_errors(shown: str) -> Iterator[None]:
    """What is wrong with the state that is read, as one line."""
    try:
        yield
    except UnavailableError as error:
        # Its own words name the file, which may be a copy.
        reason = one_line(str(error).rpartition(": ")[2])
        if "no such table" in str(error):
            reason = "the database is not one of moderate"
        raise StateError(
            f"{shown} holds no state that can be read: {reason}; leave it out, and its images are "
            "scored again"
        ) from error


# Scores -------------------------------------------------------------------------------------------


def _add_scores(source: ScoreStore, target: ScoreStore, merged: MergedState, shown: str) -> None:
    with _readable_errors(shown):
        scopes = source.each_scope()
    ids = _scope_ids(target, scopes)
    for rows in _outcomes(source, shown):
        usable = []
        for row in rows:
            digest, scope, *_, payload = row
            known = scopes.get(scope)
            if known and _is_outcome(digest, known[0], payload):
                usable.append(row)
        merged.damaged += len(rows) - len(usable)
        target.write(partial(_put, rows=usable, scopes=scopes, ids=ids, merged=merged))
    for rows in _files(source, shown):
        usable = [row for row in rows if unpack_stat(row[0], row[1], row[3]) is not None]
        merged.damaged += len(rows) - len(usable)
        merged.files += target.write(partial(_put_files, rows=usable))


def _outcomes(source: ScoreStore, shown: str) -> Iterator[list[tuple[Any, ...]]]:
    """All outcomes: sha256, scope, used, is_error, payload."""
    query = (
        "SELECT sha256, scope, used, is_error, payload FROM outcomes "
        "WHERE (sha256, scope) > (?, ?) ORDER BY sha256, scope LIMIT ?"
    )
    last: tuple[Any, Any] = (b"", -1)
    while rows := _rows(source, query, (*last, _AT_ONCE), shown):
        yield rows
        last = rows[-1][:2]


def _files(source: ScoreStore, shown: str) -> Iterator[list[tuple[Any, ...]]]:
    """All files: path, sha256, used, stat."""
    query = "SELECT path, sha256, used, stat FROM files WHERE path > ? ORDER BY path LIMIT ?"
    last: Any = b""
    while rows := _rows(source, query, (last, _AT_ONCE), shown):
        yield rows
        last = rows[-1][0]


def _rows(
    source: ScoreStore, query: str, values: tuple[Any, ...], shown: str
) -> list[tuple[Any, ...]]:
    with _readable_errors(shown):
        return source.read(lambda connection: connection.execute(query, values).fetchall())


def _put_files(connection: sqlite3.Connection, rows: list[tuple[Any, ...]]) -> int:
    before = connection.total_changes
    connection.executemany("INSERT OR IGNORE INTO files VALUES (?, ?, ?, ?)", rows)
    return connection.total_changes - before


def _is_outcome(digest: object, scope: bytes, payload: object) -> bool:
    return isinstance(digest, bytes) and unpack_outcome(digest, scope, payload) is not None


def _scope_ids(target: ScoreStore, scopes: dict[int, tuple[bytes, object]]) -> dict[bytes, int]:
    """The row ids of the scopes in the target, which are added where they are new."""

    def work(connection: sqlite3.Connection) -> dict[bytes, int]:
        connection.executemany(
            "INSERT INTO scopes (digest, facts) VALUES (?, ?) ON CONFLICT (digest) DO UPDATE "
            "SET facts = coalesce(facts, excluded.facts)",
            list(scopes.values()),
        )
        return dict(connection.execute("SELECT digest, id FROM scopes").fetchall())

    return target.write(work)


def _put(
    connection: sqlite3.Connection,
    rows: list[tuple[Any, ...]],
    scopes: dict[int, tuple[bytes, object]],
    ids: dict[bytes, int],
    merged: MergedState,
) -> None:
    """Add outcomes to the target."""
    for digest, scope, used, is_error, payload in rows:
        scope_digest = scopes[scope][0]
        key = (digest, ids[scope_digest])
        query = "SELECT payload FROM outcomes WHERE sha256 = ? AND scope = ?"
        there = connection.execute(query, key).fetchone()
        before = unpack_outcome(digest, scope_digest, there[0]) if there else None
        if before is None:  # or a damaged one, which is none
            merged.scores += 1
            connection.execute(
                "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?, ?)",
                (*key, used, is_error, payload),
            )
            continue
        after = unpack_outcome(digest, scope_digest, payload)
        merged.known += 1
        merged.conflicts += after is not None and before.result != after.result
        connection.execute(
            "UPDATE outcomes SET used = max(used, ?) WHERE sha256 = ? AND scope = ?", (used, *key)
        )


# Runs ---------------------------------------------------------------------------------------------


def _add_runs(
    source: Ledger, target: Ledger, folder: Path, merged: MergedState, shown: str
) -> None:
    """Add records of runs with their policies, and measurements of speed."""

    def read(connection: sqlite3.Connection) -> dict[str, list[tuple[Any, ...]]]:
        there = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_schema").fetchall()
        }
        queries = {
            "runs": _READ_RUNS,
            "run_targets": "SELECT target, run FROM run_targets",
            "policies": "SELECT sha256, name, toml FROM policies",
            "benches": "SELECT ended, host, facts, speed FROM benches",
        }
        return {
            table: connection.execute(query).fetchall() if table in there or table == "runs" else []
            for table, query in queries.items()
        }

    with _readable_errors(shown):
        tables = source.read(read)
    runs, alive = [], set()
    for row in tables["runs"]:
        run, ended = row[:2]
        if ended is None and isinstance(run, str) and liveness.is_alive(folder, run):
            alive.add(run)
        else:
            runs.append(row)

    def write(connection: sqlite3.Connection) -> int:
        count = "SELECT count(*) FROM runs"
        (before,) = connection.execute(count).fetchone()
        connection.executemany(_ADD_RUN, runs)
        connection.executemany(
            "INSERT OR IGNORE INTO run_targets (target, run) VALUES (?, ?)",
            [row for row in tables["run_targets"] if row[1] not in alive],
        )
        connection.executemany(
            "INSERT OR IGNORE INTO policies (sha256, name, toml) VALUES (?, ?, ?)",
            tables["policies"],
        )
        connection.executemany(
            "INSERT INTO benches (ended, host, facts, speed) SELECT ?1, ?2, ?3, ?4 "
            "WHERE NOT EXISTS (SELECT 1 FROM benches WHERE ended = ?1 AND host = ?2)",
            tables["benches"],
        )
        (after,) = connection.execute(count).fetchone()
        return int(after) - int(before)

    merged.runs += target.write(write)
    merged.alive += len(alive)


_READ_RUNS = """
SELECT id, ended, status, died, message, started, updated, host, pid, user, version, command,
    inputs, targets, outputs, facts, counts
FROM runs ORDER BY started, rowid
"""

# A run that was still going on when it was added before may have ended since.
_ADD_RUN = """
INSERT INTO runs (id, ended, status, died, message, started, updated, host, pid, user, version,
    command, inputs, targets, outputs, facts, counts)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET ended = excluded.ended, status = excluded.status,
    died = excluded.died, message = excluded.message, updated = excluded.updated,
    outputs = excluded.outputs, facts = excluded.facts, counts = excluded.counts
WHERE (runs.ended IS NULL OR runs.died) AND excluded.ended IS NOT NULL
"""


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
