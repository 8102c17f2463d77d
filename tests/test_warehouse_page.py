"""The queries and lines of code in docs/warehouse.md, run on the results of a scan."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pytest

from moderate.cli.main import run
from moderate.exports.coop import FIELDS, ITEM_TYPE
from moderate.results.partition_columns import PARTITION_COLUMNS
from moderate.results.partitioned import MOST_OPEN, MOST_PARTITIONS, MOST_WAITING, ROWS_PER_FILE
from moderate.testcards import write_cards

PAGE = (Path(__file__).parents[1] / "docs" / "warehouse.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `results/` and `results.parquet` are, of test cards and a broken file."""
    folder = tmp_path_factory.mktemp("night")
    write_cards(folder / "cards", count=1, seed=0)
    card = next(iter(sorted((folder / "cards").glob("*block*.*"))))
    (folder / "cards" / f"copy{card.suffix}").write_bytes(card.read_bytes())
    (folder / "cards" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    out = ["--out", f"{folder}/results/", "--out", f"{folder}/results.parquet"]
    by = ["--partition-by", "decision,date"]
    scan = ["scan", f"{folder}/cards", "--weights", "testcard", "--no-state", "-q", "--no-config"]
    assert run([*scan, *out, *by]) == 0
    return folder


def test_each_query_answers_its_question(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(results)
    queries = blocks("sql")
    assert len(queries) == 5
    rows = pl.read_parquet("results.parquet")
    shares, worst, thresholds, errors, copies = (duckdb.sql(q).fetchall() for q in queries)

    counts = dict(rows["decision"].value_counts().iter_rows())
    assert {decision: images for _, decision, images, _ in shares} == counts
    assert sum(percent for *_, percent in shares) == pytest.approx(100, abs=0.05)

    assert worst
    assert all(decision != "approve" for decision, *_ in worst)
    assert [score for _, score, *_ in worst] == sorted((s for _, s, *_ in worst), reverse=True)
    for _, _, uri, _ in worst:
        assert urllib.request.urlopen(uri).read(), "viewers find the image"

    violence = rows.filter(status="ok")["violence"]
    assert [(float(at), n) for at, n in thresholds] == [
        (at, (violence >= at).sum()) for at in (0.3, 0.5, 0.7, 0.9)
    ]

    assert errors == [((results / "cards").as_uri(), "truncated", 1)] or len(errors) == 1
    assert max(len(places) for *_, places in copies) == 2


def test_every_reader_of_the_page_finds_all_rows(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(results)
    count = len(pl.read_parquet("results.parquet"))
    table = dict(re.findall(r"^\| (DuckDB|pyarrow|Polars|pandas) \| `([^`]*)`", PAGE, re.MULTILINE))
    in_duckdb = duckdb.sql(f"SELECT * FROM {table['DuckDB']}")
    assert len(in_duckdb.fetchall()) == count
    names = {"pyarrow.dataset.dataset": ds.dataset, "polars": pl, "pandas": pd}
    for reader in ("pyarrow", "Polars", "pandas"):
        code = table[reader].replace("pyarrow.dataset.dataset", "dataset")
        known = {**names, "dataset": ds.dataset}
        found = eval(code, {}, known)
        assert (found.count_rows() if reader == "pyarrow" else len(found)) == count


def test_the_lines_on_descriptions(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(results)
    exec(blocks("python")[0], {})
    lines = capsys.readouterr().out.splitlines()
    assert "decision string approve, review or block" in lines


def test_the_page_says_what_the_code_does() -> None:
    for number in (ROWS_PER_FILE, MOST_WAITING, MOST_OPEN, MOST_PARTITIONS):
        assert f"{number:,}" in PAGE
    for name in (*PARTITION_COLUMNS, *FIELDS, ITEM_TYPE):
        assert f"`{name}`" in PAGE
