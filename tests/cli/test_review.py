"""`moderate review`: which queue the page gets, and what stops it before it is served."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moderate.cli.main import run
from moderate.results.read import Results
from moderate.review.rows import ResultRows, read_rows
from moderate.types import Category
from tests.support.reviewed import write_journal
from tests.support.scored import write_results

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows of which four are in review; the page is ready at once, and ends."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("moderate.review.run.serve", lambda app, listener, on_ready: on_ready())
    monkeypatch.setattr("moderate.review.pictures.Pictures", lambda *_: nullcontext())
    scores = {Category.NUDITY: np.array([0.1, 0.4, 0.5, 0.6, 0.7, 0.9], np.float32)}
    return write_results(tmp_path / "r.csv", scores)


def test_the_page_is_for_the_queue_of_results_or_for_a_template(
    results: Path, capsys: Captured
) -> None:
    assert run(["review", "r.csv", "--reviewer", "ada"]) == 0
    assert "queue    4 of 4 images\nrecords  r.csv.decisions.jsonl\n" in capsys.readouterr().out
    assert run(["sample", "r.csv", "--by", "band", "--count", "9", "--out", "labels.csv"]) == 0
    text = Path("labels.csv").read_text()
    Path("labels.csv").write_text(text.replace(",,,,,,band,block", ",1,,,,,band,block"))
    assert Path("labels.csv").read_text() != text
    capsys.readouterr()
    assert run(["review", "labels.csv"]) == 0
    assert (
        "queue    5 of 6 images\nrecords  labels.csv.decisions.jsonl\n" in capsys.readouterr().out
    )


def test_options_that_do_not_go_together_are_one_line(results: Path, capsys: Captured) -> None:
    assert run(["sample", "r.csv", "--by", "random", "--out", "labels.csv"]) == 0
    capsys.readouterr()
    for arguments, message in (
        (["labels.csv", "--queue", "block"], "a template is labelled as a whole"),
        (["labels.csv", "--category", "nudity"], "a template is labelled as a whole"),
        (["r.csv", "--approve-is-no"], "--approve-is-no goes with a template"),
        (["r.csv", "--second-look", "2"], "--second-look"),
    ):
        assert run(["review", *arguments]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1


def test_a_journal_of_results_that_were_overwritten_is_refused(
    results: Path, capsys: Captured
) -> None:
    write_journal(Path("r.csv.decisions.jsonl"), results, [(2, "ada", "block")])
    assert run(["review", "r.csv"]) == 0
    assert "queue    3 of 4 images" in capsys.readouterr().out
    scores = {Category.NUDITY: np.full(5, 0.5, np.float32)}
    write_results(Path("r.csv"), scores, shuffle=1)
    assert run(["review", "r.csv"]) == 2
    said = capsys.readouterr().err
    assert "r.csv.decisions.jsonl holds decisions on other results than these" in said
    assert "move it away, or name another one (--decisions)" in said
    assert run(["review", "r.csv", "--decisions", "new"]) == 0


def test_rows_are_read_the_fast_way_and_the_decoders_start_meanwhile(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    happened = []

    class Started(nullcontext[None]):
        def __enter__(self) -> None:
            happened.append("decoders")

    def rows(*arguments: Any) -> ResultRows:
        happened.append("rows")
        return read_rows(*arguments)

    monkeypatch.setattr("moderate.review.pictures.Pictures", lambda *_: Started())
    monkeypatch.setattr("moderate.review.rows.read_rows", rows)
    monkeypatch.setattr(Results, "chunks", None)  # explains mistakes, and takes three times as long
    assert run(["review", "r.csv"]) == 0
    assert happened == ["decoders", "rows"]
