"""`moderate runs`: what people and programs read of past runs and of those in progress."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from moderate.cli.main import run
from moderate.report.runs import duration, size
from moderate.state.database import default_folder
from moderate.state.ledger import FILE, Ledger, RunStatus
from tests.support.ledgers import begin, other_run

Captured = pytest.CaptureFixture[str]
FACTS = {
    "weights": "testcard",
    "weights_sha256": "ab" * 32,
    "policy": "strict",
    "policy_sha256": "cd" * 32,
    "device": "cpu",
    "precision": "fp32",
    "backend": "torch",
    "torch": "2.6.0",
    "timm": "1.0.22",
}
NUMBERS = ["time", "images", "review", "block", "errors"]
COUNTS: dict[str, Any] = {
    "rows": 12_345_678,
    "errors": 1_234,
    "skipped": 2,
    "decisions": {"approve": 12_000_000, "review": 300_000, "block": 45_678},
    "error_codes": {"empty_file": 1_200, "truncated": 34},
    "origins": {"new": 5, "changed": 0, "reused": 12_345_673, "duplicate": 0},
}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for key in list(os.environ):
        if key.startswith("MODERATE_"):
            monkeypatch.delenv(key)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


def said(captured: Captured, *arguments: object) -> str:
    """What a command that has to work prints."""
    captured.readouterr()
    assert run(list(map(str, arguments))) == 0
    out, err = captured.readouterr()
    assert err == ""
    return out


def refusal(captured: Captured, *arguments: object) -> str:
    """The one line of a command that must not work."""
    captured.readouterr()
    assert run(list(map(str, arguments))) == 2
    out, err = captured.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("moderate: error: ")
    return err


def words(text: str) -> str:
    return " ".join(text.split())


# list --------------------------------------------------------------------------------------------


def test_a_machine_that_never_ran_anything(folder: Path, capsys: Captured) -> None:
    for _ in range(2):
        expected = f"no runs are recorded in {folder} yet\n"
        assert said(capsys, "runs", "list", "--state", folder) == expected
        assert json.loads(said(capsys, "runs", "list", "--json", "--state", folder)) == []
        for name in ("last", "abc"):
            told = refusal(capsys, "runs", "show", name, "--state", folder)
            assert f"no runs are recorded in {folder} yet" in told
    assert not folder.exists()


def test_one_line_a_run_within_80_columns(folder: Path, capsys: Captured) -> None:
    ledger = Ledger(folder)
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    completed = begin(ledger, started=moment)
    completed.end(RunStatus.COMPLETED, counts=COUNTS)
    interrupted = begin(ledger, started=moment + timedelta(hours=1))
    interrupted.end(RunStatus.INTERRUPTED, counts={"rows": 5})
    with other_run(folder) as dead, other_run(folder, RunStatus.QUEUED) as queued:
        dead.kill()
        lines = said(capsys, "runs", "list", "--state", folder).splitlines()
        listed = json.loads(said(capsys, "runs", "list", "--json", "--state", folder))
    header, *rows = (line.split() for line in lines)
    assert max(map(len, lines)) <= 80
    assert header == ["run", "started", "(UTC)", "status", *NUMBERS]
    assert [row[0] for row in rows] == [
        known.id[:8] for known in (queued, dead, interrupted, completed)
    ]
    assert [row[3] for row in rows] == ["queued", "died", "interrupted", "completed"]
    assert rows[3][1:3] == ["2026-01-02", "03:04"]
    assert rows[3][5:] == ["12345678", "300000", "45678", "1234"]
    assert rows[2][5:] == ["5", "0", "0", "0"]
    assert [known["id"][:8] for known in listed] == [row[0] for row in rows]
    assert [known["status"] for known in listed] == [
        *("queued", "failed", "interrupted", "completed")
    ]
    assert [known["died"] for known in listed] == [False, True, False, False]


def test_numbers_are_never_cut(folder: Path, capsys: Captured) -> None:
    many = {"review": 10**12, "block": 10**12}
    counts = {"rows": 10**13, "errors": 10**12, "decisions": many}
    begin(Ledger(folder)).end(RunStatus.INTERRUPTED, counts=counts)
    lines = said(capsys, "runs", "list", "--state", folder).splitlines()
    assert len(lines) == 2
    assert lines[1].split()[-4:] == [str(10**13), *[str(10**12)] * 3]


def test_how_many(folder: Path, capsys: Captured) -> None:
    ledger = Ledger(folder)
    ids = [begin(ledger).id for _ in range(25)]
    lines = said(capsys, "runs", "list", "--state", folder).splitlines()
    assert len(lines) == 22
    assert lines[-1] == "older runs are not shown; add --limit N"
    assert len(said(capsys, "runs", "list", "--limit", 25, "--state", folder).splitlines()) == 26
    listed = json.loads(said(capsys, "runs", "list", "--json", "--limit", 2, "--state", folder))
    assert [known["id"] for known in listed] == [ids[24], ids[23]]
    refusal(capsys, "runs", "list", "--limit", 0, "--state", folder)


# show --------------------------------------------------------------------------------------------


def test_everything_about_a_run(folder: Path, capsys: Captured) -> None:
    ledger = Ledger(folder)
    active = begin(
        ledger,
        command=["moderate", "scan", "my photos", "--url-header", "Cookie: secret"],
        inputs=["my photos", "http://u:secret@h/list.txt"],
        targets=["/r.csv", "/summary.json"],
    )
    active.update(facts=FACTS)
    active.end(RunStatus.FAILED, "disk full", counts=COUNTS, outputs={"/r.csv": "ef" * 32})
    record = ledger.find(active.id)
    text = said(capsys, "runs", "show", active.id[:6], "--state", folder)
    assert max(map(len, text.splitlines())) <= 80
    assert "secret" not in text
    for digest in ("ab" * 32, "cd" * 32, "ef" * 32):
        assert digest in text.split(), "digests are not broken up"
    for expected in (
        f"run {active.id}",
        "command moderate scan 'my photos' --url-header 'Cookie: ***'",
        "status failed: disk full",
        f"started {record.started}",
        f"ended {record.ended}",
        f"{record.host}, process {os.getpid()}",
        "versions moderate 0.1.0, torch 2.6.0, timm 1.0.22",
        "device cpu, fp32, torch",
        f"weights testcard sha256 {'ab' * 32}",
        f"policy strict sha256 {'cd' * 32}",
        "inputs my photos http://***@h/list.txt",
        f"outputs /r.csv sha256 {'ef' * 32} /summary.json (not written)",
        "images 12345678 rows, 1234 errors, 2 skipped",
        "decisions 12000000 approve, 300000 review, 45678 block",
        "errors 1200 empty_file, 34 truncated",
        "rows 5 new, 12345673 reused",
    ):
        assert expected in words(text), expected
    known = json.loads(said(capsys, "runs", "show", "last", "--json", "--state", folder))
    assert known["id"] == active.id
    assert known["facts"] == FACTS
    assert known["counts"] == COUNTS
    assert known["outputs"] == {"/r.csv": "ef" * 32}
    assert known["command"][-1] == "Cookie: ***"
    assert known["seconds"] >= 0


def test_a_run_in_progress_and_its_death(folder: Path, capsys: Captured) -> None:
    with other_run(folder) as active:
        for rows in (3, 7):
            active.do(counts={"rows": rows, "errors": 1})
            text = words(said(capsys, "runs", "show", "last", "--state", folder))
            assert "status running" in text
            assert f"images {rows} rows, 1 errors, 0 skipped" in text
            assert "so far; last heard of at 20" in text
            assert "/results.csv (not yet written)" in text
        active.kill()
    text = words(said(capsys, "runs", "show", "last", "--state", folder))
    assert (
        "status failed: the process died without a word (killed, out of memory, power loss)" in text
    )
    assert "Z, when it was last heard of" in text
    assert "images 7 rows, 1 errors, 0 skipped" in text
    assert "/results.csv (not written)" in text


def test_ids_that_name_no_run_or_several(folder: Path, capsys: Captured) -> None:
    ledger = Ledger(folder)
    for start in ("aa1", "aa2"):
        begin(ledger, run_id=start.ljust(32, "0"))
    assert "several runs start with aa: " in refusal(
        capsys, "runs", "show", "aa", "--state", folder
    )
    told = refusal(capsys, "runs", "show", "\x1b[31m", "--state", folder)
    assert "no run \\x1b[31m is known" in told


def test_hostile_names_do_not_reach_the_terminal(folder: Path, capsys: Captured) -> None:
    odd = os.fsdecode(b"/\xff\x1b[31m[bold]\xe2\x80\xae.csv")
    ledger = Ledger(folder)
    active = begin(ledger, inputs=[odd], targets=[odd], command=[odd])
    active.update(facts={"weights": odd, "policy": odd})
    active.end(RunStatus.FAILED, odd, outputs={odd: "00"})
    text = said(capsys, "runs", "show", "last", "--state", folder)
    assert "[bold]" in text
    assert all(line.isprintable() for line in text.splitlines())
    known = json.loads(said(capsys, "runs", "show", "last", "--json", "--state", folder))
    assert known["outputs"] == {odd: "00"}


# Where the state is ------------------------------------------------------------------------------


def test_option_environment_configuration_default(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def folder(told: str = "") -> Path:
        capsys.readouterr()
        assert run(["runs", "list"]) == 0
        text, err = capsys.readouterr()
        assert err == told
        return Path(text.removeprefix("no runs are recorded in ").removesuffix(" yet\n"))

    assert folder() == default_folder()
    # The nearest file with settings for scan, beside which the folder is.
    nearest = tmp_path / "moderate.toml"
    nearest.write_text('state = "kept"\nbatch_size = 8\nno_state = false\n')
    assert folder(f"moderate: options from {nearest}\n") == tmp_path / "kept"
    monkeypatch.setenv("MODERATE_NO_CONFIG", "1")
    assert folder() == default_folder()
    monkeypatch.delenv("MODERATE_NO_CONFIG")
    nearest.chmod(0o666)
    ignored = f"not used as configuration: {nearest} (others can write to {nearest})"
    way_out = "name a file in MODERATE_CONFIG, or set MODERATE_NO_CONFIG to look for none"
    assert folder(f"moderate: {ignored}; {way_out}\n") == default_folder()
    other = tmp_path / "other.toml"
    other.write_text('state = "elsewhere"\n')
    monkeypatch.setenv("MODERATE_CONFIG", str(other))
    assert folder() == tmp_path / "elsewhere"
    monkeypatch.setenv("MODERATE_STATE", str(tmp_path / "environment"))
    assert folder() == tmp_path / "environment"
    expected = f"no runs are recorded in {tmp_path / 'option'} yet\n"
    assert said(capsys, "runs", "list", "--state", tmp_path / "option") == expected
    monkeypatch.setenv("MODERATE_STATE", "")
    assert folder() == tmp_path / "elsewhere"


@pytest.mark.parametrize(
    ("toml", "reason"),
    [
        ("state = 3", "state: expected the name of a folder, got 3"),
        ('stale = "x"', "unknown key 'stale'"),
        ("state =", "not valid TOML"),
    ],
)
def test_a_wrong_configuration(tmp_path: Path, capsys: Captured, toml: str, reason: str) -> None:
    (tmp_path / "moderate.toml").write_text(toml)
    assert reason in refusal(capsys, "runs", "list")


# A state that cannot be used ---------------------------------------------------------------------


def test_a_state_that_cannot_be_read_is_one_line(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "folder" / FILE).mkdir(parents=True)
    for name in ("loop", "folder", "x" * 300):
        told = refusal(capsys, "runs", "list", "--state", tmp_path / name)
        assert str(tmp_path / name) in told


def test_a_newer_version_wrote_it(folder: Path, capsys: Captured) -> None:
    import sqlite3

    Ledger(folder).close()
    with sqlite3.connect(folder / FILE) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert "newer version of moderate" in refusal(capsys, "runs", "list", "--state", folder)


def test_it_starts_without_torch() -> None:
    code = (
        "import sys; from moderate.cli.main import run; assert run(['runs', 'list']) == 0; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'timm', 'pyarrow')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("no runs are recorded in ")


# Durations and sizes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0.0s"), (4.21, "4.2s"), (59.9, "59.9s"), (59.96, "1m00s"), (303, "5m03s")),
        *((3599.4, "59m59s"), (3600, "1h00m"), (11_520, "3h12m"), (86_399, "23h59m")),
        *((86_400, "1d00h"), (198_000, "2d07h"), (100 * 86_400, "100d")),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sizes() -> None:
    sizes = [size(number) for number in (0, 1023, 1024, 3_565_158, 5 * 1024**3, 5000 * 1024**3)]
    assert sizes == ["0 B", "1023 B", "1.0 KB", "3.4 MB", "5.0 GB", "5000.0 GB"]
