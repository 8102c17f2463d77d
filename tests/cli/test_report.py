"""`moderate report`: the summary of a file, and trends over files and the ledger."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from moderate.cli.main import run
from moderate.state.ledger import Ledger, RunStatus
from moderate.types import Category
from tests.support.ledgers import begin
from tests.support.pictures import encode, scene
from tests.support.scored import DAY, write_results

Captured = pytest.CaptureFixture[str]


def test_the_summary_of_a_file_is_that_of_its_run(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    images = tmp_path / "images"
    images.mkdir()
    for number in range(4):
        (images / f"{number}.png").write_bytes(encode(scene((80, 60), seed=number % 3), "PNG"))
    (images / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    arguments = ["scan", "images", "--weights", str(bundle), "-q", "--summary", "s.json"]
    outs = [f"r.{suffix}" for suffix in ("csv", "parquet", "jsonl")]
    assert run([*arguments, *(part for out in outs for part in ("--out", out))]) == 0
    expected = json.loads(Path("s.json").read_text())
    for file in outs:
        capsys.readouterr()
        assert run(["report", file, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        for key in ("rows", "scored", "errors", "decisions", "categories", "error_codes"):
            assert found[key] == expected[key], key
        for key in ("warnings", "error_examples"):
            assert found[key] == expected[key], key
        assert found["duplicates"] == 1
        beside = {"sha256", "csv"}
        facts = {key: value for key, value in found["audit"].items() if key not in beside}
        assert facts == expected["audit"]
    assert run(["report", "r.csv"]) == 0
    shown = capsys.readouterr().out
    assert "4 scored + 1 errors = 5 rows" in shown
    assert run(["report", "r.csv", "--out", "both.json", "--out", "r.md"]) == 0
    assert Path("both.json").is_file()
    assert "## Decisions" in Path("r.md").read_text()
    assert "4 scored" in Path("r.md").read_text()
    assert run(["report", "r.csv", "--out", "r.html"]) == 0
    assert "<caption>Decisions</caption>" in Path("r.html").read_text()
    assert run(["report", "r.csv", "--out", "r.json"]) == 0
    written = json.loads(Path("r.json").read_text())
    assert written.pop("generator").startswith("moderate report sha256:")
    audit = {key: written["audit"][key] for key in ("sha256", "csv")}
    assert written == found | {"audit": found["audit"] | audit}


@pytest.fixture
def days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Five quiet days, and a sixth with higher scores."""
    monkeypatch.chdir(tmp_path)
    for number in range(6):
        rng = np.random.default_rng(number)
        scores = {Category.NUDITY: rng.random(500) ** (4 if number < 5 else 1)}
        started = DAY + timedelta(days=number)
        write_results(tmp_path / f"{number}.csv", scores, started=started)
    return [f"{number}.csv" for number in range(6)]


def test_rows_without_their_policy_get_advice_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    write_results(Path("bare.csv"), {Category.NUDITY: np.linspace(0, 1, 5)})
    Path("bare.csv.meta.json").unlink()
    assert run(["report", "bare.csv"]) == 2
    err = capsys.readouterr().err
    assert "moderate decide RESULTS --policy NAME --out FILE" in err
    assert "(--policy)" not in err  # an option that report does not have
    assert run(["decide", "bare.csv", "--policy", "strict", "--out", "again.csv", "-q"]) == 0
    assert run(["report", "again.csv"]) == 0


def test_drift_is_shown_and_can_fail_a_job(days: list[str], capsys: Captured) -> None:
    assert run(["report", "--trend", *days[:5], "--fail-on-drift"]) == 0
    assert "no drift" in capsys.readouterr().out
    assert run(["report", "--trend", *days, "--fail-on-drift"]) == 1
    out = capsys.readouterr().out
    assert "drift: decisions, nudity bands, nudity scores" in out
    assert "chi-squared" in out
    assert run(["report", "--trend", *days, "--out", "t.json"]) == 0
    assert run(["report", "--trend", *days, "--out", "t.md"]) == 0
    assert json.loads(Path("t.json").read_text())["drift"][0] == "decisions"
    assert "DRIFT" in Path("t.md").read_text()
    capsys.readouterr()
    assert run(["report", "--trend", *days, "--by", "week", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [period["period"] for period in found["periods"]] == ["2026-W45"]


def test_runs_of_the_ledger_count_once_and_only_whole_ones(
    days: list[str], tmp_path: Path, capsys: Captured
) -> None:
    state = tmp_path / "state"
    ledger = Ledger(state)
    facts = json.loads(Path("5.csv.meta.json").read_text())
    for number, (status, name) in enumerate(
        (
            (RunStatus.COMPLETED, None),
            (RunStatus.COMPLETED, None),
            (RunStatus.FAILED, None),
            (RunStatus.COMPLETED, facts["run_id"]),
        )
    ):
        started = DAY + timedelta(days=number - 10)
        active = begin(ledger, started=started, **({"run_id": name} if name else {}))
        counts = {"approve": 90, "review": 8, "block": 2}
        active.end(status, counts={"decisions": counts, "errors": 1, "rows": 100})
    ledger.close()
    arguments = ["report", "--trend", "--ledger", "--state", str(state), "--json"]
    assert run(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    names = [period["period"] for period in found["periods"]]
    assert names == ["2026-10-23", "2026-10-24", "2026-10-26"]
    assert [period["images"] for period in found["periods"]] == [100, 100, 100]
    assert [test["what"] for test in found["tests"]] == ["decisions"]
    assert found["drift"] == []
    assert run([*arguments, "5.csv"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [period["images"] for period in found["periods"]] == [100, 100, 500]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "name one results file"),
        (["0.csv", "1.csv"], "name one results file"),
        (["--trend"], "name results files"),
        (["--ledger", "0.csv"], "go with --trend"),
        (["0.csv", "--out", "x.txt"], "use one of .json, .md, .html"),
        (["--trend", "0.csv", "--alpha", "2"], "--alpha 2"),
        (["--trend", "0.csv", "--min-effect", "-1"], "--min-effect"),
        (["--trend", "--ledger", "--state", "none"], "no runs are recorded"),
        (["--trend", "0.csv", "none.csv"], "cannot read none.csv"),
    ],
)
def test_nonsense_is_one_line(
    arguments: list[str], reason: str, days: list[str], capsys: Captured
) -> None:
    assert run(["report", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert reason in err
