"""One state from several: what is added, which of two outcomes stays, and what is refused."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from moderate import mounts
from moderate.cli.main import run
from moderate.errors import StateError
from moderate.state.known_files import FileRecord, Scopes
from moderate.state.ledger import FILE as RUNS
from moderate.state.ledger import Ledger, RunStatus
from moderate.state.merging import MergedState, merge_state
from moderate.state.records import FileStat, Outcome
from moderate.state.scores import FILE as SCORES
from moderate.state.scores import ScopeFacts, ScoreStore
from moderate.types import UNSCORED, Category, ErrorCode, ImageError, ImageFacts
from tests.support.ledgers import begin, other_run

Captured = pytest.CaptureFixture[str]
SCOPES = Scopes(b"s" * 32, b"e" * 32)
OTHER = Scopes(b"t" * 32, b"f" * 32)


def scored(value: float) -> Outcome:
    return Outcome(ImageFacts(), {**UNSCORED, Category.NUDITY: value}, scored_at=1)


def digest(number: int) -> bytes:
    return bytes([number]) * 32


def make(
    folder: Path, outcomes: dict[int, Outcome], scopes: Scopes = SCOPES, first: Scopes | None = None
) -> Path:
    """A state with these outcomes, a file for each, and a run that has ended."""
    store = ScoreStore.open(folder)
    if first:  # so that row ids of scopes differ between states
        store.scope_ids(first)
    ids = store.scope_ids(scopes)
    files = [FileRecord(digest(n)[:16], digest(n), FileStat(n, 2, 3)) for n in outcomes]
    store.record([(digest(n), one) for n, one in outcomes.items()], files, [], ids, scopes)
    store.set_facts(ids[0], ScopeFacts(("seccomp",), "torch"))
    store.close()
    ledger = Ledger(folder)
    begin(ledger).end(RunStatus.COMPLETED)
    ledger.close()
    return folder


def known(folder: Path, numbers: range, scopes: Scopes = SCOPES) -> dict[int, object]:
    store = ScoreStore.open(folder)
    found = store.by_content([digest(n) for n in numbers], store.known_scope_ids(scopes), scopes)
    store.close()
    return {n: found[digest(n)].result for n in numbers if digest(n) in found}


def runs(folder: Path) -> list[str]:
    ledger = Ledger(folder)
    found = [record.id for record in ledger.runs()]
    ledger.close()
    return sorted(found)


def test_the_scores_and_runs_of_all_are_in_one(tmp_path: Path) -> None:
    error = Outcome(ImageFacts(), ImageError(ErrorCode.TRUNCATED, "cut off"), scored_at=1)
    a = make(tmp_path / "a", {1: scored(0.25), 2: error})
    b = make(tmp_path / "b", {3: scored(0.5)}, first=OTHER)
    c = make(tmp_path / "c", {1: scored(0.75)}, scopes=OTHER)
    into = tmp_path / "into"
    merged = [merge_state(folder, into) for folder in (a, b, c)]
    assert merged[0] == MergedState(scores=2, files=2, runs=1)
    assert known(into, range(5)) == {1: scored(0.25).result, 2: error.result, 3: scored(0.5).result}
    assert known(into, range(5), OTHER) == {1: scored(0.75).result}
    assert runs(into) == sorted(runs(a) + runs(b) + runs(c))
    store = ScoreStore.open(into)
    ids = store.known_scope_ids(SCOPES)
    assert store.facts(ids[0]) == ScopeFacts(("seccomp",), "torch")
    by_path = store.by_path([digest(3)[:16]], ids, SCOPES)
    found = by_path.get(digest(3)[:16])
    assert found
    assert found.outcome == replace(scored(0.5), facts=ImageFacts(sha256=digest(3).hex()))
    store.close()
    again = merge_state(a, into)
    assert again == MergedState(known=2)
    assert again.text == "0 scores and 0 runs added; 2 known already"


def test_of_two_outcomes_the_one_that_was_there_first_stays(
    tmp_path: Path, capsys: Captured
) -> None:
    make(tmp_path / "a", {1: scored(0.25), 2: scored(0.5)})
    make(tmp_path / "b", {1: scored(0.75), 2: scored(0.5)})
    into = tmp_path / "into"
    command = ["state", "merge", str(tmp_path / "a"), str(tmp_path / "b"), "--into", str(into)]
    assert run(command) == 0
    assert capsys.readouterr().out == (
        "2 scores and 2 runs added; 2 known already; 1 content with another outcome, of which the "
        "one that was there first stays\n"
    )
    assert known(into, range(3)) == {1: scored(0.25).result, 2: scored(0.5).result}


def test_damaged_records_are_left_out_and_replaced(tmp_path: Path) -> None:
    good, bad = make(tmp_path / "a", {1: scored(0.25)}), make(tmp_path / "b", {1: scored(0.25)})
    with sqlite3.connect(bad / SCORES) as connection:
        connection.execute("UPDATE outcomes SET payload = zeroblob(99)")
        connection.execute("UPDATE files SET stat = zeroblob(28)")
    connection.close()
    into = tmp_path / "into"
    assert merge_state(bad, into) == MergedState(damaged=2, runs=1)
    assert known(into, range(3)) == {}
    assert merge_state(good, bad).scores == 1, "a damaged outcome is none"
    assert known(bad, range(3)) == {1: scored(0.25).result}


def test_many_records_are_added_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moderate.state.merging._AT_ONCE", 3)
    make(tmp_path / "a", {number: scored(0.5) for number in range(10)})
    merged = merge_state(tmp_path / "a", tmp_path / "into")
    assert (merged.scores, merged.files) == (10, 10)


def test_a_run_in_progress_is_added_when_it_has_ended(tmp_path: Path) -> None:
    source, into = make(tmp_path / "a", {}), tmp_path / "into"
    with other_run(source) as other:
        merged = merge_state(source, into)
        assert (merged.runs, merged.alive) == (1, 1)
        assert other.id not in runs(into)
    # Killed without a word: nobody has written down its end.
    assert merge_state(source, into).runs == 1
    ledger = Ledger(into)
    assert ledger.find(other.id).died
    ledger.close()


def test_what_is_no_state_is_one_line(tmp_path: Path, capsys: Captured) -> None:
    empty, text, foreign, newer = (tmp_path / name for name in ("empty", "text", "other", "newer"))
    for folder in (empty, text, foreign, newer):
        folder.mkdir()
    (text / SCORES).write_text("no database " * 100)
    with sqlite3.connect(foreign / SCORES) as connection:
        connection.execute("CREATE TABLE mine (x)")
    with sqlite3.connect(newer / RUNS) as connection:
        connection.execute("CREATE TABLE runs (x)")
        connection.execute("PRAGMA user_version = 99")
        connection.execute(f"PRAGMA application_id = {0x4D4F4452}")
    good = make(tmp_path / "good", {1: scored(0.5)})
    damaged = make(tmp_path / "damaged", {n: scored(0.5) for n in range(200)})
    with open(damaged / SCORES, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 40_000)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.sqlite3")}
    for folder, line in (
        (empty, f"{empty} holds no state: there is no scores.sqlite3 in it"),
        (tmp_path / "none", f"{tmp_path / 'none'} holds no state"),
        (text, f"{text} holds no state that can be read: file is not a database"),
        (
            foreign,
            f"{foreign} holds no state that can be read: the database is not one of moderate",
        ),
        (newer, "was written by a newer version of moderate (schema 99"),
        (damaged, f"{damaged} holds no state that can be read: "),
        (good, f"{good} is the state that others are added to"),
    ):
        into = good if folder == good else tmp_path / "into"
        assert run(["state", "merge", str(folder), "--into", str(into)]) == 2
        (told,) = capsys.readouterr().err.splitlines()
        assert line in told
        if folder != good:  # one that cannot be read keeps the others out, too
            assert run(["state", "merge", str(good), str(folder), "--into", str(into)]) == 2
            assert line in capsys.readouterr().err
            assert folder == damaged or not into.exists()
    for path, data in before.items():
        assert path.read_bytes() == data, "the other state is only read"


def test_a_state_on_a_file_system_of_several_machines_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make(tmp_path / "a", {1: scored(0.5)})
    monkeypatch.setattr(
        "moderate.state.merging.of_several_machines",
        lambda path: "nfs4" if path == source else None,
    )
    assert merge_state(source, tmp_path / "into").scores == 1
    assert sorted(os.listdir(source)) == [RUNS, "running", SCORES] or SCORES in os.listdir(source)


def nfs_at(path: Path, monkeypatch: pytest.MonkeyPatch, kind: str = "nfs4") -> None:
    """Have the device that holds `path` mounted as a file system of several machines."""
    device = path.stat().st_dev
    table = path.parent / "mountinfo"
    table.write_text(f"24 1 {os.major(device)}:{os.minor(device)} / / rw - {kind} server:/x rw\n")
    monkeypatch.setattr(mounts, "MOUNTS", str(table))


def test_a_state_is_not_kept_on_a_file_system_of_several_machines(
    tmp_path: Path, bundle: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make(tmp_path / "a", {1: scored(0.5)})
    (tmp_path / "home").mkdir()
    (tmp_path / "in").mkdir()
    nfs_at(tmp_path / "home", monkeypatch)
    command = ["scan", str(tmp_path / "in"), "--weights", str(bundle), "-q"]
    assert run([*command, "--state", str(tmp_path / "home" / "new" / "state")]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "is on nfs4, which several machines may share, and SQLite is not safe there" in told
    assert told.endswith("use --state DIR with a folder on a local disk, or --no-state")
    assert not (tmp_path / "home" / "new").exists()
    assert run(["state", "merge", str(source), "--into", str(tmp_path / "home")]) == 2
    assert "is on nfs4" in capsys.readouterr().err
    # The folder that nobody named costs a warning, not the run.
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    assert run(command) == 0
    assert "going on without" in capsys.readouterr().err
    assert run([*command, "--no-state"]) == 0
    assert "nfs4" not in capsys.readouterr().err


def test_a_scan_imports_the_scores_of_other_states(
    tmp_path: Path, bundle: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moderate.results.read import read_results
    from tests.support.pictures import encode, scene

    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for number in range(6):
        (Path("in") / f"{number}.png").write_bytes(encode(scene((60, 40), seed=number), "PNG"))
    command = ["scan", "in", "--weights", str(bundle), "--device", "cpu", "-q"]
    for index in (1, 2):
        assert run([*command, "--shard", f"{index}/2", "--state", f"s{index}"]) == 0
    both = [*command, "--state", "own", "--out", "rows.csv"]
    assert run([*both, "--state-import", "s1", "--state-import", "s2"]) == 0
    assert {row["origin"] for row in read_results("rows.csv").rows()} == {"reused"}
    assert len(runs(Path("own"))) == 3
    assert run([*both, "--state-import", "none"]) == 2
    assert "none holds no state" in capsys.readouterr().err
    assert run([*command, "--no-state", "--state-import", "s1"]) == 2
    assert "--state-import adds to the state" in capsys.readouterr().err


def test_a_folder_cannot_be_added_to_itself(tmp_path: Path) -> None:
    make(tmp_path / "a", {1: scored(0.5)})
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(StateError, match="is the state that others are added to"):
        merge_state(tmp_path / "link", tmp_path / "a")
