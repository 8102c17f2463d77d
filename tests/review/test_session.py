"""A queue that several people work on at once, and that survives being killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from moderate.errors import UsageError
from moderate.results.read import read_results
from moderate.review.journal import read_journal, standing
from moderate.review.queue import Queue
from moderate.review.rows import rows_of
from moderate.review.session import Judgement, NotYoursError, Session
from moderate.types import CATEGORIES
from tests.support.scored import write_results

YES = Judgement("approve", {})
NO = Judgement("block", {"nudity": True}, seconds=1.5, revealed="colour")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    scores = {name: np.full(30, 0.5, np.float32) for name in CATEGORIES}
    write_results(tmp_path / "r.csv", scores, run_id="always the same second looks")
    return tmp_path


def opened(folder: Path, second_look: float = 0.0) -> Session:
    results = read_results(str(folder / "r.csv"))
    numbers = np.arange(30, 0, -1, dtype=np.int64)
    rows = rows_of(results, Queue(numbers))
    return Session(rows, folder / "j", folder / "l.sqlite", second_look)


@pytest.fixture
def session(folder: Path) -> Iterator[Session]:
    session = opened(folder)
    yield session
    session.close()


def rows(shown: list[dict[str, object]]) -> list[object]:
    return [row["row"] for row in shown]


def test_each_gets_the_next_row_that_nobody_has(session: Session, folder: Path) -> None:
    assert rows(session.next("ada", 3)) == [30, 29, 28]
    assert rows(session.next("bob", 2)) == [27, 26]
    assert rows(session.next("ada", 3)) == [30, 29, 28], "a reload shows the same"
    shown = session.next("ada")[0]
    assert (shown["path"], shown["decision"], shown["second"]) == ("./29.jpg", "review", False)
    session.decide(30, "ada", NO)
    assert rows(session.next("ada", 3)) == [29, 28, 25]
    with pytest.raises(NotYoursError):
        session.decide(27, "ada", YES)
    with pytest.raises(NotYoursError):
        session.decide(30, "bob", YES)
    with pytest.raises(KeyError):
        session.decide(31, "ada", YES)
    (entry,) = read_journal(folder / "j")
    assert (entry.row, entry.path, entry.decision) == (30, "./29.jpg", "block")
    assert entry.machine_decision == "review"
    assert entry.machine_scores == dict.fromkeys((name.value for name in CATEGORIES), 0.5)


def test_undo_gives_the_row_back_and_goes_on_to_the_one_before(session: Session) -> None:
    for number in (30, 29):
        session.next("ada")
        session.decide(number, "ada", NO)
    assert session.progress("ada").severe == 2
    first, second, third = (session.undo("ada") for _ in range(3))
    assert first is not None
    assert second is not None
    assert (first["row"], second["row"], third) == (29, 30, None)
    assert session.undo("bob") is None
    assert rows(session.next("ada", 2)) == [30, 29]
    assert session.progress("ada").decided == 0
    assert session.progress("ada").severe == 2, "they were seen"


def test_two_servers_share_a_queue(folder: Path) -> None:
    one, other = opened(folder), opened(folder)
    one.decide(one.next("ada")[0]["row"], "ada", YES)
    assert rows(other.next("bob", 2)) == [29, 28]
    other.decide(29, "bob", NO)
    assert one.progress("ada").decided == 2
    assert rows(one.next("ada")) == [27]
    for session in (one, other):
        session.close()


def test_a_share_is_judged_by_two_and_their_agreement_is_known(folder: Path) -> None:
    session = opened(folder, second_look=0.5)
    twice = session.progress("ada").second_looks
    assert 8 <= twice <= 22
    assert session.agreement() is None
    for reviewer in ("ada", "bob", "cyd"):
        while row := next(iter(session.next(reviewer)), None):
            assert row["second"] == (reviewer != "ada")
            blocked = row["row"] % 2 == 0 and not (reviewer == "bob" and row["row"] < 10)
            session.decide(row["row"], reviewer, NO if blocked else YES)
    assert [session.progress(name).mine for name in ("ada", "bob", "cyd")] == [30, twice, 0]
    assert session.progress("ada").decided == 30
    agreement = session.agreement()
    assert agreement is not None
    assert agreement.count == twice
    assert 0.5 < agreement.alike < 1
    session.close()
    with pytest.raises(UsageError, match="share of 0 to 1"):
        opened(folder, second_look=1.5)


def test_threads_decide_each_row_once(session: Session, folder: Path) -> None:
    def work(name: str) -> None:
        while shown := session.next(name, 2):
            for row in shown:
                session.decide(row["row"], name, YES)

    threads = [threading.Thread(target=work, args=[name]) for name in ("ada", "bob", "cyd")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(entry.row for entry in read_journal(folder / "j")) == list(range(1, 31))


def test_what_was_decided_before_a_kill_stays_decided(folder: Path) -> None:
    """The child says what is decided when it is; it is killed somewhere in between."""
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.review.test_session import opened, YES\n"
        "session = opened(Path(sys.argv[1]))\n"
        "while shown := session.next('ada'):\n"
        "    session.decide(shown[0]['row'], 'ada', YES)\n"
        "    print(shown[0]['row'], flush=True)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert child.stdout is not None
    told = [int(child.stdout.readline()) for _ in range(5)]
    os.kill(child.pid, signal.SIGKILL)
    told += map(int, child.stdout.read().split())
    child.wait()
    decided = [entry.row for entry in standing(read_journal(folder / "j"))]
    assert set(told) <= set(decided)
    assert len(decided) <= len(told) + 1
    session = opened(folder)
    assert session.progress("ada").decided == len(decided)
    assert not set(decided) & set(rows(session.next("ada", 64)))
    session.close()


def test_the_chance_of_a_row_goes_into_the_journal(folder: Path) -> None:
    results = read_results(str(folder / "r.csv"))
    numbers = np.arange(3, 0, -1, dtype=np.int64)
    session = Session(rows_of(results, Queue(numbers, 0.1)), folder / "j", folder / "l.sqlite")
    session.next("ada")
    assert session.decide(3, "ada", YES).inclusion_probability == 0.1
    session.close()
    assert [entry.inclusion_probability for entry in read_journal(folder / "j")] == [0.1]
