"""The ledger: a record of every run with its command, what it used, and how it ended."""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
import os
import socket
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

from moderate.errors import StateError
from moderate.state import liveness
from moderate.state.database import BusyError, Database, UnavailableError
from moderate.state.masking import mask_argument, mask_command
from moderate.text import one_line, printable, utc

log = logging.getLogger(__name__)

T = TypeVar("T")

FILE = "runs.sqlite3"
LAST = "last"
"""What `find` takes for the id of the newest run."""
DIED = "the process died without a word (killed, out of memory, power loss)"

_MOST_NAMES = 200  # of a command or list of inputs: a shell may expand a pattern to a million
_MOST_MESSAGE = 1_000
_END_ATTEMPTS = 3
_MOST_BROKEN_OFF = 1_000  # runs, one after the other

# Lists and objects are JSON in ASCII, so that names that are not UTF-8 survive. A target is looked
# up by its bytes for the same reason.
_MIGRATIONS = (
    """
    CREATE TABLE runs (
        id TEXT PRIMARY KEY, status TEXT NOT NULL, died INTEGER NOT NULL, message TEXT,
        started TEXT NOT NULL, ended TEXT, updated TEXT NOT NULL,
        host TEXT NOT NULL, pid INTEGER NOT NULL, user TEXT, version TEXT NOT NULL,
        command TEXT NOT NULL, inputs TEXT NOT NULL, targets TEXT NOT NULL,
        outputs TEXT NOT NULL, facts TEXT NOT NULL, counts TEXT NOT NULL
    );
    CREATE INDEX runs_started ON runs (started);
    CREATE INDEX runs_ended ON runs (ended);
    CREATE TABLE run_targets (
        target BLOB NOT NULL, run TEXT NOT NULL, PRIMARY KEY (target, run)
    ) WITHOUT ROWID;
    CREATE TABLE policies (sha256 TEXT PRIMARY KEY, name TEXT NOT NULL, toml TEXT NOT NULL)
    """,
    """
    CREATE TABLE benches (
        ended TEXT NOT NULL, host TEXT NOT NULL, facts TEXT NOT NULL, speed TEXT NOT NULL
    );
    CREATE INDEX benches_ended ON benches (ended)
    """,
)


class RunStatus(StrEnum):
    """The state of a run, or how it ended."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run. Times are ISO 8601 in UTC with milliseconds, `ended` None while it is alive.

    id is 32 hexadecimal digits; command and inputs are masked and printable; targets are absolute
    paths or masked URIs, as asked for; outputs maps those that were written to the SHA-256 of what
    was written; facts are the audit facts, as far as they are known; counts is a JSON object.
    died says that the process ended without a word, so that others had to write down its end.
    """

    id: str
    command: tuple[str, ...]
    status: RunStatus
    died: bool
    message: str | None
    started: str
    ended: str | None
    updated: str
    host: str
    pid: int
    user: str | None
    version: str
    facts: dict[str, str]
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    outputs: dict[str, str]
    counts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BenchRecord:
    """A measurement by `moderate bench`: facts as of a run, speed as in the counts of one."""

    ended: str
    host: str
    facts: dict[str, Any]
    speed: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LedgerInfo:
    """How much there is; alive are the runs that have not ended, nbytes is on the disk."""

    runs: int
    alive: int
    oldest: str | None
    newest: str | None
    nbytes: int


class Ledger:
    """The runs of a state folder, of any number of processes.

    Opening raises UnavailableError and StateError, and so does every method but `begin`. Any
    reader records the end of runs whose process is gone.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self._folder = folder
        self._database = Database(folder / FILE, _MIGRATIONS, read_only=read_only)

    def begin(
        self,
        *,
        run_id: str,
        command: Sequence[str],
        started: datetime,
        version: str,
        inputs: Sequence[str],
        targets: Sequence[str],
        status: RunStatus = RunStatus.RUNNING,
    ) -> ActiveRun:
        """Record that a run begins; masks `command` and `inputs`. Never raises."""
        with contextlib.suppress(UnavailableError, StateError):
            self._end_dead_runs()
        now = utc(datetime.now(UTC))
        record = RunRecord(
            id=run_id,
            command=_few(mask_command(command)),
            status=status,
            died=False,
            message=None,
            started=utc(started),
            ended=None,
            updated=now,
            host=this_host(),
            pid=os.getpid(),
            user=_user(),
            version=version,
            facts={},
            inputs=_few(tuple(mask_argument(name) for name in inputs)),
            targets=tuple(targets),
            outputs={},
            counts={},
        )
        return ActiveRun(self._folder, self._database, record)

    def runs(self, limit: int | None = None) -> list[RunRecord]:
        """The newest `limit` runs, newest first."""
        return self._select(
            "SELECT runs.* FROM runs ORDER BY started DESC, rowid DESC LIMIT ?",
            (-1 if limit is None else limit,),
        )

    def find(self, prefix: str) -> RunRecord:
        """The run whose id starts with `prefix`, or the newest for `last`.

        Raises StateError where there is none, or several.
        """
        name = printable(prefix)
        if prefix == LAST:
            records = self.runs(1)
        else:
            known = prefix.lower().encode("ascii", "replace").decode()
            records = self._select(
                "SELECT runs.* FROM runs WHERE substr(id, 1, ?) = ? "
                "ORDER BY started DESC, rowid DESC LIMIT 4",
                (len(known), known),
            )
        if not records and prefix == LAST:
            raise StateError("no run is recorded yet")
        if not records or not prefix:
            raise StateError(f"no run {name or 'without an id'} is known; see 'moderate runs list'")
        if len(records) > 1:
            ids = ", ".join(record.id[: max(12, len(prefix) + 4)] for record in records[:3])
            more = ", …" if len(records) > 3 else ""
            raise StateError(f"several runs start with {name}: {ids}{more}; give more of the id")
        return records[0]

    def last_of(self, target: str, exclude: str | None = None) -> RunRecord | None:
        """The newest run that began to work on `target`, however it ended.

        A run that was refused before that has no facts, and does not count.
        """
        records = self._select(
            "SELECT runs.* FROM runs JOIN run_targets ON run = id WHERE target = ? "
            "AND id IS NOT ? AND facts <> '{}' ORDER BY started DESC, runs.rowid DESC LIMIT 1",
            (_key(target), exclude),
        )
        return records[0] if records else None

    def unfinished_since(self, run_id: str) -> str | None:
        """When the first of the runs began that broke off, had the inputs of this run, and came
        after the last one of those inputs that completed. None where there is none. A run that was
        refused before it began to work has no facts, and does not count.
        """
        records = self._select(
            "SELECT runs.* FROM runs JOIN runs AS own ON own.id = ? WHERE runs.id <> own.id "
            "AND runs.inputs = own.inputs AND runs.started <= own.started "
            "AND runs.facts <> '{}' ORDER BY runs.started DESC, runs.rowid DESC LIMIT ?",
            (run_id, _MOST_BROKEN_OFF),
        )
        ended = [record for record in records if record.ended is not None or record.died]
        broke_off = takewhile(lambda record: record.status is not RunStatus.COMPLETED, ended)
        return min((record.started for record in broke_off), default=None)

    def policy(self, sha256: str) -> tuple[str, str] | None:
        """Name and TOML text of a policy that a run used."""
        row = self._database.read(
            lambda connection: connection.execute(
                "SELECT name, toml FROM policies WHERE sha256 = ?", (sha256,)
            ).fetchone()
        )
        return (row[0], row[1]) if row and all(isinstance(x, str) for x in row) else None

    def add_bench(self, facts: Mapping[str, str], speed: Mapping[str, Any]) -> None:
        """Keep what a bench on this machine has measured."""
        now = utc(datetime.now(UTC))
        values = (now, this_host(), json.dumps(dict(facts)), json.dumps(dict(speed)))
        self._database.write(
            lambda connection: connection.execute("INSERT INTO benches VALUES (?, ?, ?, ?)", values)
        )

    def benches(self, limit: int) -> list[BenchRecord]:
        """The newest `limit` benches, newest first; none of a ledger from before there were any."""

        def work(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
            table = "SELECT 1 FROM sqlite_schema WHERE name = 'benches'"
            if not connection.execute(table).fetchone():
                return []
            query = "SELECT ended, host, facts, speed FROM benches ORDER BY ended DESC LIMIT ?"
            return connection.execute(query, (limit,)).fetchall()

        return [bench for row in self._database.read(work) if (bench := _bench(row))]

    def info(self) -> LedgerInfo:
        """How much is stored."""
        self._end_dead_runs()
        runs, alive, oldest, newest = self._database.read(
            lambda connection: connection.execute(
                "SELECT count(*), total(ended IS NULL), min(started), max(started) FROM runs"
            ).fetchone()
        )
        first, last = (time if isinstance(time, str) else None for time in (oldest, newest))
        return LedgerInfo(runs, int(alive), first, last, self._database.nbytes)

    def prune(self, before: str) -> int:
        """Forget the runs that ended before this time; returns how many."""
        return self._forget(before)

    def clear(self) -> int:
        """Forget every run that has ended; returns how many."""
        return self._forget(None)

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` makes of the file, which it only reads."""
        return self._database.read(work)

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` makes of the file, in one transaction."""
        return self._database.write(work)

    def vacuum(self) -> None:
        """Return free space to the file system."""
        self._database.vacuum()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _forget(self, before: str | None) -> int:
        self._end_dead_runs()
        liveness.remove_abandoned(self._folder)

        def work(connection: sqlite3.Connection) -> int:
            gone = connection.execute(
                "DELETE FROM runs WHERE ended IS NOT NULL AND (:before IS NULL OR ended < :before)",
                {"before": before},
            ).rowcount
            connection.execute("DELETE FROM run_targets WHERE run NOT IN (SELECT id FROM runs)")
            connection.execute(
                "DELETE FROM benches WHERE :before IS NULL OR ended < :before", {"before": before}
            )
            connection.execute(
                "DELETE FROM policies WHERE NOT EXISTS "
                "(SELECT 1 FROM runs WHERE CASE WHEN json_valid(facts) THEN "
                "json_extract(facts, '$.policy_sha256') END = sha256)"
            )
            return gone

        return self._database.write(work)

    def _select(self, query: str, values: tuple[object, ...]) -> list[RunRecord]:
        dead = self._end_dead_runs()

        def work(connection: sqlite3.Connection) -> list[dict[str, Any]]:
            cursor = connection.execute(query, values)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

        rows = self._database.read(work)
        records = [record for record in map(_record, rows) if record]
        if len(records) < len(rows):
            log.warning(
                "%d records of runs are left out: they are damaged, or a newer version wrote them",
                len(rows) - len(records),
            )
        return [_died(record) if record.id in dead else record for record in records]

    def _end_dead_runs(self) -> set[str]:
        """End the records of runs that are not alive; returns the ids of those that stayed open."""
        not_ended = self._database.read(
            lambda connection: connection.execute(
                "SELECT id FROM runs WHERE ended IS NULL"
            ).fetchall()
        )
        dead = [
            run_id
            for (run_id,) in not_ended
            if not (isinstance(run_id, str) and liveness.is_alive(self._folder, run_id))
        ]
        if not dead:
            return set()

        def work(connection: sqlite3.Connection) -> None:
            # A run that ended in the meantime has recorded its end itself.
            connection.executemany(
                "UPDATE runs SET status = ?, died = 1, message = ?, ended = updated "
                "WHERE id = ? AND ended IS NULL",
                [(RunStatus.FAILED, DIED, run_id) for run_id in dead],
            )

        try:
            self._database.write(work)
        except UnavailableError:
            return set(dead)
        liveness.remove_abandoned(self._folder)
        return set()


class ActiveRun:
    """The record of the run that this process is, for the thread that runs it.

    It never disturbs the run: where the ledger cannot be written, one warning says so. Every write
    stores the complete record, in case it was lost with the file.
    """

    def __init__(self, folder: Path, database: Database, record: RunRecord) -> None:
        self._folder = folder
        self._database = database
        self._record = record
        self._policies: dict[str, tuple[str, str]] = {}
        self._warned = False
        self._closed = False
        self._alive: int | None = None
        try:
            self._alive = liveness.hold(folder, record.id)
        except OSError as error:
            self._warn(f"{printable(str(folder))}: {error.strerror}")
            return
        self._save(1)

    @property
    def id(self) -> str:
        """The run's id."""
        return self._record.id

    def update(
        self,
        *,
        status: RunStatus | None = None,
        facts: Mapping[str, str] | None = None,
        counts: Mapping[str, Any] | None = None,
    ) -> None:
        """Record what is known so far: facts are added, counts replaced."""
        self._change(
            1,
            status=status or self._record.status,
            facts={**self._record.facts, **(facts or {})},
            counts=self._record.counts if counts is None else dict(counts),
        )

    def save_policy(self, sha256: str, name: str, toml_text: str) -> None:
        """Store the policy that the run uses, so that its decisions can be explained later."""
        self._policies[sha256] = (printable(name), toml_text)
        self._change(1)

    def end(
        self,
        status: RunStatus,
        message: str | None = None,
        *,
        counts: Mapping[str, Any] | None = None,
        outputs: Mapping[str, str] | None = None,
    ) -> None:
        """Record that and how the run ended. Only the first call counts."""
        if self._closed:
            return
        self._change(
            _END_ATTEMPTS,
            status=status,
            message=one_line(message, _MOST_MESSAGE) if message else None,
            ended=utc(datetime.now(UTC)),
            counts=self._record.counts if counts is None else dict(counts),
            outputs=dict(outputs or {}),
        )
        self._closed = (
            True  # only now: a signal may interrupt this call, and the next one has to count
        )
        if self._alive is not None:
            liveness.release(self._folder, self.id, self._alive)

    def _change(self, attempts: int, **changes: Any) -> None:
        if not self._closed:
            self._record = replace(self._record, **changes, updated=utc(datetime.now(UTC)))
            self._save(attempts)

    def _save(self, attempts: int) -> None:
        if self._alive is None:  # without a lock, readers would take the run for dead
            return
        policies = [(digest, *policy) for digest, policy in self._policies.items()]

        def work(connection: sqlite3.Connection) -> None:
            _write(connection, self._record)
            connection.executemany("INSERT OR IGNORE INTO policies VALUES (?, ?, ?)", policies)

        for left in reversed(range(attempts)):
            try:
                self._database.write(work)
            except BusyError as error:
                if attempts > 1 and not left:  # what comes next would have been the next attempt
                    self._warn(str(error))
            except (UnavailableError, StateError) as error:
                self._warn(str(error))
                return
            else:
                return

    def _warn(self, reason: str) -> None:
        if not self._warned:
            log.warning("the record of this run cannot be kept (%s); the run goes on", reason)
        self._warned = True


_COLUMNS = (
    *("id", "command", "status", "died", "message", "started", "ended", "updated", "host", "pid"),
    *("user", "version", "facts", "inputs", "targets", "outputs", "counts"),
)
_KEPT_FROM_THE_START = {"id", "started", "host", "pid", "user", "version", "command", "inputs"}
_CHANGING = [name for name in _COLUMNS if name not in _KEPT_FROM_THE_START | {"targets"}]
_UPDATE = f"UPDATE runs SET {', '.join(f'{name} = :{name}' for name in _CHANGING)} WHERE id = :id"  # noqa: S608
_INSERT = (
    f"INSERT INTO runs ({', '.join(_COLUMNS)}) "  # noqa: S608
    f"VALUES ({', '.join(f':{name}' for name in _COLUMNS)})"
)


def _write(connection: sqlite3.Connection, record: RunRecord) -> None:
    values = {name: _stored(getattr(record, name)) for name in _COLUMNS}
    if connection.execute(_UPDATE, values).rowcount:
        return
    connection.execute(_INSERT, values)
    connection.executemany(
        "INSERT OR IGNORE INTO run_targets (target, run) VALUES (?, ?)",
        [(_key(target), record.id) for target in record.targets],
    )


def _stored(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | tuple) else value


def _record(row: dict[str, Any]) -> RunRecord | None:
    """The record of a row; None for what this version cannot have written."""
    try:
        lists = {name: tuple(json.loads(row[name])) for name in ("command", "inputs", "targets")}
        objects = {name: json.loads(row[name]) for name in ("facts", "outputs", "counts")}
        texts = [row[name] for name in ("id", "started", "updated", "host", "version")]
        texts += [row[name] for name in ("message", "ended", "user") if row[name] is not None]
        texts += [text for names in lists.values() for text in names]
        texts += [text for name in ("facts", "outputs") for text in objects[name].values()]
        if not all(isinstance(text, str) for text in texts):
            return None
        if not isinstance(objects["counts"], dict) or not isinstance(row["pid"], int):
            return None
        for moment in (row["started"], row["updated"], row["ended"] or row["updated"]):
            if datetime.fromisoformat(moment).tzinfo is None:
                return None
        status = RunStatus(row["status"])
        return RunRecord(**row | lists | objects | {"status": status, "died": bool(row["died"])})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _bench(row: tuple[Any, ...]) -> BenchRecord | None:
    """The record of a row; None for what this version cannot have written."""
    try:
        ended, host = str(row[0]), str(row[1])
        facts, speed = json.loads(row[2]), json.loads(row[3])
        is_moment = datetime.fromisoformat(ended).tzinfo is not None
    except (ValueError, TypeError, RecursionError):
        return None
    if not (is_moment and isinstance(facts, dict) and isinstance(speed, dict)):
        return None
    return BenchRecord(ended, host, facts, speed)


def _died(record: RunRecord) -> RunRecord:
    """The record of a run that is no longer alive, as if its end had been recorded."""
    if record.ended:
        return record
    return replace(record, status=RunStatus.FAILED, died=True, message=DIED, ended=record.updated)


def _key(target: str) -> bytes:
    return target.encode("utf-8", "surrogatepass")


def _few(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names, or the first and the last of very many."""
    if len(names) <= _MOST_NAMES:
        return names
    half = _MOST_NAMES // 2
    return (*names[:half], f"… {len(names) - 2 * half} more …", *names[-half:])


def this_host() -> str:
    """What the ledger calls this machine."""
    return printable(socket.gethostname())


def _user() -> str | None:
    try:
        return printable(getpass.getuser())
    except (OSError, KeyError):  # a container's user without a name
        return None
