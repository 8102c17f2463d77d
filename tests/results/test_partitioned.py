"""Folders of results as warehouses read them: whole or not at all, nobody's files lost."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from moderate.cli.main import run
from moderate.errors import OutputError, UsageError
from moderate.results import atomic_folder
from moderate.results.interface import ResultWriter
from moderate.results.partition_columns import PARTITION_COLUMNS
from moderate.results.read import read_results
from moderate.results.schema import COLUMNS
from moderate.results.targets import check_overwriting, check_targets, open_writers
from moderate.types import (
    UNSCORED,
    Category,
    Column,
    Decision,
    ErrorCode,
    ImageError,
    ImageFacts,
    ImageRef,
    Row,
    Views,
)
from tests.support.patience import PATIENCE
from tests.support.pictures import encode, scene

AUDIT = {"tool": "moderate", "started": "2026-11-26T23:59:59.000Z", "policy_json": "{}"}
DAY = datetime(2026, 11, 20, 1, tzinfo=UTC)
LEVELS = ("G", "18+ é/ü", "a=b%20", None)


def row(number: int) -> Row:
    """Decisions, days and levels in turn; each seventh row is an error."""
    path = ImageRef(b"./%d.jpg" % number)
    if number % 7 == 6:
        error = ImageError(ErrorCode.TRUNCATED, "cut")
        return Row(path, ImageFacts(), UNSCORED, Decision.REVIEW, ("error",), error=error)
    return Row(
        path,
        ImageFacts(30, 20, "png", 1, number, "ab" * 32),
        {**UNSCORED, Category.NUDITY: (number % 10) / 10},
        list(Decision)[number % 3],
        (),
        Views("safe", 0.25, 0.75, 0.75, "low", False, LEVELS[number % 4]),
        scored_at=DAY + timedelta(days=number % 2),
        uri=f"file:///in/{number}.jpg",
    )


ROWS = [row(number) for number in range(100)]


def write(folder: Path | str, by: str = "decision,date", rows: list[Row] = ROWS) -> Path:
    target = f"{folder}/"
    columns = tuple(by.split(","))
    check_targets([target], columns)
    check_overwriting([target], [], (), force=False)
    with open_writers([target], partition_by=columns) as (writer,):
        writer.start(dict(AUDIT))
        for each in rows:
            writer.write(each)
        writer.commit({"ended": "now"})
    return Path(folder)


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def columns_of(folder: Path) -> str:
    """What a folder is partitioned by."""
    metadata = pq.read_metadata(next(folder.rglob("*.parquet"))).metadata
    return str(metadata[b"partition_by"].decode())


def by_row(table: pa.Table) -> list[dict[str, Any]]:
    """Rows by their paths, in every reader's own types for text and dates made text."""
    rows = table.to_pylist()
    for each in rows:
        each.update({name: value and str(value) for name, value in each.items() if name == "date"})
    return sorted(rows, key=lambda each: int(each["path"][2:-4]))


def test_every_reader_finds_the_rows_that_were_written(tmp_path: Path) -> None:
    folder = write(tmp_path / "results", "decision,date,rating")
    whole = tmp_path / "whole.parquet"
    with open_writers([str(whole)]) as (writer,):
        writer.start(dict(AUDIT))
        for each in ROWS:
            writer.write(each)
        writer.commit({})
    expected = [
        {**cells, "date": (cells["scored_at"] or AUDIT["started"])[:10]}
        for cells in pq.read_table(whole).to_pylist()
    ]

    hive = ds.partitioning(flavor="hive")
    in_arrow = ds.dataset(folder, partitioning=hive).to_table()
    assert by_row(in_arrow) == [
        {name: cells[name] for name in in_arrow.column_names} for cells in expected
    ]
    names = set(in_arrow.column_names)
    assert names == {*(column.name for column in COLUMNS), "date"}

    pattern = f"{folder}/**/*.parquet"
    found = duckdb.sql(f"SELECT * FROM read_parquet('{pattern}', hive_partitioning = true)")
    assert dict(zip(found.columns, map(str, found.types), strict=True))["date"] == "DATE"
    assert by_row(found.to_arrow_table()) == expected_as(found.columns, expected)

    frame = pl.read_parquet(folder, hive_partitioning=True)
    assert frame.schema["date"] == pl.Date
    assert by_row(frame.to_arrow()) == expected_as(frame.columns, expected)

    # By itself, pandas makes categories of the columns, which cannot be null.
    in_pandas = pd.read_parquet(folder, partitioning=hive)
    assert set(in_pandas["rating"].dropna()) == set(LEVELS) - {None}
    assert in_pandas["rating"].isna().sum() == sum(cells["rating"] is None for cells in expected)
    in_pandas = pd.read_parquet(write(tmp_path / "by two"))
    counts = in_pandas.groupby("decision", observed=True).size().to_dict()
    assert counts == {each.value: sum(row.decision is each for row in ROWS) for each in Decision}


def expected_as(columns: list[str], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: cells[name] for name in columns} for cells in rows]


@pytest.mark.parametrize("name", PARTITION_COLUMNS)
def test_each_column_that_can_divide(name: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "r", name)
    table = ds.dataset(folder, partitioning=ds.partitioning(flavor="hive")).to_table()
    assert table.num_rows == len(ROWS)
    assert all(path.parent.name.startswith(f"{name}=") for path in folder.rglob("*.parquet"))


def test_no_rows_are_a_folder_with_columns(tmp_path: Path) -> None:
    folder = write(tmp_path / "r", rows=[])
    found = duckdb.sql(f"SELECT * FROM read_parquet('{folder}/**/*.parquet')")
    assert not found.fetchall()
    assert {"path", "uri", "nudity", "decision", "date"} <= set(found.columns)


def test_files_are_bounded_and_say_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moderate.results.partitioned.ROWS_PER_FILE", 9)
    monkeypatch.setattr("moderate.results.partitioned.ROW_GROUP_ROWS", 4)
    monkeypatch.setattr("moderate.results.partitioned.MOST_WAITING", 10)
    monkeypatch.setattr("moderate.results.partitioned.MOST_OPEN", 2)
    monkeypatch.setattr("moderate.results.parquet_writer.ROW_GROUP_ROWS", 5)
    folder = write(tmp_path / "r")
    files = contents(folder)
    assert {name.rpartition("/")[2] for name in files} > {"part-0000.parquet", "part-0001.parquet"}
    found = [pq.read_metadata(folder / name) for name in files]
    assert sum(each.num_rows for each in found) == len(ROWS)
    assert all(1 <= each.num_rows <= 9 for each in found)
    assert {each.metadata[b"partition_by"] for each in found} == {b"decision,date"}
    assert {each.metadata[b"tool"] for each in found} == {b"moderate"}
    assert b"now" in {each.metadata.get(b"ended") for each in found}
    # In each partition the rows are in the order in which they came.
    for part in {Path(name).parent for name in files}:
        paths = [
            int(path[2:-4])
            for file in sorted((folder / part).iterdir())
            for path in pq.ParquetFile(file).read(["path"])["path"].to_pylist()
        ]
        assert paths == sorted(paths)


def test_the_same_rows_by_columns(tmp_path: Path) -> None:
    """As `decide` gives them."""
    source = tmp_path / "r.parquet"
    with open_writers([str(source)]) as (writer,):
        writer.start(dict(AUDIT))
        for each in ROWS:
            writer.write(each)
        writer.commit({})
    results = read_results(str(source))
    with open_writers([f"{tmp_path}/b/"], partition_by=("decision", "date")) as (writer,):
        writer.start(dict(AUDIT))
        for own, _ in results.parts(results.own):
            writer.write_columns(list(own.values()), [])
        writer.commit({"ended": "now"})
    assert contents(tmp_path / "b") == contents(write(tmp_path / "a"))


def test_only_what_is_ours_and_unchanged_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    folder.mkdir()
    write(folder)  # an empty folder is nobody's work
    write(folder, rows=ROWS[:5])
    assert len(ds.dataset(folder).files) < 6, "nothing is left of the earlier one"
    assert sorted(os.listdir(tmp_path)) == ["r"]

    file = next(folder.rglob("*.parquet"))
    data = file.read_bytes()
    pq.write_table(pq.ParquetFile(file).read(), file)
    with pytest.raises(OutputError, match=r"\.parquet in it was changed since .*; add --force"):
        write(folder)
    check_overwriting([f"{folder}/"], [], (), force=True)
    file.write_bytes(data)
    write(folder)

    # As pandas does: nothing says any more that it was ours, so that it may be anybody's work.
    pq.write_table(pq.ParquetFile(file).read().replace_schema_metadata(None), file)
    changed = re.escape(str(file.relative_to(folder)))
    for force in (False, True):
        with pytest.raises(OutputError, match=rf"{changed} \(or another program wrote it anew\)"):
            check_overwriting([f"{folder}/"], [], (), force=force)
    page = (Path(__file__).parents[2] / "docs" / "warehouse.md").read_text()
    assert "is never replaced, not even by `--force`" in " ".join(page.split())
    file.write_bytes(data)

    for mine in ("notes.txt", "decision=block/notes.txt", "link", "part-0000.parquet"):
        path = folder / mine
        if mine == "link":
            path.symlink_to(tmp_path)
        elif mine.endswith("parquet"):
            shutil.copy(file, path)  # ours, but no run wrote it there
        else:
            path.write_text("mine")
        for force in (False, True):
            with pytest.raises(OutputError, match=f"write there: {mine}.*; name another folder"):
                check_overwriting([f"{folder}/"], [], (), force=force)
        path.unlink()
    write(folder)


def test_what_was_put_there_during_the_run_is_not_lost(tmp_path: Path) -> None:
    folder = write(tmp_path / "r")
    before = contents(folder)
    with open_writers([f"{folder}/"], partition_by=("decision",)) as (writer,):
        writer.start(dict(AUDIT))
        (folder / "mine.txt").write_text("mine")
        with pytest.raises(OutputError, match=r"did not write there: mine\.txt"):
            writer.commit({})
    assert contents(folder) == {**before, "mine.txt": b"mine"}
    assert sorted(os.listdir(tmp_path)) == ["r"]


def test_a_run_that_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    folder = write(tmp_path / "r")
    before = contents(folder)
    with (
        pytest.raises(RuntimeError),
        open_writers([f"{folder}/"], partition_by=("date",)) as (writer,),
    ):
        start_and_write(writer)
        raise RuntimeError
    assert contents(folder) == before
    assert sorted(os.listdir(tmp_path)) == ["r"]


def start_and_write(writer: ResultWriter) -> None:
    writer.start(dict(AUDIT))
    for each in ROWS:
        writer.write(each)


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with open_writers([f"{tmp_path}/r/"], partition_by=("date",)) as (writer,):
        start_and_write(writer)
        with (
            pytest.raises(OutputError, match="another run is writing it"),
            open_writers([f"{tmp_path}/r/"], partition_by=("date",)),
        ):
            raise AssertionError
        writer.commit({})
    assert columns_of(tmp_path / "r") == "date"


def test_a_link_stays_and_the_mode_of_the_folder_too(tmp_path: Path) -> None:
    real = write(tmp_path / "real")
    real.chmod(0o750)
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "link", "date")
    assert (tmp_path / "link").is_symlink()
    assert real.stat().st_mode & 0o777 == 0o750
    assert columns_of(real) == "date"


def test_where_folders_cannot_be_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_folder, "exchange", lambda *_: False)
    folder = write(tmp_path / "r")
    before = contents(folder)
    write(folder, "date")
    assert sorted(os.listdir(tmp_path)) == ["r"]
    # A kill between the two renames.
    hidden = atomic_folder.AtomicFolder(f"{folder}/")
    folder.rename(hidden._previous)
    hidden.discard()
    assert not folder.exists()
    with open_writers([f"{folder}/"], partition_by=("decision",)):
        assert columns_of(folder) == "date"
    write(folder)
    assert contents(folder) == before


KILLED = """
import sys
from tests.results.test_partitioned import ROWS, write
folder, seed = sys.argv[1:]
print("ready", flush=True)
while True:
    write(folder, rows=ROWS[:50])
    write(folder, rows=ROWS)
"""


def test_a_kill_leaves_one_of_the_two_folders(tmp_path: Path) -> None:
    first = contents(write(tmp_path / "a", rows=ROWS[:50]))
    second = contents(write(tmp_path / "b", rows=ROWS))
    folder = tmp_path / "r"
    drawn = random.Random(5)
    write(folder)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder), "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        # Stopped rather than killed, to look at many moments without a new process for each.
        seen = set()
        for _ in range(40):
            time.sleep(drawn.random() * 0.03)
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
            found = contents(folder)
            assert found in (first, second)
            seen.add(len(found))
            process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait(PATIENCE)
    finally:
        process.kill()
        process.stdout.close()
        process.wait(PATIENCE)
    assert contents(folder) in (first, second)
    write(folder)
    assert contents(folder) == second
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "r"], "what the kill left is gone"


@pytest.mark.parametrize(
    ("targets", "by", "message"),
    [
        (["r/"], (), "go into a folder with --partition-by"),
        (["r.csv"], ("date",), "goes with a folder, --out DIR/"),
        (["r/"], ("decisions",), "did you mean 'decision'"),
        (["r/"], ("sha256",), "is none of them; use decision, date"),
        (["r/"], ("date", "date"), "date is there twice"),
        (["s3://bucket/r/"], ("date",), "folders are written to local disks"),
        (["none/r/"], ("date",), "there is no folder"),
        (["file/"], ("date",), "it is a file"),
    ],
)
def test_what_does_not_go_together(
    targets: list[str],
    by: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises((UsageError, OutputError), match=message):
        check_targets(targets, by)


def test_other_files_do_not_go_into_the_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="another file would be written into it"):
        check_overwriting([f"{tmp_path}/r/", f"{tmp_path}/r/x.csv"], [], (), force=True)


def test_a_carried_column_called_date_has_to_be_renamed(tmp_path: Path) -> None:
    with open_writers([f"{tmp_path}/r/"], partition_by=("date",)) as (writer,):
        carried = replace(ROWS[0], ref=replace(ROWS[0].ref, carried=(1,)))
        with pytest.raises(UsageError, match="--keep original_date=date"):
            writer.start(dict(AUDIT), (Column("date", pa.int64()),))
        assert carried.ref.carried
    with open_writers([f"{tmp_path}/r/"], partition_by=("decision",)) as (writer,):
        writer.start(dict(AUDIT), (Column("date", pa.int64()),))
        writer.write(carried)
        writer.commit({})
    assert ds.dataset(tmp_path / "r").to_table()["date"].to_pylist() == [1]


@pytest.fixture
def scanned(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, list[str]]]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for number in range(3):
        Path(f"in/{number}.png").write_bytes(encode(scene((80, 60), seed=number), "PNG"))
    Path("in/bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    yield tmp_path, ["scan", "in", "--weights", str(bundle), "-q", "--no-state"]
    shutil.rmtree(tmp_path / "in")


def test_a_scan_and_decisions_again(scanned: tuple[Path, list[str]]) -> None:
    folder, command = scanned
    by = ["--partition-by", "decision,date"]
    assert run([*command, "--out", "r.csv", "--out", "rows/", *by]) == 0
    assert run([*command, "--out", "r.csv", "--out", "rows/", *by]) == 0
    assert run(["decide", "r.csv", "--policy", "strict", "--out", "again/", *by]) == 0
    for name in ("rows", "again"):
        table = ds.dataset(folder / name, partitioning=ds.partitioning(flavor="hive")).to_table()
        assert sorted(table["path"].to_pylist()) == sorted(
            cells["path"] for cells in read_results("r.csv").rows()
        )
        assert len(set(table["date"].to_pylist())) == 1
        started = json.loads(Path("r.csv.meta.json").read_text())["started"]
        assert table["date"].to_pylist()[0] == started[:10]
