"""A file that is migrated, shared by processes and threads, and put aside when it is broken."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from moderate.errors import StateError
from moderate.state.database import BusyError, Database, UnavailableError

ONE = "CREATE TABLE things (id INTEGER PRIMARY KEY, name BLOB)"
TWO = "ALTER TABLE things ADD COLUMN size INTEGER; CREATE TABLE more (id INTEGER PRIMARY KEY)"


def fill(database: Database, count: int = 5000) -> None:
    rows = [(os.urandom(200),) for _ in range(count)]
    database.write(lambda c: c.executemany("INSERT INTO things (name) VALUES (?)", rows))


def count(database: Database) -> int:
    return int(
        database.read(lambda c: c.execute("SELECT count(length(name)) FROM things").fetchone())[0]
    )


def aside(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if re.search(r"\.corrupt-[0-9TZ.]+$", file.name)]


def test_it_is_private_and_survives(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "x.sqlite3"
    database = Database(path, (ONE,))
    fill(database, 10)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for file in path.parent.iterdir():
        if file.name.startswith("x.sqlite3") and not file.name.endswith(".lock"):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    database.close()
    assert count(Database(path, (ONE,))) == 10


def test_what_raises_is_undone(tmp_path: Path) -> None:
    database = Database(tmp_path / "x.sqlite3", (ONE,))

    def work(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO things (name) VALUES ('a')")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        database.write(work)
    assert count(database) == 0
    fill(database, 3)
    assert count(database) == 3


def test_a_transaction_that_a_signal_left_open_is_undone(tmp_path: Path) -> None:
    """What its handler raises can arrive after BEGIN and before anything can undo it."""
    database = Database(tmp_path / "x.sqlite3", (ONE,))
    assert database._connection is not None
    database._connection.execute("BEGIN IMMEDIATE")
    database._connection.execute("INSERT INTO things (name) VALUES ('a')")
    fill(database, 10)
    assert count(database) == 10


def test_an_older_schema_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite3"
    old = Database(path, (ONE,))
    fill(old, 7)
    old.close()
    new = Database(path, (ONE, TWO))
    assert count(new) == 7
    assert new.read(lambda c: c.execute("SELECT size FROM things").fetchall()) == [(None,)] * 7
    new.close()
    with pytest.raises(StateError, match=r"newer version of moderate \(schema 2, this one knows 1"):
        Database(path, (ONE,))
    assert not aside(tmp_path)


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite3"
    old = Database(path, (ONE,))
    fill(old, 7)
    old.close()
    with pytest.raises(UnavailableError):
        Database(path, (ONE, TWO + "; CREATE TABLE things (id)"))
    assert count(Database(path, (ONE,))) == 7


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 100), (0, 4096), (40, 60), (4096, 8192), (30_000, 400_000)]
)
def test_a_broken_file_is_put_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, offset: int, length: int
) -> None:
    path = tmp_path / "x.sqlite3"
    database = Database(path, (ONE,))
    fill(database)
    database.close()
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xa5" * length)
    damaged = path.read_bytes()
    with caplog.at_level(logging.WARNING):
        database = Database(path, (ONE,))
        assert count(database) == 0
        fill(database, 3)
        assert count(database) == 3
    (kept,) = aside(tmp_path)
    assert kept.read_bytes() == damaged
    assert caplog.text.count("is damaged; it was put aside") == 1


def test_a_file_broken_under_way_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite3"
    first, second = Database(path, (ONE,)), Database(path, (ONE,))
    fill(first)
    first.read(lambda c: c.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
    with path.open("r+b") as file:
        file.seek(0)
        file.write(b"\xa5" * path.stat().st_size)
    second.read(lambda c: c.execute("PRAGMA shrink_memory").fetchall())
    fill(second, 2)
    assert count(second) == 2
    # The other one, on the old file still, finds the fresh one and leaves it in its place.
    fill(first, 3)
    assert count(Database(path, (ONE,))) == 5
    assert len(aside(tmp_path)) == 1


def test_a_database_of_another_program_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite3"
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 7")
        other.execute("CREATE TABLE things (theirs)")
    other.close()
    fill(Database(path, (ONE,)), 1)
    assert len(aside(tmp_path)) == 1


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="File exists"):
        Database(tmp_path / "file" / "x.sqlite3", (ONE,))


def test_another_writer_is_waited_for_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moderate.state.database._BUSY_SECONDS", 0.2)
    path = tmp_path / "x.sqlite3"
    database = Database(path, (ONE,))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(BusyError):
        fill(database, 1)
    assert count(database) == 0  # readers are not held up
    other.execute("COMMIT")
    fill(database, 1)
    assert count(database) == 1


_WRITE = """
import sys
from pathlib import Path
from moderate.state.database import BusyError, Database
database = Database(Path(sys.argv[1]), (sys.argv[2],))
for _ in range(200):
    database.write(lambda c: c.execute("INSERT INTO things (name) VALUES ('x')"))
"""


def test_processes_and_threads_share_it(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite3"
    command = [sys.executable, "-c", _WRITE, str(path), ONE]
    others = [subprocess.Popen(command) for _ in range(3)]
    database = Database(path, (ONE,))
    threads = [
        threading.Thread(target=lambda: [fill(database, 1) for _ in range(100)]) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [other.wait(60) for other in others] == [0, 0, 0]
    assert count(database) == 900


def test_room_is_given_back(tmp_path: Path) -> None:
    database = Database(tmp_path / "x.sqlite3", (ONE,))
    fill(database)
    database.write(lambda c: c.execute("DELETE FROM things"))
    before = database.nbytes
    database.vacuum()
    assert database.nbytes < before / 10
