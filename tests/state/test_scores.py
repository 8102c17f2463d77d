"""Scores by content, contents by file, and what a run makes of a store that fails."""

from __future__ import annotations

import datetime
import hashlib
import logging
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from moderate.state.database import UnavailableError
from moderate.state.known_files import FileRecord, Scopes, path_digest
from moderate.state.records import FileStat, Outcome
from moderate.state.run_scores import RunScores
from moderate.state.scores import FILE, ScopeFacts, ScoreStore
from moderate.types import CATEGORIES, ErrorCode, ImageError, ImageFacts

SCOPES = Scopes(hashlib.sha256(b"scores").digest(), hashlib.sha256(b"errors").digest())
OTHER = Scopes(hashlib.sha256(b"other").digest(), hashlib.sha256(b"errors").digest())
STAT = FileStat(3, 10**18, 10**18 + 5)


def digest(content: str) -> bytes:
    return hashlib.sha256(content.encode()).digest()


def key(path: str) -> bytes:
    return path_digest(path.encode(), b"/home")


def scored(content: str, score: float = 0.25) -> tuple[bytes, Outcome]:
    facts = ImageFacts(10, 20, "jpeg", 1, 3, digest(content).hex())
    return digest(content), Outcome(facts, dict.fromkeys(CATEGORIES, score))


def failed(content: str) -> tuple[bytes, Outcome]:
    error = ImageError(ErrorCode.TRUNCATED, "it ends early")
    facts = ImageFacts(None, None, "jpeg", None, 3, digest(content).hex())
    return digest(content), Outcome(facts, error)


def record(path: str, content: str) -> FileRecord:
    return FileRecord(key(path), digest(content), STAT)


@pytest.fixture
def store(tmp_path: Path) -> ScoreStore:
    return ScoreStore.open(tmp_path)


def bound(store: ScoreStore, scopes: Scopes = SCOPES, **options: bool) -> RunScores:
    return RunScores(store, scopes, **{"rescore": False, "retry_errors": False, **options})


def keep(scores: RunScores) -> None:
    scores.add(record("a.jpg", "a"), scored("a"))
    scores.add(record("b.jpg", "b"), failed("b"))
    scores.commit(everything=True)


def test_what_is_kept_is_found_by_path_and_by_content(store: ScoreStore) -> None:
    keep(bound(store))
    again = bound(store)
    found = again.by_path([key("a.jpg"), key("b.jpg"), key("c.jpg")])
    assert set(found) == {key("a.jpg"), key("b.jpg")}
    assert found[key("a.jpg")].outcome == scored("a")[1]
    assert found[key("b.jpg")].outcome == failed("b")[1]
    assert found[key("a.jpg")].stat == STAT
    assert again.by_content(digest("a")) == scored("a")[1]
    assert again.by_content(digest("c")) is None
    assert path_digest(b"/home/a.jpg", b"/tmp") == key("a.jpg") == key("./a.jpg")


def test_what_is_not_committed_is_not_kept(store: ScoreStore) -> None:
    scores = bound(store)
    scores.add(record("a.jpg", "a"), scored("a"))
    assert bound(store).by_content(digest("a")) is None


def test_other_weights_know_the_file_but_not_its_scores(store: ScoreStore) -> None:
    keep(bound(store))
    other = bound(store, OTHER)
    known = other.by_path([key("a.jpg"), key("b.jpg")])
    assert known[key("a.jpg")].outcome is None
    assert known[key("a.jpg")].sha256 == digest("a")
    assert known[key("b.jpg")].outcome == failed("b")[1]  # the scope of errors is the same
    other.add(None, scored("a", 0.75))
    other.commit(everything=True)
    assert bound(store).by_content(digest("a")) == scored("a", 0.25)[1]
    assert bound(store, OTHER).by_content(digest("a")) == scored("a", 0.75)[1]


def test_rescore_and_retry_errors(store: ScoreStore) -> None:
    keep(bound(store))
    keys = [key("a.jpg"), key("b.jpg")]
    rescore = bound(store, rescore=True)
    assert [known.outcome for known in rescore.by_path(keys).values()] == [None, None]
    assert rescore.by_content(digest("a")) is None
    retry = bound(store, retry_errors=True)
    assert retry.by_path(keys)[keys[0]].outcome == scored("a")[1]
    assert retry.by_path(keys)[keys[1]].outcome is None
    assert retry.by_content(digest("b")) is None


def test_scores_win_over_an_error_of_another_day(store: ScoreStore) -> None:
    scores = bound(store)
    scores.add(record("a.jpg", "a"), failed("a"))
    scores.add(None, scored("a"))
    scores.commit(everything=True)
    later = bound(store)
    assert later.by_content(digest("a")) == scored("a")[1]
    assert later.by_path([key("a.jpg")])[key("a.jpg")].outcome == scored("a")[1]


@pytest.mark.parametrize("column", ["payload", "scope"])
def test_a_damaged_outcome_is_unknown(store: ScoreStore, tmp_path: Path, column: str) -> None:
    keep(bound(store))
    with sqlite3.connect(tmp_path / FILE) as connection:
        if column == "scope":  # the error's scores, and the scores' error
            connection.execute("UPDATE outcomes SET scope = 3 - scope")
        else:
            connection.execute("UPDATE outcomes SET payload = substr(payload, 1, 4) || x'00'")
    connection.close()
    scores = bound(store)
    assert [known.outcome for known in scores.by_path([key("a.jpg")]).values()] == [None]
    assert scores.by_content(digest("a")) is None
    assert scores.by_content(digest("b")) is None


def test_a_damaged_file_entry_is_unknown(store: ScoreStore, tmp_path: Path) -> None:
    keep(bound(store))
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("UPDATE files SET sha256 = ?", (digest("b"),))
    connection.close()
    assert set(bound(store).by_path([key("a.jpg"), key("b.jpg")])) == {key("b.jpg")}


_FACTS = ScopeFacts(("landlock",), "torch")
_DAMAGE = [
    *(
        f"UPDATE scopes SET facts = {value}"
        for value in (
            "'{'", "''", "7", "x'ff00'", "'[]'", "'{}'", "'\"x\"'", "CAST(x'7b22ff' AS TEXT)",
            "'{\"sandbox\": 7, \"backend\": \"torch\"}'",
            "'{\"sandbox\": [7], \"backend\": \"torch\"}'",
            "'{\"sandbox\": \"landlock\", \"backend\": \"torch\"}'",
            "'{\"sandbox\": [], \"backend\": null}'",
            "replace(hex(zeroblob(50000)), '00', '[')",
        )
    ),
    *(
        f"UPDATE {table} SET {column} = {value}"
        for table, columns in (
            ("outcomes", ("payload", "used", "is_error")),
            ("files", ("stat", "used", "sha256")),
        )
        for column in columns
        for value in ("'text'", "7", "2.5", "x''", "-9223372036854775808", "CAST(x'ff' AS TEXT)")
    ),
    "UPDATE outcomes SET payload = CAST(payload AS TEXT)",
    "UPDATE files SET stat = CAST(stat AS TEXT), sha256 = CAST(sha256 AS TEXT)",
]  # fmt: skip


@pytest.mark.parametrize("damage", _DAMAGE)
@pytest.mark.parametrize("healed_by", ["a run", "clear"])
def test_a_value_that_nobody_can_have_kept_is_unknown_and_heals(
    store: ScoreStore, tmp_path: Path, damage: str, healed_by: str
) -> None:
    first = bound(store)
    keep(first)
    first.facts(_FACTS)
    with sqlite3.connect(tmp_path / FILE) as connection:
        assert connection.execute(damage).rowcount
    connection.close()
    damaged = bound(store)
    keys = [key("a.jpg"), key("b.jpg")]
    for known in damaged.by_path(keys).values():
        assert known.outcome in (None, scored("a")[1], failed("b")[1])
        assert known.stat == STAT
    assert damaged.by_content(digest("a")) in (None, scored("a")[1])
    assert damaged.facts() in (None, _FACTS)
    info = store.info()
    assert info.outcomes == 2
    assert not store.given_up
    if healed_by == "clear":
        store.clear()
        assert store.info().outcomes == 0
    again = bound(store)
    assert again.facts(_FACTS) == _FACTS
    keep(again)
    last = bound(store)
    assert last.facts() == _FACTS
    assert [known.outcome for known in last.by_path(keys).values()] in (
        [scored("a")[1], failed("b")[1]],
        [failed("b")[1], scored("a")[1]],
    )
    assert not last.by_path(keys)[keys[0]].stale


def test_a_file_of_the_year_2500_is_not_remembered(store: ScoreStore) -> None:
    scores = bound(store)
    far = FileStat(3, 16_725_225_600 * 10**9, 10**18)  # as `tar xf` restores it
    for number, stat in enumerate((far, far._replace(mtime_ns=-far.mtime_ns), STAT)):
        scores.add(FileRecord(key(f"{number}.jpg"), digest("a"), stat), scored("a"))
    scores.commit(everything=True)
    found = bound(store).by_path([key(f"{number}.jpg") for number in range(3)])
    assert set(found) == {key("2.jpg")}
    assert bound(store).by_content(digest("a")) == scored("a")[1]


def test_nothing_readable_is_kept(store: ScoreStore, tmp_path: Path) -> None:
    scores = bound(store)
    scores.add(record("holiday/secret-name.jpg", "a"), scored("a"))
    scores.commit(everything=True)
    store.close()
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"secret" not in kept
    assert b"holiday" not in kept


def test_pruning_forgets_what_was_not_of_use(store: ScoreStore, tmp_path: Path) -> None:
    scores = bound(store)
    for name in "abc":
        scores.add(record(f"{name}.jpg", name), scored(name))
    scores.commit(everything=True)
    today = datetime.datetime.now(datetime.UTC).date()
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("UPDATE outcomes SET used = used - 10")
        connection.execute("UPDATE files SET used = used - 10")
    connection.close()
    again = bound(store)
    known = again.by_path([key("a.jpg")])[key("a.jpg")]
    assert known.stale
    again.add(None, used=(key("a.jpg"), known.sha256))
    again.commit(everything=True)
    assert not again.by_path([key("a.jpg")])[key("a.jpg")].stale
    assert store.prune(today - datetime.timedelta(days=10)) == 0
    assert store.prune(today - datetime.timedelta(days=9)) == 2
    assert set(again.by_path([key(f"{name}.jpg") for name in "abc"])) == {key("a.jpg")}
    info = store.info()
    assert (info.images, info.outcomes, info.errors, info.files) == (1, 1, 0, 1)
    assert info.oldest_used == info.newest_used == today.isoformat()
    assert store.clear() == 1
    assert store.info() == replace(
        info, images=0, outcomes=0, files=0, scorers=0, oldest_used=None, newest_used=None,
        nbytes=store.info().nbytes,
    )  # fmt: skip


def test_a_full_disk_ends_the_keeping_not_the_run(
    store: ScoreStore, caplog: pytest.LogCaptureFixture
) -> None:
    scores = bound(store)
    store._database.read(lambda c: c.execute("PRAGMA max_page_count = 1").fetchall())
    with caplog.at_level(logging.WARNING):
        for number in range(500):
            scores.add(record(f"{number}.jpg", str(number)), scored(str(number)))
            scores.commit(everything=True)
    assert scores.by_content(digest("499")) is None
    assert caplog.text.count("the run goes on, but could not be resumed") == 1


def test_what_cannot_be_written_now_waits(
    store: ScoreStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store._database.read(lambda c: c.execute("PRAGMA busy_timeout = 50").fetchall())
    scores = bound(store)
    other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    keep(scores)
    other.execute("COMMIT")
    assert bound(store).by_content(digest("a")) is None
    scores.commit(everything=True)
    assert bound(store).by_content(digest("a")) == scored("a")[1]


def test_a_folder_that_cannot_hold_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError):
        ScoreStore.open(tmp_path / "file")
