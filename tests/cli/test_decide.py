"""`moderate decide`: what it prints, where, and how it ends."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from moderate.cli.main import run
from moderate.exports.fiftyone import FiftyOneDataset
from moderate.results.atomic import AtomicFile
from moderate.results.read import read_results
from moderate.types import Category
from tests.support.reviewed import write_journal
from tests.support.scored import write_results

Captured = pytest.CaptureFixture[str]
HEAD = "path,status,decision,nudity,violence,error_code\n"
ROWS = "./a,ok,approve,0.1,0.1,\n./b,ok,review,0.5,,\n./\x1b[31m,error,review,,,truncated\n"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "rows.csv"
    file.write_text(HEAD + ROWS)
    return file


def test_the_summary_on_stdout(source: Path, capsys: Captured) -> None:
    assert run(["decide", "rows.csv", "--policy", "permissive", "--out", "new.csv"]) == 0
    said = capsys.readouterr()
    assert "2 scored + 1 errors + 0 skipped = 3 found; 1 decisions changed (33.3 %)" in said.out
    assert "Decisions: before (rows) and now (columns)" in said.out
    assert "policy: permissive" in said.out
    assert "\x1b" not in said.out + said.err
    assert "has no audit facts" in said.err  # as long as there is no file beside it
    rows = list(read_results("new.csv").rows())
    assert [row["decision"] for row in rows] == ["approve", "approve", "review"]
    assert rows[1]["reasons"] == "nudity 0.50 < review 0.60"


def test_rows_on_stdout(source: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(["decide", "rows.csv", "--policy", "strict", "--out", "-"]) == 0
    said = capfdbinary.readouterr()
    rows = list(csv.DictReader(said.out.decode().splitlines()))
    assert [row["decision"] for row in rows] == ["review", "review", "block"]
    assert b"Decisions" in said.err
    assert run(["decide", "rows.csv", "--policy", "strict", "--out", "-.jsonl", "--quiet"]) == 0
    said = capfdbinary.readouterr()
    assert json.loads(said.out.splitlines()[0])["path"] == "./a"
    assert b"Decisions" not in said.err


def test_without_out_nothing_is_written(source: Path, capsys: Captured) -> None:
    assert run(["decide", "rows.csv", "--policy", "strict"]) == 0
    assert "rows     not written" in capsys.readouterr().err
    assert [path.name for path in source.parent.iterdir()] == ["rows.csv"]


def test_a_summary_that_cannot_be_opened_costs_no_work(source: Path, capsys: Captured) -> None:
    summary = AtomicFile("s.html")
    arguments = ["decide", "rows.csv", "--policy", "strict", "--out", "new.csv"]
    assert run([*arguments, "--summary", "s.html"]) == 2
    assert "another run is writing it" in capsys.readouterr().err
    summary.discard()
    assert [path.name for path in source.parent.iterdir()] == ["rows.csv"]
    assert run([*arguments, "--summary", "s.html"]) == 0
    assert "<title>moderate: decided again</title>" in Path("s.html").read_text()


@pytest.mark.parametrize(
    ("policy", "fail_on", "code"),
    [
        ("permissive", "never", 0),
        ("permissive", "block", 0),
        ("permissive", "review", 1),
        ("strict", "block", 1),
    ],
)
def test_fail_on(source: Path, policy: str, fail_on: str, code: int) -> None:
    assert run(["decide", "rows.csv", "--policy", policy, "--fail-on", fail_on, "-q"]) == code


def test_fail_on_lists_the_worst_first(source: Path, capsys: Captured) -> None:
    rows = "".join(f"./{n}.jpg,ok,approve,{0.9 if n % 2 else 0.5},0.0,\n" for n in range(6))
    source.write_text(HEAD + rows)
    given = ["decide", "rows.csv", "--policy", "balanced", "--fail-on", "review", "-q"]
    assert run([*given, "--max-listed", "4"]) == 1
    head, *lines = capsys.readouterr().err.splitlines()[-5:]
    assert "6 images at or above --fail-on review (the first 4" in head
    shown = [line.split(": ")[0] for line in lines]
    assert shown == ["  block   ./1.jpg", "  block   ./3.jpg", "  block   ./5.jpg",
                     "  review  ./0.jpg"]  # fmt: skip


def test_errors_are_one_line(source: Path, capsys: Captured) -> None:
    for arguments, line in (
        (["rows.csv", "--policy", "strict", "--out", "rows.csv"], "rows.csv is an input"),
        (["rows.csv", "--policy", "nothing"], "no policy 'nothing'"),
        (["none.csv", "--policy", "strict"], "cannot read none.csv"),
        (["rows.csv", "--policy", "strict", "--out", "x.txt"], "the suffix decides the format"),
        (["rows.csv", "--policy", "strict", "--summary", "x.txt"], "the suffix decides the format"),
        (["rows.csv"], "Missing option '--policy' or '--decisions'"),
    ):
        assert run(["decide", *arguments]) == 2
        said = capsys.readouterr().err
        assert line in said
        assert said.count("\n") == 1
    assert source.read_text() == HEAD + ROWS


def test_a_reader_that_goes_away_is_no_traceback(source: Path) -> None:
    source.write_text(HEAD + "./a,ok,approve,0.1,0.1,\n" * 20_000)
    command = [sys.executable, "-m", "moderate", "decide", "rows.csv", "--policy", "strict"]
    with subprocess.Popen(
        [*command, "--out", "-", "-q"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 141
    assert b"Traceback" not in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["decide", "rows.csv", "--policy", "strict", "--fail-on", "review"],
        ["policy", "show", "strict"],
        ["--help"],
    ],
)
def test_a_closed_pipe_is_no_finding(source: Path, arguments: list[str]) -> None:
    """Reports, plain lines and Typer's own output."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "moderate", *arguments]
    try:
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writer)
    assert done.returncode == 141
    assert b"Traceback" not in done.stderr


def test_it_needs_neither_torch_nor_weights(source: Path) -> None:
    code = (
        "import sys; from moderate.cli.main import run; "
        "assert run(['decide', 'rows.csv', '--policy', 'strict', '-q', '--out', 'x.csv']) == 0; "
        "assert run(['diff', 'rows.csv', 'x.csv', '--out', 'x.md']) == 0; "
        "print('torch' in sys.modules, 'timm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.fixture
def reviewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows that a machine approves, sends to review (twice) and blocks, and a journal of them."""
    monkeypatch.chdir(tmp_path)
    scores = {Category.NUDITY: np.array([0.1, 0.5, 0.6, 0.9], np.float32)}
    rows = write_results(tmp_path / "r.csv", scores, copies=(1,))
    answers = [(2, "=ada", "block"), (3, "bob", "approve"), (3, "ada", "unsure")]
    write_journal(tmp_path / "r.csv.decisions.jsonl", rows, [*answers, (4, "bob", "approve")])
    return rows


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_decisions_of_people_are_columns_beside_those_of_the_machine(
    reviewed: Path, suffix: str, capsys: Captured
) -> None:
    out, again = f"final.{suffix}", f"again.{suffix}"
    given = ["--decisions", "r.csv.decisions.jsonl"]
    assert run(["decide", "r.csv", *given, "--out", out, "--summary", "s.json"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "4 rows decided by =ada, bob, ada; 1 of them copies of another" in shown
    assert "1 disputed" in shown
    assert run(["decide", out, *given, "--out", again, "-q"]) == 0
    for file in (out, again):
        before, after = read_results("r.csv"), read_results(file)
        assert after.carried == ("final_decision", "decided_by", "decided_at")
        for old, new in zip(before.rows(), after.rows(), strict=True):
            assert {name: new[name] for name in old} == old, "the machine's decision stays"
        final = [(row["final_decision"] or None, row["decided_by"] or None) for row in after.rows()]
        ada = ("block", "=ada")
        assert final == [
            (None, None),
            ada,
            ("review", "bob; ada (unsure)"),
            ("approve", "bob"),
            ada,
        ]
        assert after.facts["policy_json"] == before.facts["policy_json"]
        assert after.facts["decided_from"]
        assert len(after.facts["decisions_sha256"]) == 64
    summary = json.loads(Path("s.json").read_text())
    assert summary["decisions"] == {"approve": 2, "review": 1, "block": 2}
    assert summary["changed"] == 3
    assert summary["people"]["rows"] == 4


def test_a_policy_and_decisions_of_people_go_together(reviewed: Path) -> None:
    given = ["--decisions", "r.csv.decisions.jsonl", "--policy", "permissive"]
    assert run(["decide", "r.csv", *given, "--out", "final.csv", "-q"]) == 0
    rows = list(read_results("final.csv").rows())
    decisions = ["approve", "approve", "review", "review", "approve"]
    assert [row["decision"] for row in rows] == decisions
    assert rows[2]["final_decision"] == "review"
    assert rows[1]["final_decision"] == "block"


def test_fail_on_counts_what_people_decided(reviewed: Path, capsys: Captured) -> None:
    given = ["decide", "r.csv", "--decisions", "r.csv.decisions.jsonl", "-q", "--fail-on"]
    assert run([*given, "block"]) == 1
    said = capsys.readouterr().err
    assert "2 images" in said
    assert "./1.jpg: decided by =ada; nudity" in said
    assert "./3.jpg" not in said
    scores = {Category.NUDITY: np.array([0.9], np.float32)}
    rows = write_results(Path("one.csv"), scores)
    write_journal(Path("one"), rows, [(1, "ada", "approve")])
    assert run(["decide", "one.csv", "--decisions", "one", "-q", "--fail-on", "review"]) == 0


def test_decisions_that_cannot_be_used_are_one_line(reviewed: Path, capsys: Captured) -> None:
    write_results(Path("other.csv"), {Category.NUDITY: np.full(2, 0.5, np.float32)})
    Path("nothing").write_text("no journal\n")
    Path("bare.csv").write_text(HEAD + ROWS)
    journal = "r.csv.decisions.jsonl"
    for arguments, line in (
        (["other.csv", "--decisions", journal], "decisions on other results than these"),
        (["r.csv", "--decisions", "none"], "cannot read none"),
        (["r.csv", "--decisions", "nothing"], "no line of a review's decisions"),
        (["bare.csv", "--decisions", journal], "name it (--policy)"),
        (["r.csv", "--decisions", journal, "--summary", journal], "use one of"),
    ):
        assert run(["decide", *arguments, "--out", "new.csv"]) == 2
        said = capsys.readouterr().err
        assert line in said.splitlines()[-1]
        assert not Path("new.csv").exists()


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_reports_on_final_results_go_by_what_people_decided(
    reviewed: Path, suffix: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    opinions: list[str] = []
    monkeypatch.setattr(FiftyOneDataset, "add", lambda _, row: opinions.append(row["decision"]))
    final, given = f"final.{suffix}", ["--decisions", "r.csv.decisions.jsonl"]
    assert run(["decide", "r.csv", *given, "--out", final, "-q"]) == 0
    forms = [f"--report={form}" for form in ("dsa:d.csv", "junit:j.xml", "fiftyone:f.csv")]
    capsys.readouterr()
    assert run(["report", final, *forms, "--out", "s.json", "--fail-on", "block"]) == 1
    said = capsys.readouterr().err
    assert "2 images" in said
    assert "./1.jpg: decided by =ada; nudity" in said
    assert "./3.jpg" not in said
    summary = json.loads(Path("s.json").read_text())
    assert summary["decisions"] == {"approve": 2, "review": 1, "block": 2}
    with open("d.csv", newline="") as file:
        statements = list(csv.DictReader(file))
    assert [each["automated_decision"] for each in statements] == [
        "AUTOMATED_DECISION_NOT_AUTOMATED"
    ] * 2
    assert not any(each["category"] + each["decision_facts"] for each in statements)
    assert Path("j.xml").read_text().count('type="people"') == 2
    assert opinions == ["approve", "review", "review", "block", "review"], "to be compared"
    assert run(["report", final, "--baseline", final, "--fail-on", "review", "--out", "t.md"]) == 0
    # Another policy alone leaves what people decided, and says so.
    capsys.readouterr()
    assert run(["decide", final, "--policy", "strict", "--out", "other.csv"]) == 0
    assert "People have decided on the source" in " ".join(capsys.readouterr().out.split())


def test_who_confirmed_a_decision_is_named_last(reviewed: Path, capsys: Captured) -> None:
    write_journal(Path("j"), reviewed, [(4, "ada", "block"), (2, "bob", "unsure")])
    assert run(["decide", "r.csv", "--decisions", "j", "--out", "final.csv", "-q"]) == 0
    # The same finding as before, which a baseline of the machine's results has.
    listed = ["--fail-on", "review", "--report", "dsa:d.csv", "--report", "junit:j.xml"]
    assert run(["report", "final.csv", "--baseline", "r.csv", *listed]) == 0
    with open("d.csv", newline="") as file:
        (statement,) = csv.DictReader(file)
    assert statement["automated_decision"] == "AUTOMATED_DECISION_PARTIALLY"
    assert "nudity 0.90" in statement["decision_facts"]
    text = Path("j.xml").read_text()
    assert "block 0.85; decided by ada" in text
    assert "bob" not in text
