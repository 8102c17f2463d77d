"""Results files read back: what the writers wrote, typed and exact, or one clear line."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moderate.analysis.decide import DecideOptions, redecide
from moderate.analysis.diff import compare_results
from moderate.analysis.stored import summarise
from moderate.errors import InputError, UsageError
from moderate.policy.load import load_policy
from moderate.results.atomic import part_path
from moderate.results.parquet_writer import arrow_schema
from moderate.results.read import read_results
from moderate.results.schema import COLUMNS, in_order
from moderate.results.targets import open_writers
from moderate.results.text_writers import metadata_path
from moderate.types import (
    CATEGORIES,
    UNSCORED,
    Column,
    Decision,
    ErrorCode,
    ImageError,
    ImageFacts,
    ImageRef,
    Origin,
    Row,
    Views,
    Warn,
)

SUFFIXES = ("csv", "parquet", "jsonl")
AUDIT = {"run_id": "r", "purpose": "demo", "sandbox": "at the start"}
SCORED = datetime(2026, 11, 26, 23, 59, 59, tzinfo=UTC)
OWN = [column.name for column in COLUMNS]
HOSTILE = [
    "=1+1", "+1", "-1", "@x", "\tx", "\rx", "\nx", "＝1", "＠x", "a\r\nb", 'q"q', "''", "'", "a,b",
    "'quoted'", "null", "true", "1", "1e5", "NaN", "ü \u202e \u2028 \x85", "\x00", "\x1b[31m",
    " x ", "\\xe9", "2024-01-01T00:00:00", "{}", "x" * 200_000,
]  # fmt: skip


def row(
    path: bytes = b"a.jpg",
    score: float | None = 0.1,
    carried: tuple[Any, ...] = (),
    sha256: str = "ab" * 32,
    duplicate_of: bytes | None = None,
) -> Row:
    exact = None if score is None else float(np.float32(score))
    return Row(
        ref=ImageRef(path, carried=carried),
        facts=ImageFacts(
            30,
            20,
            "png",
            1,
            2**40,
            sha256,
            (Warn.SMALL_IMAGE, Warn.ANIMATED),
            1,
            0.2344,
            ("zip of 9 bytes", "html of 2 bytes"),
        ),
        scores={**dict.fromkeys(CATEGORIES, exact), CATEGORIES[3]: None},
        decision=Decision.REVIEW if exact is None else Decision.APPROVE,
        reasons=("nudity 0.10 < review 0.30", "b"),
        views=Views("safe", 0.1, 0.9, 0.9, "mid", False, "general"),
        duplicate_of=duplicate_of,
        run_id="r",
        scored_at=SCORED,
        places={"nudity": "frame 7, 0.4 s", "label a/b at c": "frame 1, 0.0 s"},
    )


def error_row(message: str, carried: tuple[Any, ...] = ()) -> Row:
    error = ImageError(ErrorCode.TRUNCATED, message)
    return Row(ImageRef(b"b.jpg", carried=carried), ImageFacts(), UNSCORED, Decision.REVIEW,
               ("error truncated: on_error review",), error=error, origin=Origin.REUSED, run_id="r",
               scored_at=None)  # fmt: skip


def write(folder: Path, rows: list[Row], columns: tuple[Column, ...] = ()) -> list[str]:
    files = [str(folder / f"out.{suffix}") for suffix in SUFFIXES]
    with open_writers(files) as writers:
        for writer in writers:
            writer.start(AUDIT, columns)
        for each in rows:
            for writer in writers:
                writer.write(each)
        for writer in writers:
            writer.commit({"ended": "now", "sandbox": "at the end"})
    return files


def expected(each: Row) -> dict[str, Any]:
    """Our own cells as they are read back: the row's values, floats as float32 has them."""
    exact, facts, views = each.ref.display, each.facts, each.views
    path = exact.decode("utf-8", "backslashreplace")
    cells = {
        "path": path,
        "path_bytes": None if path.encode() == exact else exact,
        "uri": each.uri,
        "origin": each.origin.value,
        "run_id": each.run_id,
        "scored_at": each.scored_at and "2026-11-26T23:59:59Z",
        "status": each.status.value,
        "decision": each.decision.value,
        "reasons": "; ".join(each.reasons),
        **{category.value: each.scores[category] for category in CATEGORIES},
        **{name: getattr(views, name) for name in ("label", "nsfw_score", "safe_score")},
        **{name: getattr(views, name) for name in ("confidence", "risk", "is_nsfw", "rating")},
        **{name: getattr(facts, name) for name in ("width", "height", "format", "frames")},
        "frames_scored": facts.frames_scored,
        "highest_at": "; ".join(f"{term} at {place}" for term, place in each.places.items())
        or None,
        "unseen": None if facts.unseen is None else float(np.float32(facts.unseen)),
        "embedded": "; ".join(facts.embedded) or None,
        "segments": each.segments,
        "duration": facts.duration,
        "bytes": facts.bytes,
        "sha256": facts.sha256,
        "duplicate_of": each.duplicate_of
        and os.fsencode(each.duplicate_of).decode("utf-8", "backslashreplace"),
        "warnings": "; ".join(warning.value for warning in facts.warnings) or None,
        "error_code": each.error.code.value if each.error else None,
        "error_message": each.error.message if each.error else None,
    }
    assert list(cells) == OWN
    return {
        name: float(np.float32(cell)) if isinstance(cell, float) else cell
        for name, cell in cells.items()
    }


def same(got: dict[str, Any], each: Row) -> bool:
    own = {name: got[name] for name in OWN}
    return own == expected(each) and all(
        type(own[name]) is type(value) for name, value in expected(each).items()
    )


def test_every_format_gives_back_the_values_that_went_in(tmp_path: Path) -> None:
    names = (b"caf\xe9.jpg", b"\xff\xfe", b'q".jpg', b"a,b\tc\nd\re.jpg", b"=1.jpg", "ü".encode())
    rows = [row(name, score, duplicate_of=b"./a\xff") for name in names for score in (0.0, 1 / 3)]
    rows += [row(score=score) for score in (1e-7, 0.3, 0.95, 1.0, None)]
    rows += [error_row(text) for text in HOSTILE if text != "''"]
    for file in write(tmp_path, rows):
        read = list(read_results(file).rows())
        assert len(read) == len(rows)
        for got, each in zip(read, rows, strict=True):
            assert list(got) == OWN
            assert same(got, each), (file, got, expected(each))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts=st.lists(st.text(st.characters(codec="utf-8"), max_size=20), min_size=1, max_size=5))
def test_any_text_comes_back(tmp_path: Path, texts: list[str]) -> None:
    column = (Column("note", pa.string()),)
    rows = [error_row(text, (text,)) for text in texts]
    for file in write(tmp_path, rows, column):
        read = list(read_results(file).rows())
        for name in ("error_message", "note"):
            got = [cells[name] for cells in read]
            if file.endswith("csv"):  # it has no empty text, and takes a guard for its own
                starts = tuple("=+-@\t\r\n\0＝＋－＠")
                texts_there = [
                    t[1:] if t[:1] == "'" and t[1:].startswith(starts) else t for t in texts
                ]
                assert got == [text or None for text in texts_there]
            else:
                assert got == texts


def test_audit_facts_of_every_format(tmp_path: Path) -> None:
    for file in write(tmp_path, [row()]):
        results = read_results(file)
        facts = dict(results.facts)
        digest = facts.pop("sha256", None)
        assert facts.pop("csv", None) == ("guarded" if file.endswith("csv") else None)
        assert facts == {**AUDIT, "ended": "now", "sandbox": "at the end"}
        assert digest == (None if file.endswith("parquet") else results.sha256)
        assert not results.mismatch
        assert results.carried == ()


def test_a_file_that_was_changed_says_so_and_one_without_facts_is_read(tmp_path: Path) -> None:
    files = write(tmp_path, [row(), row()])
    for file in (files[0], files[2]):
        text = Path(file).read_text()
        Path(file).write_text(text.replace("0.1", "0.2"))
        assert read_results(file).mismatch
        os.unlink(f"{file}.meta.json")
        results = read_results(file)
        assert results.facts == {}
        assert not results.mismatch
        assert [cells["nudity"] for cells in results.rows()] == [float(np.float32(0.2))] * 2


def test_facts_that_somebody_laid_beside_the_rows_are_not_taken(tmp_path: Path) -> None:
    (path,) = (name for name in write(tmp_path, [row()]) if name.endswith(".csv"))
    facts = read_results(path).facts
    beside = metadata_path(path)
    forged = Path(part_path(beside))
    forged.write_text(json.dumps({**facts, "run_id": "forged"}))
    assert read_results(path).facts == facts
    # Where there are no others, they are those of a run that was killed, if they are ours.
    os.unlink(beside)
    assert read_results(path).facts["run_id"] == "forged"
    if os.geteuid() == 0:
        os.chown(forged, 4711, -1)
        assert read_results(path).facts == {}
    forged.unlink()
    os.mkfifo(forged)  # which nobody writes to
    assert read_results(path).facts == {}
    forged.unlink()
    os.mkfifo(beside)
    with pytest.raises(InputError, match=r"cannot read .*meta\.json: .*FIFO"):
        read_results(path)


def test_carried_columns_of_all_kinds(tmp_path: Path) -> None:
    nanosecond = pa.scalar(1_700_000_000_000_000_001, pa.timestamp("ns"))
    kinds: list[tuple[str, Any, Any, Any]] = [  # name, type, value, the value in JSONL
        ("id", pa.int64(), -(2**53), -(2**53)),
        ("=weight", pa.float64(), 0.1, 0.1),
        ("text", pa.string(), "=SUM(A1)", "=SUM(A1)"),
        ("flag", pa.bool_(), True, True),
        ("blob", pa.binary(), b"\xff\x00", "/wA="),
        ("day", pa.date32(), date(2024, 2, 29), "2024-02-29"),
        ("at", pa.timestamp("us", "UTC"), datetime(2024, 1, 1, tzinfo=UTC),
         "2024-01-01T00:00:00+00:00"),
        ("fine", pa.timestamp("ns"), nanosecond, "2023-11-14 22:13:20.000000001"),
        ("price", pa.decimal128(9, 2), Decimal("1.50"), "1.50"),
        ("list", pa.list_(pa.int64()), [1, None], [1, None]),
        ("deep", pa.struct([("a", pa.string())]), {"a": "ü"}, {"a": "ü"}),
    ]  # fmt: skip
    columns = tuple(Column(name, kind) for name, kind, _, _ in kinds)
    nothing = tuple(None for _ in kinds)
    rows = [row(carried=tuple(value for _, _, value, _ in kinds)), row(b"b", carried=nothing)]
    names = [name for name, *_ in kinds]
    for file in write(tmp_path, rows, columns):
        results = read_results(file)
        assert results.carried == tuple(names)
        assert list(results.columns) == in_order(OWN, names)
        first, second = results.rows()
        assert list(first) == in_order(OWN, names)
        assert same(first, rows[0])
        assert [second[name] for name in names] == list(nothing)
        table = read_results(file).table()
        assert table.column_names == in_order(OWN, names)
        for name, kind, value, in_json in kinds:
            if file.endswith("parquet"):
                assert first[name] == value
                assert table.schema.field(name).type == kind
            elif file.endswith("jsonl"):
                assert first[name] == in_json
                assert table.column(name).to_pylist() == [in_json, None]
            else:
                flat = json.dumps(in_json, ensure_ascii=False)
                assert first[name] == (in_json if isinstance(in_json, str) else flat)
                assert table.schema.field(name).type == pa.string()


def test_values_of_several_kinds_in_one_json_column_are_text_in_a_table(tmp_path: Path) -> None:
    file = write(tmp_path, [row(carried=(1,)), row(carried=(2,))], (Column("k", pa.int64()),))[2]
    Path(file).write_text(Path(file).read_text().replace('"k": 2', '"k": "x"'))
    assert [cells["k"] for cells in read_results(file).rows()] == [1, "x"]
    assert read_results(file).table(["k"]).column("k").to_pylist() == ["1", "x"]


def test_tables_have_the_types_of_the_schema(tmp_path: Path) -> None:
    rows = [row(b"caf\xe9"), error_row("=x"), row(score=None)]
    files = write(tmp_path, rows)
    in_parquet = pq.read_table(files[1]).replace_schema_metadata()
    for file in files:
        table = read_results(file).table()
        assert table.schema == arrow_schema()
        assert table.equals(in_parquet), file
        some = read_results(file).table(["violence", "path", "path_bytes"])
        assert some.equals(in_parquet.select(["violence", "path", "path_bytes"]))
        with pytest.raises(InputError, match="no column 'nope'"):
            read_results(file).table(["nope"])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_are_found_by_path_digest_and_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr("moderate.results.read.CHUNK_ROWS", 7)
    monkeypatch.setattr("moderate.results.read_text.CHUNK_ROWS", 7)
    monkeypatch.setattr("moderate.results.parquet_writer.ROW_GROUP_ROWS", 7)
    rows = [row(b"%d.jpg" % n, sha256=f"{n % 10:064x}"[::-1]) for n in range(40)]
    write(tmp_path, [*rows, error_row("no digest")])
    results = read_results(str(tmp_path / f"out.{suffix}"))

    def numbers(**wanted: Any) -> list[int]:
        found = list(results.find(**wanted))
        for number, cells in found:
            assert same(cells, [*rows, error_row("no digest")][number - 1])
        return [number for number, _ in found]

    assert numbers(paths=["./17.jpg", "17.jpg"]) == [18]
    assert numbers(sha256="3" + "0" * 7) == [4, 14, 24, 34]
    assert numbers(paths=["./0.jpg"], sha256="3" + "0" * 7) == [1, 4, 14, 24, 34]
    assert numbers(number=41) == [41]
    assert numbers(number=1) == [1]
    assert numbers(number=42) == numbers(number=0) == numbers(paths=["x"]) == []
    assert len(list(results.rows())) == 41


def test_no_rows_at_all_are_an_answer(tmp_path: Path) -> None:
    for file in write(tmp_path, []):
        results = read_results(file)
        assert list(results.rows()) == []
        assert results.table().num_rows == 0
        assert results.table().schema == arrow_schema()


def test_columns_of_an_older_version_are_null_and_other_writers_types_are_taken(
    tmp_path: Path,
) -> None:
    file = write(tmp_path, [row(b"caf\xe9"), row(b"b")])[1]
    lacking = ["duplicate_of", "origin", "run_id", "scored_at"]
    table = pq.read_table(file).drop_columns(lacking)
    texts = table.schema.get_field_index("path")
    table = table.set_column(texts, "path", table["path"].cast(pa.large_string()))
    table = table.set_column(
        table.schema.get_field_index("status"), "status", table["status"].dictionary_encode()
    )
    pq.write_table(table, file)
    read = list(read_results(file).rows())
    assert [(cells["path"], cells["status"]) for cells in read] == [
        ("./caf\\xe9", "ok"), ("./b", "ok"),
    ]  # fmt: skip
    assert read[0]["path_bytes"] == b"./caf\xe9"
    assert {read[0][name] for name in lacking} == {None}
    assert read_results(file).table().schema == arrow_schema()


def broken(tmp_path: Path, suffix: str, change: Any) -> str:
    file = Path(write(tmp_path, [row(b"%d" % n) for n in range(20)])[SUFFIXES.index(suffix)])
    file.write_bytes(change(file.read_bytes()))
    return str(file)


def swap(line: int, old: bytes, new: bytes) -> Any:
    def change(data: bytes) -> bytes:
        lines = data.split(b"\n")
        assert old in lines[line - 1]
        lines[line - 1] = lines[line - 1].replace(old, new, 1)
        return b"\n".join(lines)

    return change


@pytest.mark.parametrize(
    ("suffix", "change", "said"),
    [
        ("csv", lambda data: b"", "out.csv is empty"),
        ("parquet", lambda data: b"", "out.parquet is empty"),
        ("csv", lambda data: data.replace(b"decision", b"verdict", 1), "no column decision"),
        ("csv", lambda data: data.replace(b"label", b"risk", 1), "two columns 'risk'"),
        ("csv", lambda data: data[: data.rindex(b"small_image") - 90], "line 21 of .*cells where"),
        ("csv", swap(5, b",0.1,", b",high,"), "line 5 of .*nudity: 'high' is not a number"),
        ("csv", swap(5, b",0.1,", b",nan,"), "line 5 of .*nudity: nan is not a score"),
        ("csv", swap(5, b",0.1,", b",1.1,"), "line 5 of .*not a score from 0 to 1"),
        ("csv", swap(6, b"approve", b"allow"), "line 6 of .*decision: 'allow' is none of approve"),
        ("csv", swap(6, b",ok,", b",,"), "line 6 of .*status is missing"),
        ("csv", swap(7, b",false,", b",no,"), "line 7 of .*is_nsfw: 'no' is not true or false"),
        ("csv", swap(7, b"./5", b'"./5'), "line .* of .*out.csv: not CSV"),
        ("csv", swap(8, b"./6", b"./\xff"), "line 8 of .*not UTF-8"),
        ("csv", swap(8, b"./6,", b"./6,!!"), "line 8 of .*path_bytes: '!!' is not base64"),
        ("jsonl", lambda data: data[:-30], "line 20 of .*not JSON"),
        ("jsonl", swap(3, b'"status"', b'"state"'), "line 3 of .*not the columns of the first"),
        ("jsonl", swap(3, b'"ok"', b"null"), "line 3 of .*status is missing"),
        ("jsonl", swap(3, b'"nudity": 0.1', b'"nudity": NaN'), "line 3 of .*nudity: nan"),
        ("jsonl", swap(3, b'"width": 30', b'"width": 3.5'), "line 3 of .*'3.5' is not a whole"),
        ("jsonl", swap(3, b'"nudity": 0.1', b'"nudity": true'), "line 3 of .*'True' is not a num"),
        ("jsonl", swap(3, b'"label": "safe"', b'"label": 7'), "line 3 of .*label: '7' is not text"),
        ("jsonl", lambda data: b"[1]\n" + data, "line 1 of .*where an object is expected"),
        ("jsonl", lambda data: data + b"\n", "line 21 of .*not JSON"),
        ("jsonl", lambda data: b"[" * 100_000 + b"\n", "line 1 of .*not JSON"),
        ("parquet", lambda data: data[:-100], "not readable Parquet"),
        ("parquet", lambda data: data[: len(data) // 2], "not readable Parquet"),
        ("parquet", lambda data: b"path,status\n", "not readable Parquet"),
        ("parquet", lambda data: data[:4] + b"\xff" * 400 + data[404:], "row group 0 of"),
    ],
)  # fmt: skip
def test_what_no_run_wrote_is_one_clear_line(
    tmp_path: Path, suffix: str, change: Any, said: str
) -> None:
    file = broken(tmp_path, suffix, change)
    with pytest.raises(InputError, match=said) as caught:
        list(read_results(file).rows())
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(InputError, match=said):
        read_results(file).table()


OK = {"status": "ok", "decision": "approve", "nudity": 0.1, "error_code": None}
FAILED = {"status": "error", "decision": "review", "nudity": None, "error_code": "truncated"}


def with_cells(tmp_path: Path, suffix: str, changes: dict[str, Any]) -> str:
    """Three rows, of which the second has these cells and no other score."""
    file = write(tmp_path, [row(b"1"), row(b"2"), row(b"3")])[SUFFIXES.index(suffix)]
    changes = dict.fromkeys(CATEGORIES) | changes
    if suffix == "parquet":
        table = pq.read_table(file)
        rows = table.to_pylist()
        rows[1] |= changes
        pq.write_table(pa.Table.from_pylist(rows, table.schema), file)
    elif suffix == "jsonl":
        lines = [json.loads(line) for line in Path(file).read_text().splitlines()]
        lines[1] |= changes
        Path(file).write_text("".join(json.dumps(line) + "\n" for line in lines))
    else:
        with open(file, newline="") as read:
            cells = list(csv.reader(read))
        for name, value in changes.items():
            cells[2][cells[0].index(name)] = "" if value is None else str(value)
        with open(file, "w", newline="") as written:
            csv.writer(written, lineterminator="\n").writerows(cells)
    return file


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (OK, None),
        (FAILED, None),
        (FAILED | {"error_code": None}, None),
        (OK | {"decision": "review", "nudity": None}, None),
        (OK | {"error_code": "truncated"}, "status is ok, but error_code is not empty"),
        (FAILED | {"nudity": 0.1}, "status is error, but nudity has a score"),
        (FAILED | {"drug_use": 0.9}, "status is error, but drug_use has a score"),
        (FAILED | {"decision": "approve"}, "status is error, but decision is approve"),
        (OK | {"nudity": None}, "decision is approve, but no category has a score"),
        (OK | {"status": "OK"}, "status: 'OK' is none of ok, error"),
        (OK | {"decision": "Approve"}, "decision: 'Approve' is none of approve, review, block"),
        (OK | {"nudity": -0.001}, "nudity: -0.001.* is not a score"),
        (OK | {"nudity": float("inf")}, "nudity: inf is not a score"),
        (OK | {"warnings": "; ".join("x" * 70)}, "warnings: more than 64 in one row"),
    ],
)
def test_rows_that_contradict_themselves_are_never_decided(
    tmp_path: Path, suffix: str, changes: dict[str, Any], said: str | None
) -> None:
    file = with_cells(tmp_path, suffix, changes)
    options = DecideOptions(file, "permissive", [str(tmp_path / "again.jsonl")])
    if said is None:
        assert len(list(read_results(file).rows())) == 3
        redecide(options)
        again = list(read_results(str(tmp_path / "again.jsonl")).rows())[1]
        assert (again["decision"] == "approve") == (changes["nudity"] is not None)
        return
    where = {"csv": "line 3 of", "jsonl": "line 2 of", "parquet": "row 2 of"}[suffix]
    uses: list[Any] = [
        lambda: list(read_results(file).rows()),
        lambda: read_results(file).table(["path"]),
        lambda: redecide(options),
        lambda: compare_results(file, file),
    ]
    if "warnings" in changes:
        uses = [uses[0], uses[2]]
    for use in uses:
        with pytest.raises(InputError, match=f"{where} .*: {said}"):
            use()
    assert not (tmp_path / "again.jsonl").exists()


def test_results_without_score_columns_are_read_but_nothing_is_approved(tmp_path: Path) -> None:
    file = tmp_path / "few.csv"
    file.write_text("path,status,decision\n./a,ok,approve\n./b,error,review\n")
    assert [cells["decision"] for cells in read_results(str(file)).rows()] == ["approve", "review"]
    made = redecide(DecideOptions(str(file), "permissive"))
    assert made.summary.decisions["approve"] == 0


@pytest.mark.parametrize("column", ["path", "label", "note"])
def test_text_in_parquet_that_is_not_utf8_names_the_row(tmp_path: Path, column: str) -> None:
    note = (Column("note", pa.string()),)
    file = write(tmp_path, [row(carried=("n",)) for _ in range(5)], note)[1]
    table = pq.read_table(file)
    values = pa.array([b"a", b"b", b"c\xff", b"d", b"\xe9"], pa.binary())
    texts = pa.Array.from_buffers(pa.string(), 5, values.buffers())
    index = table.schema.get_field_index(column)
    pq.write_table(table.set_column(index, column, texts), file)
    for use in (
        lambda: list(read_results(file).rows()),
        lambda: read_results(file).table(),
        lambda: redecide(DecideOptions(file, "strict")),
    ):
        with pytest.raises(InputError, match=f"row 3 of .*: {column}: .*UTF8"):
            use()


def test_json_that_recursion_cannot_follow_or_that_says_two_things_is_refused(
    tmp_path: Path,
) -> None:
    for value, said in (
        ("[" * 101 + "]" * 101, "line 1 of .*nested over 100 levels"),
        ('{"a":' * 101 + "1" + "}" * 101, "line 1 of .*nested over 100 levels"),
        ('1, "decision": "block"', "line 1 of .*the key decision is there twice"),
        ('{"a": 1, "a": 2}', "line 1 of .*the key a is there twice"),
    ):
        file = write(tmp_path, [row(carried=(1,))], (Column("k", pa.int64()),))[2]
        Path(file).write_text(Path(file).read_text().replace('"k": 1', f'"k": {value}'))
        with pytest.raises(InputError, match=said):
            list(read_results(file).rows())
    brackets = '"' + "[" * 5000 + '\\"' + "{" * 5000 + '"'
    file = write(tmp_path, [row(carried=(1,))], (Column("k", pa.int64()),))[2]
    Path(file).write_text(Path(file).read_text().replace('"k": 1', f'"k": {brackets}'))
    assert len(next(read_results(file).rows())["k"]) == 10_001


def test_facts_that_no_text_can_hold_reach_every_format(tmp_path: Path) -> None:
    file = write(tmp_path, [row()])[0]
    facts = json.loads(Path(f"{file}.meta.json").read_text())
    facts |= {"weights": "\ud800", "\udc80": [1, None]}
    Path(f"{file}.meta.json").write_text(json.dumps(facts))
    targets = [str(tmp_path / f"again.{suffix}") for suffix in SUFFIXES]
    redecide(DecideOptions(file, "strict", targets))
    for target in targets:
        found = read_results(target).facts
        assert (found["weights"], found["\\udc80"]) == ("\\ud800", "[1, null]")


def test_names_that_no_list_knows_do_not_fill_a_summary(tmp_path: Path) -> None:
    file = Path(write(tmp_path, [row() if n % 2 else error_row("x") for n in range(2000)])[2])
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for number, each in enumerate(rows):
        each["warnings"] = f"strange {number} " + "w" * 1000
        each["error_code"] = each["error_code"] and f"code {number}"
    file.write_text("".join(json.dumps(each) + "\n" for each in rows))
    policy = load_policy("balanced").policy.model_dump_json()
    Path(f"{file}.meta.json").write_text(json.dumps({"policy_json": policy}))
    made = redecide(DecideOptions(str(file), "strict")).summary
    stored = summarise(read_results(str(file)))
    for codes, warnings in (
        (made.error_codes, made.warnings),
        (stored.error_codes, stored.warnings),
    ):
        assert sum(codes.values()) == 1000
        assert sum(warnings.values()) == 2000
        for counts in (codes, warnings):
            assert len(counts) == 51
            assert max(map(len, counts)) <= 60
            assert counts["(other names)"] == sum(counts.values()) - 50


def test_scores_out_of_range_in_parquet_name_the_row(tmp_path: Path) -> None:
    file = write(tmp_path, [row(), row(), row()])[1]
    table = pq.read_table(file)
    scores = pa.array([0.1, float("nan"), 0.1], pa.float32())
    index = table.schema.get_field_index("nudity")
    pq.write_table(table.set_column(index, "nudity", scores), file)
    with pytest.raises(InputError, match=r"row 2 of .*nudity: nan is not a score"):
        list(read_results(file).rows())
    pq.write_table(table.set_column(index, "nudity", pa.array(["x"] * 3)), file)
    with pytest.raises(InputError, match="column nudity is string, not a number"):
        list(read_results(file).rows())


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("gone.csv", InputError, "cannot read gone.csv: No such file"),
        ("folder.csv", InputError, "not a regular file"),
        ("fifo.jsonl", InputError, "not a regular file"),
        ("rows.xlsx", UsageError, r"one of \.csv, \.parquet, \.jsonl"),
        ("s3://bucket/rows.csv", UsageError, "local files"),
        ("empty.jsonl", InputError, "is empty"),
        ("nul\0.csv", InputError, "cannot read"),
    ],
)
def test_what_cannot_be_opened_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: type[Exception], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkdir("folder.csv")
    os.mkfifo("fifo.jsonl")
    Path("empty.jsonl").touch()
    with pytest.raises(error, match=said):
        read_results(name)


def test_broken_facts_are_one_clear_line(tmp_path: Path) -> None:
    file = write(tmp_path, [row()])[0]
    Path(f"{file}.meta.json").write_text("{cut")
    with pytest.raises(InputError, match=r"meta\.json holds no audit facts"):
        read_results(file)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, suffix: str) -> None:
    columns = (Column("note", pa.string()),)
    file = str(tmp_path / f"out.{suffix}")
    with open_writers([file]) as writers:
        writers[0].start(AUDIT, columns)
        each = row(carried=("n" * 4000,))
        for _ in range(60_000):
            writers[0].write(each)
        writers[0].commit({})
    code = (
        "import resource, sys; from moderate.results.read import read_results;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "count = sum(len(row['note']) for row in read_results(sys.argv[1]).rows());"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before;"
        "print(count, grown)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, file], capture_output=True, text=True, check=True
    )
    count, grown = map(int, done.stdout.split())
    assert count == 60_000 * 4000
    assert grown < 180 * 1024, "KiB; the notes alone are 234,375 KiB"


def test_path_bytes_are_exact(tmp_path: Path) -> None:
    for file in write(tmp_path, [row(b"\xff\n=.jpg"), row(b"\\xff.jpg")]):
        first, second = read_results(file).rows()
        assert first["path_bytes"] == b"./\xff\n=.jpg"
        assert second["path_bytes"] is None
        assert second["path"] == "./\\xff.jpg"
