"""Rows to files: the same values in every format, safe cells, whole files or none."""

from __future__ import annotations

import base64
import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import os
import re
import resource
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderate.errors import OutputError
from moderate.results.parquet_writer import DESCRIPTIONS
from moderate.results.schema import COLUMNS
from moderate.results.targets import open_writers
from moderate.results.text_writers import CsvWriter, JsonlWriter
from moderate.tables.csv import unguarded
from moderate.types import (
    CATEGORIES,
    UNSCORED,
    Column,
    Decision,
    ErrorCode,
    ImageError,
    ImageFacts,
    ImageRef,
    Row,
    Views,
    Warn,
)

AUDIT = {"run_id": "r", "purpose": "demo"}


def row(path: bytes = b"a.jpg", score: float = 0.1) -> Row:
    return Row(
        ref=ImageRef(path),
        facts=ImageFacts(30, 20, "png", 1, 123, "ab" * 32, (Warn.SMALL_IMAGE, Warn.ANIMATED)),
        scores={**dict.fromkeys(CATEGORIES, float(np.float32(score))), CATEGORIES[3]: None},
        decision=Decision.APPROVE,
        reasons=("nudity 0.10 < review 0.30",),
        views=Views("safe", 0.1, 0.9, 0.9, "mid", False, "general"),
    )


def error_row(message: str = "cut off") -> Row:
    error = ImageError(ErrorCode.TRUNCATED, message)
    reasons = ("error truncated: on_error review",)
    return Row(ImageRef(b"b.jpg"), ImageFacts(), UNSCORED, Decision.REVIEW, reasons, error=error)


def write(folder: Path, rows: list[Row]) -> tuple[Path, Path, Path]:
    files = tuple(folder / f"out.{suffix}" for suffix in ("csv", "parquet", "jsonl"))
    with open_writers([str(file) for file in files]) as writers:
        for writer in writers:
            writer.start(AUDIT)
        for each in rows:
            for writer in writers:
                writer.write(each)
        for writer in writers:
            writer.commit({"ended": "now"})
    return files  # type: ignore[return-value]


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_every_format_holds_the_same_values(tmp_path: Path) -> None:
    rows = [row(), error_row(), row(b"caf\xe9\n.jpg", 1 / 3)]
    in_csv, in_parquet, in_jsonl = write(tmp_path, rows)
    table = pq.read_table(in_parquet).to_pylist()
    lines = [json.loads(line) for line in in_jsonl.read_text().splitlines()]
    cells = read_csv(in_csv)
    assert len(table) == len(lines) == len(cells) == 3
    names = [column.name for column in COLUMNS]
    for parquet_row, jsonl_row, csv_row in zip(table, lines, cells, strict=True):
        assert list(parquet_row) == list(jsonl_row) == list(csv_row) == names
        for column in COLUMNS:
            value, text = jsonl_row[column.name], csv_row[column.name]
            exact = parquet_row[column.name]
            if column.type == "binary" and exact is not None:
                exact = base64.b64encode(exact).decode()
            if column.type == "float32" and exact is not None:
                assert np.float32(value) == np.float32(text) == np.float32(exact)
                continue
            assert value == exact
            if exact is None:
                assert text == ""
            elif column.type == "bool":
                assert text == str(exact).lower()
            else:
                assert text == str(exact)


def test_an_unscored_category_is_null_everywhere(tmp_path: Path) -> None:
    in_csv, in_parquet, in_jsonl = write(tmp_path, [row()])
    name = CATEGORIES[3].value
    assert read_csv(in_csv)[0][name] == ""
    assert pq.read_table(in_parquet).to_pylist()[0][name] is None
    assert json.loads(in_jsonl.read_text())[name] is None


@pytest.mark.parametrize("number", [-1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64, 10**30])
def test_a_number_that_a_file_or_server_claims_ends_no_run(tmp_path: Path, number: int) -> None:
    """A header's side of 2**31, a Content-Length of 2**63, a decoder's answer."""
    claimed = dataclasses.replace(
        error_row(), facts=ImageFacts(width=number, height=number, frames=number, bytes=number)
    )
    files = write(tmp_path, [row(b"a.jpg"), claimed, row(b"c.jpg")])
    held = number if 0 <= number < 2**63 else None
    table = pq.read_table(files[1])
    for name in ("width", "height", "frames", "bytes"):
        assert table[name][1].as_py() == held
        assert read_csv(files[0])[1][name] == ("" if held is None else str(held))
    assert [json.loads(line)["bytes"] for line in files[2].read_text().splitlines()] == [
        *(123, held, 123)
    ]
    assert len(table) == 3


def test_a_cell_that_its_column_cannot_hold_costs_no_other(tmp_path: Path) -> None:
    odd = error_row("half of \ud83d")
    with open_writers([str(tmp_path / "out.parquet")]) as (writer,):
        columns = [Column("number", pa.int8()), Column("text", pa.string())]
        writer.start(AUDIT, columns)
        for number, text in ((1, "a"), (1000, "\udcff"), (None, None), (2, "b")):
            ref = ImageRef(b"a.jpg", carried=(number, text))
            writer.write(dataclasses.replace(odd, ref=ref))
        writer.commit({"ended": "now"})
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["number"].to_pylist() == [1, None, None, 2]
    assert table["text"].to_pylist() == ["a", "\\udcff", None, "b"]
    assert table["error_message"].to_pylist() == ["half of \\ud83d"] * 4


def test_parquet_types_and_metadata(tmp_path: Path) -> None:
    _, in_parquet, _ = write(tmp_path, [row()])
    schema = pq.read_schema(in_parquet)
    for column in COLUMNS:
        expected = {"float32": "float"}.get(column.type, column.type)
        assert str(schema.field(column.name).type) == expected
    kept = {key: text for key, text in schema.metadata.items() if key != DESCRIPTIONS.encode()}
    assert kept == {key.encode(): text.encode() for key, text in AUDIT.items()}
    assert pq.read_metadata(in_parquet).metadata[b"ended"] == b"now"
    for name in ("out.csv", "out.jsonl"):
        assert json.loads((tmp_path / f"{name}.meta.json").read_text()) == {
            **AUDIT,
            "ended": "now",
            **({"csv": "guarded"} if name == "out.csv" else {}),
            "sha256": digest(tmp_path / name),
        }


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_commit_tells_what_was_written_and_its_facts_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with open_writers(["out.csv", "out.parquet", "out.jsonl"]) as writers:
        written: dict[str, str] = {}
        for writer in writers:
            writer.start(AUDIT)
            written |= writer.commit({"purpose": "known late"})
    assert written == {str(file): digest(file) for file in tmp_path.iterdir()}
    assert len(written) == 5
    assert pq.read_metadata("out.parquet").metadata[b"purpose"] == b"known late"
    assert json.loads(Path("out.csv.meta.json").read_text())["purpose"] == "known late"


@pytest.mark.parametrize("target", ["out.csv", "out.parquet", "out.jsonl"])
def test_a_target_is_one_run_s_at_a_time(tmp_path: Path, target: str) -> None:
    other = "out.csv" if target == "out.parquet" else "out.parquet"
    targets = [str(tmp_path / other), str(tmp_path / target)]
    with open_writers(targets[1:]) as (first,):
        first.start(AUDIT)
        with pytest.raises(OutputError, match="another run"), open_writers(targets):
            pass
        first.commit({})
    assert not any(name.endswith(".part") for name in os.listdir(tmp_path))


def test_facts_that_cannot_be_written_are_found_out_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "out.csv.meta.json").mkdir()
    with pytest.raises(OutputError, match="it is a folder"):
        CsvWriter(str(tmp_path / "out.csv"))
    assert os.listdir(tmp_path) == ["out.csv.meta.json"]


def test_a_duplicate_names_the_first_of_its_kind(tmp_path: Path) -> None:
    first, second = row(b"caf\xe9.jpg"), row(b"b.jpg")
    rows = [first, dataclasses.replace(second, duplicate_of=first.ref.display)]
    in_csv, in_parquet, in_jsonl = write(tmp_path, rows)
    expected = [None, "./caf\\xe9.jpg"]
    assert [cells["duplicate_of"] or None for cells in read_csv(in_csv)] == expected
    assert pq.read_table(in_parquet).column("duplicate_of").to_pylist() == expected
    lines = in_jsonl.read_text().splitlines()
    assert [json.loads(line)["duplicate_of"] for line in lines] == expected


def test_names_that_are_not_utf8_round_trip(tmp_path: Path) -> None:
    names = [
        b"caf\xe9.jpg",
        b"\xff\xfe",
        b'quote".jpg',
        b"comma,tab\tline\ncr\r.jpg",
        "ü.jpg".encode(),
    ]
    in_csv, in_parquet, _ = write(tmp_path, [row(name) for name in names])
    from_csv = [
        base64.b64decode(cells["path_bytes"]) or cells["path"].encode()
        for cells in read_csv(in_csv)
    ]
    from_parquet = [
        cells["path_bytes"] or cells["path"].encode()
        for cells in pq.read_table(in_parquet).to_pylist()
    ]
    expected = [b"./" + name for name in names]
    assert from_csv == expected
    assert from_parquet == expected


FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "-1.5e3",
    "-1+1",
    "'=1",
    "'-1",
    "@x",
    "\tx",
    "\rx",
    "\nx",
    "\0x",
    "＝1",
    "＋1",
    "－1",
    "＠x",
]


@given(st.sampled_from(FORMULAS) | st.text(max_size=30))
def test_no_cell_starts_a_formula_and_every_cell_reads_back(text: str) -> None:
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())) as stdout:
        writer = CsvWriter(None)
        writer.start(AUDIT)
        writer.write(error_row(text))
    lines = stdout.buffer.getvalue().decode()
    _, cells = csv.reader(io.StringIO(lines, newline=""))
    assert len(cells) == len(COLUMNS)
    for cell in cells:
        is_number = re.fullmatch(r"[-+][0-9.]+(e[-+]?[0-9]+)?", cell, re.IGNORECASE)
        assert is_number or not cell.startswith(tuple("=+-@\t\r\n\0＝＋－＠"))
    assert unguarded(cells[-1]) == text


def test_scores_are_written_as_the_shortest_text_that_reads_back(tmp_path: Path) -> None:
    in_csv, _, _ = write(tmp_path, [row(score=0.3), row(score=1e-7), row(score=1 / 3)])
    texts = [cells["nudity"] for cells in read_csv(in_csv)]
    assert texts == ["0.3", "1e-07", "0.33333334"]


def test_nothing_appears_before_commit_or_without_it(tmp_path: Path) -> None:
    targets = [str(tmp_path / f"out.{suffix}") for suffix in ("csv", "parquet", "jsonl")]
    (tmp_path / "out.csv").write_text("the previous run")
    with pytest.raises(RuntimeError), open_writers(targets) as writers:
        for writer in writers:
            writer.start(AUDIT)
            writer.write(row())
        assert (tmp_path / "out.csv").read_text() == "the previous run"
        raise RuntimeError
    assert os.listdir(tmp_path) == ["out.csv"]
    assert (tmp_path / "out.csv").read_text() == "the previous run"


@pytest.mark.parametrize("writer_type", [CsvWriter, JsonlWriter])
def test_standard_output_sees_each_row_as_it_comes(
    writer_type: type[CsvWriter] | type[JsonlWriter],
) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as reader, os.fdopen(writing, "w") as stdout:
        with contextlib.redirect_stdout(stdout):
            writer = writer_type(None)
        writer.start(AUDIT)
        for number in range(3):
            writer.write(row(b"%d.jpg" % number))
            assert b"./%d.jpg" % number in os.read(reader.fileno(), 1 << 16)
        assert writer.commit({"ended": "now"}) == {}


def test_many_rows_are_written_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moderate.results.parquet_writer.ROW_GROUP_ROWS", 10)
    _, in_parquet, _ = write(tmp_path, [row(f"{n}.jpg".encode()) for n in range(25)])
    file = pq.ParquetFile(in_parquet)
    assert file.num_row_groups == 3
    assert file.read().column("path").to_pylist() == [f"./{n}.jpg" for n in range(25)]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"out.{suffix}"
    target.write_text("the previous run")
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The limit on a file's size fails a write as a full disk does.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, unlimited[1]))
    try:
        with (
            pytest.raises(OutputError, match=r"cannot write .*out\.\w+: File too large"),
            open_writers([str(target)]) as writers,
        ):
            writers[0].start(AUDIT)
            for number in range(3000):
                writers[0].write(row(os.urandom(20).hex().encode() + b"%d" % number))
            writers[0].commit({"ended": "now"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert os.listdir(tmp_path) == [target.name]
    assert target.read_text() == "the previous run"
