"""The ledger: what is kept of a run, who is alive, and what a broken state does to it."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import random
import sqlite3
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from moderate.errors import StateError
from moderate.run.summary import utc
from moderate.state import liveness
from moderate.state.database import UnavailableError
from moderate.state.ledger import DIED, FILE, Ledger, RunStatus
from moderate.state.liveness import hold, is_alive, lock_path, release, remove_abandoned
from tests.support.ledgers import begin, other_run

Caplog = pytest.LogCaptureFixture
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
POLICY = "ab" * 32


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path)


def locks(folder: Path) -> list[str]:
    return sorted(os.listdir(folder / "running"))


# What broke off ----------------------------------------------------------------------------------


def test_what_a_run_finishes_is_what_broke_off_since_a_run_of_its_inputs_completed(
    ledger: Ledger,
) -> None:
    def ran(day: int, status: RunStatus, facts: bool = True, inputs: str = "photos") -> str:
        run = begin(ledger, started=LONG_AGO + timedelta(days=day), inputs=[inputs])
        if facts:
            run.update(facts={"weights": "w"})
        if status is not RunStatus.RUNNING:
            run.end(status)
        return run.id

    first = ran(0, RunStatus.INTERRUPTED)
    assert ledger.unfinished_since(first) is None
    assert ledger.unfinished_since(ran(1, RunStatus.COMPLETED)) == utc(LONG_AGO)
    assert ledger.unfinished_since(ran(2, RunStatus.FAILED)) is None
    ran(3, RunStatus.INTERRUPTED)
    ran(4, RunStatus.COMPLETED, inputs="other")
    ran(5, RunStatus.RUNNING)
    last = ran(6, RunStatus.COMPLETED)
    assert ledger.unfinished_since(last) == utc(LONG_AGO + timedelta(days=2))
    ran(7, RunStatus.FAILED, facts=False)
    assert ledger.unfinished_since(ran(8, RunStatus.RUNNING)) is None


# What is kept ------------------------------------------------------------------------------------


def test_a_run_from_its_begin_to_its_end(ledger: Ledger, tmp_path: Path) -> None:
    before = utc(datetime.now(UTC))
    run = begin(
        ledger,
        started=LONG_AGO,
        command=["moderate", "scan", "https://u:pass@h/x", "--url-header", "Cookie: secret"],
        inputs=["https://u:pass@h/x"],
        targets=["/a.csv", "/b.parquet"],
        status=RunStatus.QUEUED,
    )
    queued = ledger.find(run.id)
    assert queued.status is RunStatus.QUEUED
    assert queued.command[2:] == ("https://***@h/x", "--url-header", "Cookie: ***")
    assert queued.inputs == ("https://***@h/x",)
    assert (queued.pid, queued.version, queued.started) == (os.getpid(), "0.1.0", utc(LONG_AGO))
    assert queued.ended is None
    assert queued.updated >= before

    run.update(status=RunStatus.RUNNING, facts={"weights": "w", "device": "cpu"})
    run.update(facts={"policy_sha256": POLICY}, counts={"rows": 3, "decisions": {"approve": 3}})
    run.save_policy(POLICY, "strict", "name = 'strict'\n")
    running = ledger.find(run.id)
    assert running.status is RunStatus.RUNNING
    assert running.facts == {"weights": "w", "device": "cpu", "policy_sha256": POLICY}
    assert running.counts == {"rows": 3, "decisions": {"approve": 3}}
    assert locks(tmp_path) == [f"{run.id}.lock"]

    run.end(RunStatus.COMPLETED, counts={"rows": 9}, outputs={"/a.csv": "cd" * 32})
    ended = ledger.find(run.id)
    assert ended.status is RunStatus.COMPLETED
    assert not ended.died
    assert ended.message is None
    assert ended.ended is not None
    assert ended.ended >= before
    assert ended.counts == {"rows": 9}
    assert (ended.targets, ended.outputs) == (("/a.csv", "/b.parquet"), {"/a.csv": "cd" * 32})
    assert ledger.policy(POLICY) == ("strict", "name = 'strict'\n")
    assert ledger.policy("00") is None
    assert locks(tmp_path) == []
    content = (tmp_path / FILE).read_bytes() + Path(f"{tmp_path / FILE}-wal").read_bytes()
    assert b"Cookie" in content
    assert b"pass" not in content
    assert b"secret" not in content


def test_only_the_first_end_counts_and_nothing_after_it(ledger: Ledger) -> None:
    run = begin(ledger)
    run.end(RunStatus.INTERRUPTED, "stopped by\nSIGTERM")
    ended = ledger.find(run.id)
    run.end(RunStatus.COMPLETED, outputs={"/a": "b"})
    run.update(status=RunStatus.RUNNING, counts={"rows": 1})
    run.save_policy(POLICY, "p", "")
    assert ledger.find(run.id) == ended
    assert (ended.status, ended.message) == (RunStatus.INTERRUPTED, "stopped by SIGTERM")


def test_names_that_are_no_text(ledger: Ledger) -> None:
    odd = os.fsdecode(b"/odd\xff.csv")
    run = begin(ledger, inputs=[odd, "a\x1b[31m"], targets=[odd], command=[odd])
    run.update(facts={"weights_sha256": "00"})
    run.end(RunStatus.COMPLETED, outputs={odd: "00"})
    found = ledger.find(run.id)
    assert found.targets == (odd,)
    assert found.outputs == {odd: "00"}
    assert found.inputs == ("/odd\\udcff.csv", "a\\x1b[31m")
    assert ledger.last_of(odd) == found
    assert ledger.last_of(os.fsdecode(b"/odd\xfe.csv")) is None


def test_of_a_million_names_a_few_are_kept_and_no_secret_among_them(ledger: Ledger) -> None:
    names = [f"{number}.jpg" for number in range(5_000)]
    # The value of the option is the first name kept again: whatever is cut, it stays hidden.
    command = [*names[:-100], "--url-header", "Cookie: secret", *names[-99:]]
    run = begin(ledger, command=command, inputs=names)
    found = ledger.find(run.id)
    assert len(found.inputs) == len(found.command) == 201
    assert found.inputs[:1] == ("0.jpg",)
    assert found.inputs[100] == "… 4800 more …"
    assert found.inputs[-1] == "4999.jpg"
    assert "Cookie: ***" in found.command
    assert "secret" not in str(found)


def test_others_of_the_machine_cannot_look(ledger: Ledger, tmp_path: Path) -> None:
    run = begin(ledger)
    assert lock_path(tmp_path, run.id).parent.stat().st_mode & 0o077 == 0
    assert lock_path(tmp_path, run.id).stat().st_mode & 0o077 == 0
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0


# Looking it up -----------------------------------------------------------------------------------


def test_newest_first(ledger: Ledger) -> None:
    moments = [LONG_AGO + timedelta(days=day) for day in (2, 0, 1, 2)]
    runs = [begin(ledger, started=moment) for moment in moments]
    order = [runs[3].id, runs[0].id, runs[2].id, runs[1].id]
    assert [record.id for record in ledger.runs()] == order
    assert [record.id for record in ledger.runs(2)] == order[:2]
    assert ledger.find("last").id == order[0]


def test_a_run_is_found_by_the_start_of_its_id(ledger: Ledger) -> None:
    for start in ("aa1", "aa2", "b"):
        begin(ledger, run_id=start.ljust(32, "0"))
    assert ledger.find("b").id[0] == "b"
    assert ledger.find("AA1").id[:3] == "aa1"
    assert ledger.find("aa2".ljust(32, "0")).id[:3] == "aa2"
    with pytest.raises(StateError, match=r"several runs start with aa: aa[12]0+, aa[12]0+; give"):
        ledger.find("aa")
    for unknown in ("c", "", "%", "_", "a?", "\x00", "ï", "\udcff", "aa1".ljust(33, "0")):
        with pytest.raises(StateError, match="no run"):
            ledger.find(unknown)


def test_last_without_any(ledger: Ledger) -> None:
    with pytest.raises(StateError, match="no run is recorded yet"):
        ledger.find("last")


def test_the_last_run_of_a_target(ledger: Ledger) -> None:
    first = begin(ledger, started=LONG_AGO, targets=["/a", "/b"])
    second = begin(ledger, started=LONG_AGO + timedelta(days=1), targets=["/a"])
    third = begin(ledger, targets=["/a", "/a"])
    begin(ledger, targets=["/a"]).end(RunStatus.FAILED, "refused before it began to work")
    for run in (first, second, third):
        run.update(facts={"weights_sha256": "00"})
    second.end(RunStatus.FAILED, "disk full")

    def last(target: str, exclude: str | None = None) -> str | None:
        found = ledger.last_of(target, exclude)
        return found.id if found else None

    assert last("/a") == third.id
    assert last("/a", exclude=third.id) == second.id
    assert last("/b") == first.id
    assert last("/b", exclude=first.id) is None
    assert last("/") is None


# Who is alive ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [RunStatus.QUEUED, RunStatus.RUNNING])
def test_a_killed_run_is_seen_as_died(ledger: Ledger, tmp_path: Path, status: RunStatus) -> None:
    with other_run(tmp_path, status) as run:
        run.do(counts={"rows": 7})
        alive = ledger.find(run.id)
        assert (alive.status, alive.died, alive.ended) == (status, False, None)
        assert alive.counts == {"rows": 7}
        assert alive.pid == run.process.pid
        run.kill()
        dead = ledger.find(run.id)
    assert (dead.status, dead.died, dead.message) == (RunStatus.FAILED, True, DIED)
    assert dead.ended == dead.updated == alive.updated
    assert dead.counts == {"rows": 7}
    assert ledger.runs() == [dead]
    assert locks(tmp_path) == []
    with sqlite3.connect(tmp_path / FILE) as connection:  # written down, not only shown
        assert connection.execute("SELECT status FROM runs").fetchall() == [("failed",)]


@pytest.mark.parametrize("look", ["runs", "last_of", "begin", "info", "prune"])
def test_whoever_looks_finds_the_dead(ledger: Ledger, tmp_path: Path, look: str) -> None:
    with other_run(tmp_path) as run:
        run.kill()
    looks = {
        "runs": ledger.runs,
        "last_of": lambda: ledger.last_of("/results.csv"),
        "begin": lambda: begin(ledger),
        "info": ledger.info,
        "prune": lambda: ledger.prune("2020"),
    }
    looks[look]()
    with sqlite3.connect(tmp_path / FILE) as connection:
        found = connection.execute("SELECT died FROM runs WHERE id = ?", (run.id,)).fetchone()
    assert found == (1,)


def test_a_run_that_ends_is_not_taken_for_dead(ledger: Ledger, tmp_path: Path) -> None:
    with other_run(tmp_path) as run:
        run.do(end="interrupted", message="stopped by SIGINT")
        assert run.leave() == ""
    ended = ledger.find(run.id)
    assert (ended.status, ended.died) == (RunStatus.INTERRUPTED, False)
    assert ended.message == "stopped by SIGINT"


def test_a_run_that_ends_while_somebody_looks(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(Ledger(tmp_path))

    def ends_meanwhile(folder: Path, run_id: str) -> bool:
        run.end(RunStatus.COMPLETED)
        return is_alive(folder, run_id)

    monkeypatch.setattr(liveness, "is_alive", ends_meanwhile)
    found = ledger.find(run.id)
    assert (found.status, found.died) == (RunStatus.COMPLETED, False)


def test_a_process_that_forgets_to_say_so_has_died(ledger: Ledger, tmp_path: Path) -> None:
    with other_run(tmp_path) as run:
        run.leave()
    assert ledger.find(run.id).died


def test_a_live_run_taken_for_dead_comes_back(ledger: Ledger, tmp_path: Path) -> None:
    run = begin(ledger)
    lock_path(tmp_path, run.id).unlink()
    assert ledger.find(run.id).died
    run.end(RunStatus.COMPLETED)
    ended = ledger.find(run.id)
    assert (ended.status, ended.died, ended.message) == (RunStatus.COMPLETED, False, None)


def test_a_program_that_the_run_starts_does_not_keep_it_alive(
    ledger: Ledger, tmp_path: Path
) -> None:
    with other_run(tmp_path) as run:
        code = "import os, sys; print(sorted(os.readlink(f'/proc/self/fd/{n}') for n in range(9)"
        code += " if os.path.exists(f'/proc/self/fd/{n}')))"
        begin(ledger)
        held = subprocess.run([sys.executable, "-c", code], capture_output=True, close_fds=False)
        assert held.returncode == 0
        assert b".lock" not in held.stdout
        run.kill()
    assert ledger.find(run.id).died


def test_two_who_look_at_once_do_not_take_each_other_for_the_run(tmp_path: Path) -> None:
    descriptor = hold(tmp_path, "run")
    os.close(descriptor)  # as the kernel does when the process ends
    first = os.open(lock_path(tmp_path, "run"), os.O_RDONLY)
    fcntl.flock(first, fcntl.LOCK_SH | fcntl.LOCK_NB)
    assert not is_alive(tmp_path, "run")
    os.close(first)
    remove_abandoned(tmp_path)
    assert locks(tmp_path) == []


def test_looking_and_tidying_do_not_touch_the_living(tmp_path: Path) -> None:
    descriptor = hold(tmp_path, "run")
    for _ in range(3):
        assert is_alive(tmp_path, "run")
        remove_abandoned(tmp_path)
    assert locks(tmp_path) == ["run.lock"]
    release(tmp_path, "run", descriptor)
    assert not is_alive(tmp_path, "run")


_TAKE_AND_RELEASE = """
import sys
from pathlib import Path
from moderate.state.liveness import hold, is_alive, release
folder = Path(sys.argv[1])
for number in range(300):
    descriptor = hold(folder, "run")
    assert is_alive(folder, "run")
    release(folder, "run", descriptor)
"""


def test_tidying_never_takes_the_lock_from_a_run_that_begins(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", _TAKE_AND_RELEASE, str(tmp_path)])
    while child.poll() is None:
        remove_abandoned(tmp_path)
    assert child.returncode == 0


def test_tidying_leaves_alone_what_took_the_name_of_the_lock_it_looks_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends and the next one begins between the look and the removal."""
    first = hold(tmp_path, "run")
    held: list[int] = []
    real_open = os.open

    def slow_open(path: Path, *arguments: int) -> int:
        descriptor = real_open(path, *arguments)
        if not held:
            held.append(-1)
            release(tmp_path, "run", first)
            held[0] = hold(tmp_path, "run")
        return descriptor

    monkeypatch.setattr("moderate.state.liveness.os.open", slow_open)
    remove_abandoned(tmp_path)
    assert is_alive(tmp_path, "run")
    release(tmp_path, "run", held[0])


# Several processes -------------------------------------------------------------------------------

_MANY = """
import sys
from pathlib import Path
from tests.support.ledgers import begin
from moderate.state.ledger import Ledger, RunStatus
for number in range(5):
    ledger = Ledger(Path(sys.argv[1]))
    run = begin(ledger)
    for rows in range(10):
        run.update(counts={"rows": rows + 1})
    assert ledger.find(run.id).counts == {"rows": 10}
    run.end(RunStatus.COMPLETED, outputs={"/results.csv": "00"})
    ledger.close()
"""


def test_many_processes_write_at_once(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    children = [
        subprocess.Popen([sys.executable, "-c", _MANY, str(tmp_path)], env=environment)
        for _ in range(4)
    ]
    assert [child.wait() for child in children] == [0] * 4
    records = Ledger(tmp_path).runs()
    assert len(records) == 20
    for record in records:
        assert (record.status, record.counts) == (RunStatus.COMPLETED, {"rows": 10})
        assert not record.died
    assert locks(tmp_path) == []


_ONE_AFTER_ANOTHER = """
import sys
from pathlib import Path
from tests.support.ledgers import begin
from moderate.state.ledger import Ledger, RunStatus
ledger = Ledger(Path(sys.argv[1]))
while True:
    run = begin(ledger)
    print(run.id, flush=True)
    run.update(counts={"rows": 1})
    run.end(RunStatus.COMPLETED)
"""


def test_killed_at_any_point(ledger: Ledger, tmp_path: Path) -> None:
    chance = random.Random(1)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    begun = 0
    for _ in range(12):
        child = subprocess.Popen(
            [sys.executable, "-c", _ONE_AFTER_ANOTHER, str(tmp_path)],
            env=environment,
            stdout=subprocess.PIPE,
        )
        assert child.stdout
        assert child.stdout.readline()
        time.sleep(chance.uniform(0, 0.02))
        child.kill()
        begun += 1 + len(child.communicate()[0].splitlines())
        records = ledger.runs()
        # One may have been written down before its id was told.
        assert begun <= len(records) <= begun + 1
        begun = len(records)
        assert {record.status for record in records} <= {RunStatus.COMPLETED, RunStatus.FAILED}
        assert all(record.died == (record.status is RunStatus.FAILED) for record in records)
    assert any(record.died for record in ledger.runs())
    ledger.prune("2020")
    assert locks(tmp_path) == []
    with sqlite3.connect(tmp_path / FILE) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# A state that breaks -----------------------------------------------------------------------------


def test_a_lost_record_is_written_again_whole(ledger: Ledger, tmp_path: Path) -> None:
    run = begin(ledger, targets=["/a"])
    run.update(facts={"weights": "w"}, counts={"rows": 1})
    run.save_policy(POLICY, "p", "text")
    before = ledger.find(run.id)
    with sqlite3.connect(tmp_path / FILE) as connection:
        for table in ("runs", "run_targets", "policies"):
            connection.execute(f"DELETE FROM {table}")
    assert ledger.runs() == []
    run.update(counts={"rows": 2})
    after = ledger.last_of("/a")
    assert after is not None
    assert (after.id, after.facts, after.counts) == (run.id, {"weights": "w"}, {"rows": 2})
    assert (after.command, after.started, after.host) == (
        before.command,
        before.started,
        before.host,
    )
    assert ledger.policy(POLICY) == ("p", "text")


def test_a_run_outlives_the_file_that_breaks_under_it(tmp_path: Path) -> None:
    with other_run(tmp_path) as run:
        run.do(counts={"rows": 1})
        for name in os.listdir(tmp_path):
            if name.startswith(FILE):
                (tmp_path / name).write_bytes(b"no database at all" * 1000)
        begin(Ledger(tmp_path)).end(RunStatus.COMPLETED)  # another run, which puts it aside
        run.do(counts={"rows": 2})
        run.do(end="completed")
        run.leave()
    found = Ledger(tmp_path).find(run.id)
    assert (found.status, found.counts) == (RunStatus.COMPLETED, {"rows": 2})
    assert len(Ledger(tmp_path).runs()) == 2


def test_a_full_disk_is_said_once_and_the_run_goes_on(tmp_path: Path) -> None:
    with other_run(tmp_path) as run:
        run.do(full=True)
        for rows in range(3):
            run.do(counts={"rows": rows})
        run.do(end="completed")
        said = run.leave().splitlines()
        assert run.process.returncode == 0
    assert len(said) == 1
    assert "the record of this run cannot be kept" in said[0]
    found = Ledger(tmp_path).find(run.id)
    assert found.died
    assert found.counts == {}


def test_a_state_folder_that_cannot_be_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UnavailableError):
        Ledger(tmp_path / "file")


def test_without_a_lock_there_is_no_record(ledger: Ledger, tmp_path: Path, caplog: Caplog) -> None:
    (tmp_path / "running").write_bytes(b"in the way")
    with caplog.at_level(logging.WARNING):
        run = begin(ledger)
        run.update(counts={"rows": 1})
        run.end(RunStatus.COMPLETED)
    assert len(caplog.records) == 1
    assert "the record of this run cannot be kept" in caplog.text
    assert ledger.runs() == []


def test_a_closed_ledger_does_not_stop_its_run(ledger: Ledger, tmp_path: Path) -> None:
    run = begin(ledger)
    ledger.close()
    run.end(RunStatus.COMPLETED)
    assert Ledger(tmp_path).find(run.id).status is RunStatus.COMPLETED


def test_the_dead_are_shown_as_such_where_nothing_can_be_written(
    ledger: Ledger, tmp_path: Path
) -> None:
    with other_run(tmp_path) as run:
        run.kill()
    writer = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")  # holds everybody else up
    found = ledger.find(run.id)
    assert (found.status, found.died, found.message) == (RunStatus.FAILED, True, DIED)
    assert writer.execute("SELECT status FROM runs").fetchall() == [("running",)]
    writer.close()


# Retention ---------------------------------------------------------------------------------------


def test_prune_forgets_what_ended_before(ledger: Ledger, tmp_path: Path) -> None:
    old, new, alive = (begin(ledger, targets=[f"/{name}"]) for name in ("old", "new", "alive"))
    for run, digest in ((old, "01"), (new, "02"), (alive, "03")):
        run.update(facts={"policy_sha256": digest})
        run.save_policy(digest, "p", digest)
    old.end(RunStatus.COMPLETED)
    new.end(RunStatus.COMPLETED)
    with sqlite3.connect(tmp_path / FILE) as connection:
        moment = utc(LONG_AGO)
        for run in (old, alive):
            query = "UPDATE runs SET started = ?, updated = ?, ended = CASE WHEN ended IS NULL "
            query += "THEN NULL ELSE ? END WHERE id = ?"
            connection.execute(query, (moment, moment, moment, run.id))
    assert ledger.prune(utc(LONG_AGO)) == 0
    assert ledger.prune(utc(LONG_AGO + timedelta(days=1))) == 1
    assert {record.id for record in ledger.runs()} == {new.id, alive.id}
    assert ledger.last_of("/old") is None
    assert ledger.last_of("/alive") is not None
    assert [ledger.policy(digest) for digest in ("01", "02")] == [None, ("p", "02")]
    assert ledger.policy("03") == ("p", "03")


def test_clear_forgets_all_but_the_living(ledger: Ledger, tmp_path: Path) -> None:
    begin(ledger).end(RunStatus.COMPLETED)
    with other_run(tmp_path) as alive, other_run(tmp_path) as dead:
        dead.kill()
        assert ledger.info().runs == 3
        assert ledger.info().alive == 1
        assert ledger.clear() == 2
        assert [record.id for record in ledger.runs()] == [alive.id]
        alive.do(end="completed")
    assert ledger.find(alive.id).status is RunStatus.COMPLETED
    assert ledger.clear() == 1
    assert (ledger.info().runs, ledger.info().oldest) == (0, None)


def test_vacuum_gives_room_back(ledger: Ledger) -> None:
    for _ in range(50):
        begin(ledger, inputs=["x" * 2_000] * 20).end(RunStatus.COMPLETED)
    full = ledger.info().nbytes
    assert ledger.clear() == 50
    ledger.vacuum()
    assert ledger.info().nbytes < full / 10


_DAMAGE = [
    *(
        f"UPDATE runs SET {column} = {value}"
        for column in ("command", "inputs", "targets", "facts", "outputs", "counts")
        for value in ("'{'", "'7'", "'[7]'", "'null'", "x'00ff'", "7", "CAST(x'5bff' AS TEXT)")
    ),
    *(
        f"UPDATE runs SET {column} = {value}"
        for column in ("started", "updated", "ended")
        for value in ("'yesterday'", "''", "x'00'", "7", "'2026-01-01'")
    ),
    "UPDATE runs SET status = 'paused'",  # as a newer version may have it
    "UPDATE runs SET status = 7, died = 'x'",
    "UPDATE runs SET id = 'a' || char(0) || 'b', ended = NULL",
    "UPDATE runs SET id = x'00ff', ended = NULL",
    "UPDATE runs SET host = x'00', version = x'00', user = 7, message = x'00', pid = 'x'",
    "UPDATE policies SET name = x'00', toml = 7",
]


@pytest.mark.parametrize("damage", _DAMAGE)
def test_a_record_that_nobody_can_have_kept_hides_no_other(
    ledger: Ledger, tmp_path: Path, caplog: Caplog, damage: str
) -> None:
    run = begin(ledger, targets=["/a.csv"])
    run.update(facts={"policy_sha256": POLICY})
    run.save_policy(POLICY, "strict", "name = 'strict'\n")
    run.end(RunStatus.COMPLETED)
    with sqlite3.connect(tmp_path / FILE) as connection:
        assert connection.execute(damage).rowcount
    connection.close()
    later = begin(ledger, targets=["/b.csv"])
    later.update(facts={"policy_sha256": POLICY})
    assert later.id in [record.id for record in ledger.runs()]
    assert ledger.find(later.id).targets == ("/b.csv",)
    for target in ("/a.csv", "/b.csv"):
        last = ledger.last_of(target)
        assert last is None or asdict(last)["targets"] == (target,)
    assert ledger.policy(POLICY) in (None, ("strict", "name = 'strict'\n"))
    assert ledger.info().runs == 2
    later.end(RunStatus.COMPLETED)
    assert ledger.prune("1970") in (0, 1)
    assert ledger.clear() in (1, 2)
    assert ledger.info().runs == 0
    for line in caplog.messages:
        assert "records of runs are left out" in line


def test_records_are_json(ledger: Ledger) -> None:
    from moderate.report.runs import as_json

    run = begin(ledger)
    known = json.loads(json.dumps(as_json(ledger.find(run.id))))
    assert (known["id"], known["status"], known["died"]) == (run.id, "running", False)
