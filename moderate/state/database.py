"""A SQLite file of the state folder: opened, migrated, shared, and put aside when it is broken."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from moderate.errors import StateError
from moderate.folders import user_state
from moderate.locks import lock_file
from moderate.state.filesystems import FileSystem, file_system, of_several_machines
from moderate.text import printable

log = logging.getLogger(__name__)

T = TypeVar("T")

_ATTEMPTS = 10  # to open it
_BUSY_SECONDS = 2.0  # a wait inside SQLite cannot be interrupted by a signal
_ASIDE_SECONDS = 10.0  # to wait for another process that puts the same file aside
_WAL_PAGES = 16_384  # 64 MB
_APPLICATION_ID = 0x4D4F4452  # "MODR": what `file` and a careful reader find in the header
_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
# Codes of SQLite without shared memory. They have other causes too, which then show again.
_NO_SHARED_MEMORY = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL}
# SQLite's messages for statements on tables that do not match the schema.
_OTHER_TABLES = (
    *("no such table", "no such column", "has no column named", "values were supplied"),
    "unsupported file format",
)
# The folder's path is wrong, or not for this user; any other error is the system's.
_MISPLACED = {
    *(errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.EACCES, errno.EPERM, errno.EINVAL),
}


class UnavailableError(Exception):
    """The file cannot be read or written for now or for good (disk full, read-only, no folder)."""


class MisplacedError(UnavailableError):
    """The file cannot exist there: its folder is not a folder, or belongs to somebody else."""


class SharedError(MisplacedError):
    """The file would be on a file system of several machines, where SQLite is not safe."""


class BusyError(UnavailableError):
    """Another process is writing: worth another attempt."""


def default_folder() -> Path | None:
    """Where the state is kept by default; None for a user without a home."""
    return user_state()


class Database:
    """A SQLite file, used by the threads of this process one at a time.

    It is in WAL mode, which needs memory that all its users share: without such memory, it has a
    rollback journal. On a file system of several machines it is read only. `migrations` are
    scripts, one for each version of the schema; those that a file lacks are run when it is opened.
    A file that turns out to be broken, at opening or later, is put aside with a warning and
    replaced by an empty one.
    Other users of the machine cannot read it. With read_only, nothing is written or created: not
    the file, nor anything beside it.

    Raises UnavailableError where the file cannot be used, SharedError among them, StateError where
    a newer version of this program wrote it.
    """

    def __init__(self, path: Path, migrations: Sequence[str], *, read_only: bool = False) -> None:
        self.path = path
        self._migrations = migrations
        self._read_only = read_only
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._on: FileSystem | None = None
        with self._lock:
            self._open()

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns when given the connection, in autocommit mode.

        It may be called twice, for a broken file. Raises UnavailableError and BusyError.
        """
        return self._twice(work)

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The same in one transaction, kept if `work` returns and undone if it raises."""
        if self._read_only:
            raise UnavailableError(f"{printable(str(self.path))} was opened for reading only")
        with self._lock:
            if self._connection and not self._is_ours():
                self._close()  # another process has put it aside, or somebody has removed it

        def transaction(connection: sqlite3.Connection) -> T:
            if connection.in_transaction:  # a signal arrived between two lines, here or below
                connection.execute("ROLLBACK")
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.DatabaseError):
                    connection.execute("ROLLBACK")
                raise
            return result

        return self._twice(transaction)

    def _twice(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            try:
                return work(self._connected())
            except sqlite3.DatabaseError as error:
                if self._read_only or not _is_broken(error):
                    raise self._unavailable(error) from error
                self._put_aside()
            try:
                self._open()
                return work(self._connected())
            except sqlite3.DatabaseError as error:
                raise self._unavailable(error) from error

    def close(self) -> None:
        """Close the file. May be called again."""
        with self._lock:
            self._close()

    @property
    def nbytes(self) -> int:
        """Bytes on the disk."""
        files = [Path(f"{self.path}{suffix}") for suffix in ("", "-wal")]
        return sum(file.stat().st_size for file in files if file.exists())

    def vacuum(self) -> None:
        """Return the space of deleted rows to the file system. Raises as `write` does."""
        with self._lock:
            try:
                connection = self._connected()
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except sqlite3.DatabaseError as error:
                raise self._unavailable(error) from error

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._open()
        assert self._connection is not None
        return self._connection

    def _open(self) -> None:
        try:
            self._connect_patiently()
        except sqlite3.DatabaseError as error:
            self._close()
            if self._read_only or not _is_broken(error):
                raise self._unavailable(error) from error
            self._put_aside()
            try:
                self._connect()
            except sqlite3.DatabaseError as again:
                self._close()
                raise self._unavailable(again) from again
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            reason = error.strerror if isinstance(error, OSError) else str(error)
            misplaced = not isinstance(error, OSError) or error.errno in _MISPLACED
            kind = MisplacedError if misplaced else UnavailableError
            raise kind(f"{printable(str(self.path))}: {reason}") from error
        except BaseException:
            self._close()
            raise

    def _connect_patiently(self) -> None:
        """Connect, with retries: SQLite's timeout does not cover processes that create the file."""
        for _ in range(_ATTEMPTS):
            try:
                return self._connect()
            except sqlite3.DatabaseError as error:
                if _code(error) & 0xFF not in _BUSY:
                    raise
                self._close()
                time.sleep(0.05)
        return self._connect()

    def _connect(self) -> None:
        if self._read_only:
            self._connect_to_read()
            return
        if kind := of_several_machines(self.path.parent):
            raise SharedError(
                f"{printable(str(self.path))} is on {kind}, which several machines may share, and "
                "SQLite is not safe there"
            )
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # SQLite would let the umask decide who may read it; the files beside it get the same mode.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._inode = self.path.stat().st_ino
        self._connection = connection = self._sqlite()
        self._on = file_system(self.path)
        if not (self._on.local and _uses_shared_memory(connection)):
            self._connection = connection = self._connect_alone(connection)
        connection.execute("PRAGMA cache_size = -16384")
        connection.execute("PRAGMA temp_store = MEMORY")
        if self._checked_version(connection) < len(self._migrations):
            self._migrate(connection)
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()

    def _connect_to_read(self) -> None:
        """A reader of a file in WAL mode makes files beside it, unless it takes it for immutable.

        It may, where there is no journal: nobody writes then, and everything is in the file. If
        somebody begins to, this reader finds damage at worst, which the checksums of records show.
        """
        journals = [Path(f"{self.path}{suffix}") for suffix in ("-wal", "-journal")]
        at_rest = not any(path.exists() and path.stat().st_size for path in journals)
        name = quote(os.fsencode(os.path.abspath(self.path)))
        self._inode = self.path.stat().st_ino
        self._connection = connection = self._sqlite(
            f"file:{name}?{'immutable=1' if at_rest else 'mode=ro'}"
        )
        self._checked_version(connection)

    def _checked_version(self, connection: sqlite3.Connection) -> int:
        """The version of the schema. Raises StateError for one that is newer than this program."""
        version = _version(connection)
        if version and _pragma(connection, "application_id") != _APPLICATION_ID:
            raise _ForeignError("its header is not ours")
        if version > len(self._migrations):
            raise StateError(
                f"{printable(str(self.path))} was written by a newer version of moderate (schema "
                f"{version}, this one knows {len(self._migrations)}); update, or use another "
                "--state DIR"
            )
        return version

    def _sqlite(self, uri: str | None = None) -> sqlite3.Connection:
        connection = sqlite3.connect(
            uri or self.path,
            timeout=_BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            uri=uri is not None,
        )
        # A damaged text must not keep the rest from being read.
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        return connection

    def _connect_alone(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        """A connection to the same file with a rollback journal, for want of shared memory.

        Closes `connection`, which may have got halfway into WAL mode.
        """
        connection.close()
        connection = self._sqlite()
        # The lock held alone, SQLite needs no shared memory even for a file that is in WAL mode.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA locking_mode = NORMAL")
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # releases the lock
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            for number in range(_version(connection), len(self._migrations)):
                for statement in self._migrations[number].split(";"):
                    if statement.strip():
                        connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {len(self._migrations)}")
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _put_aside(self) -> None:
        """Rename the broken file, unless another process has replaced it by now."""
        self._close()
        try:
            with lock_file(f"{self.path}.lock", wait_seconds=_ASIDE_SECONDS):
                if self.path.exists() and not self._is_ours():
                    return
                stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
                aside = f"{self.path}.corrupt-{stamp}"
                # A journal left behind would be rolled back into the file that comes next.
                for suffix in ("-wal", "-journal", ""):
                    with contextlib.suppress(FileNotFoundError):
                        os.rename(f"{self.path}{suffix}", f"{aside}{suffix}")
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{self.path}-shm")
        except OSError as error:
            raise UnavailableError(
                f"{printable(str(self.path))} is damaged and cannot be put aside: {error}"
            ) from error
        log.warning(
            "%s is damaged; it was put aside as %s, and a fresh one takes its place",
            printable(str(self.path)),
            printable(os.path.basename(aside)),
        )

    def _unavailable(self, error: sqlite3.DatabaseError) -> UnavailableError:
        kind = BusyError if _code(error) & 0xFF in _BUSY else UnavailableError
        reason = "the disk is full" if _is_full(self.path) else str(error)
        if self._on and not self._on.local:
            reason += f"; it is on {self._on.name}, use --state DIR with a folder on a local disk"
        return kind(f"{printable(str(self.path))}: {reason}")

    def _is_ours(self) -> bool:
        try:
            return os.stat(self.path).st_ino == self._inode
        except OSError:
            return False

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection:
            with contextlib.suppress(sqlite3.DatabaseError):
                connection.close()


class _ForeignError(sqlite3.DatabaseError):
    """A header that no version of this program wrote."""


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _version(connection: sqlite3.Connection) -> int:
    return _pragma(connection, "user_version")


def _code(error: sqlite3.DatabaseError) -> int:
    # The low byte of an extended code is the code itself.
    return getattr(error, "sqlite_errorcode", None) or 0


def _is_broken(error: sqlite3.DatabaseError) -> bool:
    if isinstance(error, _ForeignError) or _code(error) & 0xFF in _BROKEN:
        return True
    return any(sign in str(error) for sign in _OTHER_TABLES)


def _uses_shared_memory(connection: sqlite3.Connection) -> bool:
    """Put the file into WAL mode; False where the system has no shared memory for that.

    Raises sqlite3.DatabaseError for what another journal would not help.
    """
    try:
        if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != ("wal",):
                return False
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.DatabaseError as error:
        if _code(error) & 0xFF not in _NO_SHARED_MEMORY:
            raise
        return False
    # Commits survive the death of the process; those of the last moments, not a power loss.
    connection.execute("PRAGMA synchronous = NORMAL")
    # Each checkpoint waits for the disk: few large ones are better.
    connection.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_PAGES * 4096}")
    return True


def _is_full(path: Path) -> bool:
    """SQLite calls it an I/O error, too."""
    try:
        return os.statvfs(path.parent).f_bavail == 0
    except OSError:
        return False
