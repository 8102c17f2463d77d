"""Who has which image: two reviewers on one queue never get the same."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from moderate.errors import OutputError
from moderate.folders import user_state
from moderate.state.database import Database, UnavailableError
from moderate.state.filesystems import of_several_machines
from moderate.text import printable

log = logging.getLogger(__name__)

LEASE_SECONDS = 300.0
"""How long an image is kept for somebody who does not answer: the browser asks for more in time."""

_MIGRATIONS = (
    "CREATE TABLE lease (row INTEGER PRIMARY KEY, reviewer TEXT NOT NULL, until REAL NOT NULL);"
    "CREATE INDEX lease_reviewer ON lease (reviewer);",
)


class Leases:
    """Leases of rows in a SQLite file, shared by all servers of a queue.

    `clock` gives seconds since 1970, which all processes of a machine share. Every method raises
    OutputError where it cannot be used.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        with _told():
            self._database = Database(_on_this_machine(path), _MIGRATIONS)
        self._clock = clock

    def take(self, rows: Iterable[int], reviewer: str, count: int) -> list[int]:
        """Lease the first `count` of these rows that nobody else has, in their order.

        What the reviewer has already is among them, and is kept for longer.
        """
        if count < 1:
            return []

        def work(connection: sqlite3.Connection) -> list[int]:
            now = self._clock()
            found = connection.execute("SELECT row, reviewer FROM lease WHERE until > ?", [now])
            others = {row for row, holder in found if holder != reviewer}
            taken = []
            for row in rows:
                if row not in others:
                    taken.append(row)
                    if len(taken) == count:
                        break
            connection.executemany(
                "INSERT OR REPLACE INTO lease VALUES (?, ?, ?)",
                [(row, reviewer, now + LEASE_SECONDS) for row in taken],
            )
            return taken

        with _told():
            return self._database.write(work)

    def holds(self, row: int, reviewer: str) -> bool:
        """Whether the reviewer has the row, or nobody has: then it is leased now."""
        return self.take([row], reviewer, 1) == [row]

    def give_back(self, rows: Iterable[int], reviewer: str) -> None:
        """End leases of the reviewer."""
        pairs = [(row, reviewer) for row in rows]
        with _told():
            self._database.write(
                lambda connection: connection.executemany(
                    "DELETE FROM lease WHERE row = ? AND reviewer = ?", pairs
                )
            )

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def _on_this_machine(path: Path) -> Path:
    """The file that leases are kept in: another one where several machines may share `path`.

    SQLite is not safe there. The user's servers on this machine still share the other one.
    """
    kind = of_several_machines(path.parent)
    folder = user_state()
    if kind is None or folder is None:  # without a home, opening the file says what is wrong
        return path
    name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]
    log.warning(
        "%s is on %s, where SQLite is not safe: who has which image is kept on this machine alone, "
        "so let one machine serve this queue",
        printable(str(path.parent)),
        kind,
    )
    return folder / "leases" / f"{name}.sqlite3"


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Errors of the file as those that users are told in a line."""
    try:
        yield
    except UnavailableError as error:
        raise OutputError(f"cannot keep who has which image: {error}") from error
