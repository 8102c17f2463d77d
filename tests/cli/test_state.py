"""`moderate state`: how much is kept, and what prune, vacuum and clear leave of it."""

from __future__ import annotations

import json
import os
import pty
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from moderate.cli.main import run
from moderate.run.summary import utc
from moderate.state.known_files import FileRecord, Scopes
from moderate.state.ledger import FILE, Ledger, RunStatus
from moderate.state.records import FileStat, Outcome
from moderate.state.scores import FILE as SCORES
from moderate.state.scores import ScoreStore
from moderate.types import UNSCORED, ErrorCode, ImageError, ImageFacts
from tests.support.ledgers import begin, other_run

Captured = pytest.CaptureFixture[str]
TODAY = datetime.now(UTC)


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for key in list(os.environ):
        if key.startswith("MODERATE_"):
            monkeypatch.delenv(key)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, two of them last used long ago, and two runs, one of them of long ago."""
    folder = tmp_path / "state"
    store = ScoreStore.open(folder)
    scopes = Scopes(b"s" * 32, b"e" * 32)
    ids = store.scope_ids(scopes)
    error = Outcome(ImageFacts(), ImageError(ErrorCode.EMPTY_FILE, "there are no bytes"))
    results = (Outcome(ImageFacts(), UNSCORED), Outcome(ImageFacts(), UNSCORED), error)
    digests = [bytes([number]) * 32 for number in range(3)]
    files = [FileRecord(digest[:16], digest, FileStat(1, 2, 3)) for digest in digests]
    store.record(list(zip(digests, results, strict=True)), files, [], ids, scopes)
    store.close()
    long_ago = TODAY - timedelta(days=100)
    with sqlite3.connect(folder / SCORES) as connection:
        day = (long_ago.toordinal(), digests[2])
        connection.execute("UPDATE outcomes SET used = ? WHERE sha256 < ?", day)
        connection.execute("UPDATE files SET used = ? WHERE sha256 < ?", day)
    ledger = Ledger(folder)
    for _ in range(2):
        begin(ledger).end(RunStatus.COMPLETED)
    ledger.close()
    with sqlite3.connect(folder / FILE) as connection:
        connection.execute(
            "UPDATE runs SET started = :moment, ended = :moment WHERE rowid = 1",
            {"moment": utc(long_ago)},
        )
    return folder


def said(captured: Captured, *arguments: object) -> str:
    """What a command that has to work prints."""
    captured.readouterr()
    assert run(["state", *map(str, arguments)]) == 0
    out, err = captured.readouterr()
    assert err == ""
    return out


def refusal(captured: Captured, *arguments: object) -> str:
    """The one line of a command that must not work."""
    captured.readouterr()
    assert run(["state", *map(str, arguments)]) == 2
    out, err = captured.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("moderate: error: ")
    return err


def kept(captured: Captured, folder: Path) -> tuple[int, int]:
    """How many scores and runs there are."""
    known = json.loads(said(captured, "info", "--json", "--state", folder))
    return known["scores"]["outcomes"], known["runs"]["runs"]


# info --------------------------------------------------------------------------------------------


def test_how_much_is_kept(folder: Path, capsys: Captured) -> None:
    text = said(capsys, "info", "--state", folder)
    long_ago = (TODAY - timedelta(days=100)).date().isoformat()
    assert " ".join(text.split()).startswith(
        f"folder {folder} scores 3 of 3 images, 1 errors by 2 scorers, for 3 files last used "
        f"{long_ago} to 20"
    )
    assert f"runs     2, 0 of them in progress\n         started {long_ago} to 20" in text
    assert max(map(len, text.splitlines()[1:])) <= 80
    known = json.loads(said(capsys, "info", "--json", "--state", folder))
    assert known["folder"] == str(folder)
    assert known["scores"]["oldest_used"] == long_ago
    assert (known["scores"]["errors"], known["runs"]["alive"]) == (1, 0)
    assert known["scores"]["nbytes"] >= (folder / SCORES).stat().st_size > 0


def test_a_run_in_progress_is_counted(folder: Path, capsys: Captured) -> None:
    with other_run(folder):
        assert "3, 1 of them in progress" in said(capsys, "info", "--state", folder)
    assert "3, 0 of them in progress" in said(capsys, "info", "--state", folder)


@pytest.mark.parametrize(
    "command", [["info"], ["prune", "--older-than", "1d"], ["vacuum"], ["clear"], ["clear", "-y"]]
)
def test_a_machine_that_never_ran_anything(
    tmp_path: Path, capsys: Captured, command: list[str]
) -> None:
    nothing = tmp_path / "nothing"
    assert said(capsys, *command, "--state", nothing) == f"nothing is kept in {nothing} yet\n"
    assert not nothing.exists()


def test_nothing_as_json(tmp_path: Path, capsys: Captured) -> None:
    known = json.loads(said(capsys, "info", "--json", "--state", tmp_path / "nothing"))
    assert known == {"folder": str(tmp_path / "nothing"), "scores": None, "runs": None}


def test_one_of_the_two_files_alone(folder: Path, capsys: Captured) -> None:
    for name in os.listdir(folder):
        if name.startswith(FILE):
            (folder / name).unlink()
    assert "runs" not in said(capsys, "info", "--state", folder)
    expected = "forgot 2 scores and 0 runs\n"
    assert said(capsys, "prune", "--older-than", "90d", "--state", folder).startswith(expected)
    assert not (folder / FILE).exists()


# prune -------------------------------------------------------------------------------------------


def test_prune(folder: Path, capsys: Captured) -> None:
    assert said(capsys, "prune", "--older-than", "101d", "--state", folder) == (
        "forgot 0 scores and 0 runs\n"
    )
    assert kept(capsys, folder) == (3, 2)
    assert said(capsys, "prune", "--older-than", "8w", "--keep-runs", "--state", folder) == (
        "forgot 2 scores and 0 runs\nmoderate state vacuum gives their room back to the disk\n"
    )
    assert kept(capsys, folder) == (1, 2)
    assert said(capsys, "prune", "--older-than", "48h", "--state", folder).startswith(
        "forgot 0 scores and 1 run\n"
    )
    assert kept(capsys, folder) == (1, 1)


def test_prune_leaves_the_living(folder: Path, capsys: Captured) -> None:
    with other_run(folder) as alive:
        said(capsys, "prune", "--older-than", "0h", "--state", folder)
        assert [record.id for record in Ledger(folder).runs()] == [alive.id]


@pytest.mark.parametrize(
    "age", ["", "90", "d", "-1d", "1.5d", "90 days", "1y", "999999d", "\u0663d", "1d1h"]
)
def test_what_is_no_age(folder: Path, capsys: Captured, age: str) -> None:
    told = refusal(capsys, "prune", "--older-than", age, "--state", folder)
    assert "is no age; write 12h, 90d or 8w" in told
    assert kept(capsys, folder) == (3, 2)


def test_an_age_before_all_time_is_one_all_the_same(folder: Path, capsys: Captured) -> None:
    assert said(capsys, "prune", "--older-than", "99999w", "--state", folder) == (
        "forgot 0 scores and 0 runs\n"
    )


def test_prune_wants_an_age(folder: Path, capsys: Captured) -> None:
    assert "--older-than" in refusal(capsys, "prune", "--state", folder)


# vacuum ------------------------------------------------------------------------------------------


def test_vacuum_gives_room_back(folder: Path, capsys: Captured) -> None:
    ledger = Ledger(folder)
    for _ in range(50):
        begin(ledger, inputs=["x" * 2_000] * 20).end(RunStatus.COMPLETED)
    ledger.clear()
    ledger.close()
    before = sum(file.stat().st_size for file in folder.glob("*.sqlite3*"))
    text = said(capsys, "vacuum", "--state", folder)
    after = sum(file.stat().st_size for file in folder.glob("*.sqlite3*"))
    assert after < before / 10
    assert " before, " in text
    assert text.endswith(" now\n")


def test_a_state_that_others_write_is_one_line(folder: Path, capsys: Captured) -> None:
    writer = sqlite3.connect(folder / FILE, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    told = refusal(capsys, "vacuum", "--state", folder)
    writer.close()
    assert "another process is writing, try again" in told


# clear -------------------------------------------------------------------------------------------


def test_clear(folder: Path, capsys: Captured) -> None:
    assert said(capsys, "clear", "--yes", "--keep-runs", "--state", folder) == (
        "forgot 3 scores and 0 runs\n"
    )
    assert kept(capsys, folder) == (0, 2)
    assert said(capsys, "clear", "-y", "--state", folder) == "forgot 0 scores and 2 runs\n"
    assert kept(capsys, folder) == (0, 0)


def clear_on_a_terminal(folder: Path, answer: str) -> subprocess.CompletedProcess[str]:
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    done = subprocess.run(
        [sys.executable, "-m", "moderate", "state", "clear", "--state", str(folder)],
        stdin=theirs,
        capture_output=True,
        text=True,
    )
    os.close(ours)
    os.close(theirs)
    return done


def test_clear_asks_on_a_terminal(folder: Path, capsys: Captured) -> None:
    no = clear_on_a_terminal(folder, "n")
    assert (no.returncode, no.stderr) == (0, "")
    question = f"Remove all scores and all records of runs in {folder}? [y/N]:"
    assert no.stdout.startswith(question)
    assert no.stdout.endswith("nothing was removed\n")
    assert kept(capsys, folder) == (3, 2)
    yes = clear_on_a_terminal(folder, "y")
    assert yes.stdout.endswith("forgot 3 scores and 2 runs\n")
    assert kept(capsys, folder) == (0, 0)


def test_clear_without_a_terminal_refuses(folder: Path, capsys: Captured) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "moderate", "state", "clear", "--state", str(folder)],
        input="y\n",
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "moderate: error: clear asks before it removes anything; without a terminal, add --yes\n"
    )
    assert kept(capsys, folder) == (3, 2)


def test_clear_leaves_a_run_in_progress_its_scores(folder: Path, capsys: Captured) -> None:
    with other_run(folder, RunStatus.QUEUED):
        told = refusal(capsys, "clear", "--yes", "--state", folder)
        assert "1 run in progress, nothing was removed" in told
        assert kept(capsys, folder) == (3, 3)
    assert said(capsys, "clear", "--yes", "--state", folder) == "forgot 3 scores and 3 runs\n"


def test_the_environment_names_the_folder(
    folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODERATE_STATE", str(folder))
    assert said(capsys, "info").startswith(f"folder   {folder}\n")
    assert said(capsys, "clear", "--yes") == "forgot 3 scores and 2 runs\n"


def test_a_damaged_file_is_put_aside(folder: Path, capsys: Captured) -> None:
    (folder / FILE).write_bytes(b"no database" * 1000)
    assert run(["state", "info", "--state", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert "runs     0, 0 of them in progress" in out
    assert "is damaged; it was put aside" in err
