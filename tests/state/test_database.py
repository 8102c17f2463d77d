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
from moderate.state.database import (
    BusyError,
    Database,
    MisplacedError,
    UnavailableError,
    default_folder,
)
from tests.support import passthrough
from tests.support.patience import PATIENCE

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
    with pytest.raises(MisplacedError, match="File exists"):
        Database(tmp_path / "file" / "x.sqlite3", (ONE,))
    with pytest.raises(MisplacedError, match="null"):
        Database(tmp_path / "a\0b" / "x.sqlite3", (ONE,))
    (tmp_path / "x.sqlite3").mkdir()
    with pytest.raises(MisplacedError, match="Is a directory"):
        Database(tmp_path / "x.sqlite3", (ONE,))


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE things DROP COLUMN name",
        "ALTER TABLE things RENAME COLUMN name TO other",
        "DROP TABLE things",
    ],
)
def test_tables_that_are_not_those_of_the_schema_are_put_aside(tmp_path: Path, change: str) -> None:
    path = tmp_path / "x.sqlite3"
    database = Database(path, (ONE,))
    fill(database, 3)
    database.write(lambda c: c.execute(change))
    assert count(database) == 0
    fill(database, 2)
    database.close()
    assert count(Database(path, (ONE,))) == 2
    assert len(aside(tmp_path)) == 1


def test_a_damaged_text_does_not_keep_the_rest_from_being_read(tmp_path: Path) -> None:
    database = Database(tmp_path / "x.sqlite3", (ONE,))
    database.write(lambda c: c.execute("INSERT INTO things (name) VALUES (CAST(x'61ff' AS TEXT))"))
    assert database.read(lambda c: c.execute("SELECT name FROM things").fetchall()) == [
        ("a\ufffd",)
    ]


# Where memory cannot be shared


# A kernel that refuses writable shared mappings of files, as 9p and some kinds of FUSE do.
_WITHOUT_SHARED_MEMORY = """
import errno, os, sys
from pathlib import Path
from moderate.decode import sandbox, seccomp
from moderate.decode.seccomp import _op
from moderate.state.database import Database

number = seccomp._MMAP[seccomp._MACHINES[os.uname().machine][0]]
allow = _op(seccomp._RETURN, seccomp._ALLOW)
program = [_op(seccomp._LOAD, seccomp._NUMBER), _op(seccomp._IF_EQUAL, number, 1, 0), allow]
for argument, mask, wanted in ((3, 0x2F, 0x01), (2, 0x02, 0x02)):  # MAP_SHARED, PROT_WRITE
    program += [
        _op(seccomp._LOAD, seccomp._FIRST_ARGUMENT + 8 * argument), _op(seccomp._AND, mask),
        _op(seccomp._IF_EQUAL, wanted, 1, 0), allow,
    ]
program.append(_op(seccomp._RETURN, seccomp._ERRNO | errno.ENODEV))
sandbox.decoder_filter = lambda machine, pid: b"".join(program)
assert sandbox._prctl(38, 1) and sandbox._seccomp()

database = Database(Path(sys.argv[1]), (sys.argv[2],))
for _ in range(int(sys.argv[3])):
    database.write(lambda c: c.execute("INSERT INTO things (name) VALUES ('x')"))
print(*database.read(lambda c: c.execute("SELECT count(*) FROM things").fetchone()))
print(*database.read(lambda c: c.execute("PRAGMA journal_mode").fetchone()))
"""


_WRITE_ONE = """
import os, sys
from pathlib import Path
from moderate.state.database import Database
database = Database(Path(sys.argv[1]), (sys.argv[2],))
database.write(lambda c: c.execute("INSERT INTO things (name) VALUES ('x')"))
os._exit(9)
"""


def test_without_shared_memory_there_is_a_rollback_journal(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite3"

    def there(number: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _WITHOUT_SHARED_MEMORY, str(path), ONE, str(number)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    others = [there(20), there(20)]  # at once
    for other in others:
        said, _ = other.communicate(timeout=PATIENCE)
        assert (other.returncode, said.split()[1]) == (0, "delete")
    # With such memory again, and back: what was in WAL mode can be read, and stays whole.
    here = Database(path, (ONE,))
    assert count(here) == 40
    assert here.read(lambda c: c.execute("PRAGMA journal_mode").fetchone()) == ("wal",)
    here.close()
    killed = subprocess.run([sys.executable, "-c", _WRITE_ONE, str(path), ONE], check=False)
    assert killed.returncode == 9
    assert Path(f"{path}-wal").stat().st_size, "a log is left"
    assert there(1).communicate(timeout=PATIENCE)[0].split() == ["42", "delete"]
    assert not aside(tmp_path)


@pytest.mark.skipif(not passthrough.can_mount(), reason="no FUSE for this user")
def test_a_file_system_of_several_machines_has_no_shared_memory(tmp_path: Path) -> None:
    """What cannot be written there at all is said with the way out."""
    (tmp_path / "shown").mkdir()
    with passthrough.passthrough(tmp_path / "shown", tmp_path / "point"):
        (tmp_path / "shown" / "x.sqlite3").write_bytes(b"")
        with pytest.raises(UnavailableError, match="it is on fuse, use --state DIR"):
            Database(tmp_path / "point" / "x.sqlite3", (ONE,))


# Without a home


def test_a_user_without_a_home_has_no_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    if os.getuid() == 0:  # who can become a user that is not in the password database
        code = (
            "import os; from moderate.state.database import default_folder; "
            "os.setuid(54_321); print(default_folder())"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "None\n"), done.stderr
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere")
    assert default_folder() == Path("/somewhere/moderate")


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
    assert [other.wait(PATIENCE) for other in others] == [0, 0, 0]
    assert count(database) == 900


def test_room_is_given_back(tmp_path: Path) -> None:
    database = Database(tmp_path / "x.sqlite3", (ONE,))
    fill(database)
    database.write(lambda c: c.execute("DELETE FROM things"))
    before = database.nbytes
    database.vacuum()
    assert database.nbytes < before / 10
