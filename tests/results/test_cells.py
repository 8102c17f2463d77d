"""What the writers write fast is what the plain expressions say, cell for cell."""

from __future__ import annotations

import base64
import csv
import dataclasses
import datetime
import io
import json
import math
import os
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moderate.results.column_text import csv_lines, json_lines
from moderate.results.interface import ResultWriter
from moderate.results.parquet_writer import ParquetResultWriter, arrow_schema
from moderate.results.schema import COLUMNS, shortest, values
from moderate.results.text_writers import CsvWriter, JsonlWriter
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
    Url,
    Views,
    Warn,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    [
        "=1+1",
        "+1",
        "-1",
        "-1.5e-3",
        "-x9Kd",
        "'-1",
        "''=x",
        "@x",
        "\tx",
        "＝1",
        "a,b",
        'q"q',
        "x\ny",
        "x\r",
        "",
        " ",
        "'",
        "\0",
    ]
)
NUMBER = re.compile(r"[-+][0-9]+\.?[0-9]*(e[-+]?[0-9]+)?")  # of those that texts and numbers give
FLOAT32 = st.floats(0, 1, width=32) | st.sampled_from(
    [float(np.float32(each)) for each in (1e-4, 1e-5, 1e-45, 0.1, 1 / 3, 1.0, 0.0, -0.0)]
)
COUNTS = st.none() | st.integers(0, 2**63 - 1)
PATHS = st.binary(min_size=1, max_size=12) | TEXT.filter(bool).map(str.encode)
CARRIED: list[tuple[Column, st.SearchStrategy[Any]]] = [
    (Column("text", pa.string()), TEXT),
    (Column('=odd,"name"', pa.string()), TEXT),
    (Column("number", pa.int64()), st.integers(-(2**63), 2**63 - 1)),
    (Column("real", pa.float64()), st.floats()),
    (Column("yes", pa.bool_()), st.booleans()),
    (Column("raw", pa.binary()), st.binary(max_size=8)),
    (Column("day", pa.date32()), st.dates()),
    (Column("moment", pa.timestamp("us")), st.datetimes()),
    (Column("list", pa.list_(pa.string())), st.lists(TEXT, max_size=3)),
    (Column("both", pa.struct([("a", pa.string())])), st.fixed_dictionaries({"a": TEXT})),
    (Column("money", pa.decimal128(12, 2)), st.integers(-9999, 9999).map(lambda n: Decimal(n) / 4)),
    (Column("nothing", pa.null()), st.none()),
]
COLUMNS_CARRIED = [column for column, _ in CARRIED]


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """Any row, hostile ones among them, with and without carried values."""
    carried = draw(st.just(()) | st.tuples(*(st.none() | some for _, some in CARRIED)))
    location = draw(st.none() | st.just(Url("http://h/")))
    path = draw(PATHS | st.just(b"http://h/a,b")) if location else draw(PATHS)
    warnings = tuple(draw(st.lists(st.sampled_from(Warn), unique=True, max_size=2)))
    facts = ImageFacts(
        draw(COUNTS),
        draw(COUNTS),
        draw(st.none() | TEXT),
        draw(COUNTS),
        draw(COUNTS),
        draw(st.none() | st.just("ab" * 32)),
        warnings,
        draw(COUNTS),
        draw(st.none() | FLOAT32),
        tuple(draw(st.lists(TEXT, max_size=2))),
        draw(st.none() | FLOAT32),
    )
    error = draw(st.none() | st.builds(ImageError, st.sampled_from(ErrorCode), TEXT))
    some = dict.fromkeys(CATEGORIES, st.none() | FLOAT32)
    score = st.none() | FLOAT32
    return Row(
        ref=ImageRef(path, location=location, carried=carried),
        facts=facts,
        scores=UNSCORED if error else draw(st.fixed_dictionaries(some)),
        decision=draw(st.sampled_from(Decision)),
        reasons=tuple(draw(st.lists(TEXT, max_size=2))),
        views=Views(
            draw(st.none() | TEXT),
            draw(score),
            draw(score),
            draw(score),
            draw(st.none() | TEXT),
            draw(st.none() | st.booleans()),
            draw(st.none() | TEXT),
        ),
        error=error,
        duplicate_of=draw(st.none() | PATHS.map(os.fsdecode)),
        origin=draw(st.sampled_from(Origin)),
        run_id=draw(st.just("") | st.just("5e" * 16)),
        scored_at=draw(st.none() | st.datetimes(timezones=st.just(datetime.UTC))),
        places=draw(st.dictionaries(TEXT, TEXT, max_size=2)),
        segments=draw(st.none() | TEXT),
        uri=draw(st.none() | TEXT),
    )


def plain_record(row: Row) -> dict[str, Any]:
    """A row's own columns by name, in Python's own types."""
    path = row.ref.display
    text = path.decode("utf-8", "backslashreplace")
    first = None if row.duplicate_of is None else os.fsencode(row.duplicate_of)
    views = dataclasses.asdict(row.views)
    del views["rating_probability"]  # which the columns of labels have
    return {
        "path": text,
        "path_bytes": None if text.encode() == path else path,
        "uri": row.uri,
        "origin": row.origin.value,
        "run_id": row.run_id or None,
        "scored_at": row.scored_at and row.scored_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "status": "error" if row.error else "ok",
        "decision": row.decision.value,
        "reasons": "; ".join(row.reasons) or None,
        **{category.value: row.scores[category] for category in CATEGORIES},
        **views,
        "width": row.facts.width,
        "height": row.facts.height,
        "format": row.facts.format,
        "frames": row.facts.frames,
        "frames_scored": row.facts.frames_scored,
        "highest_at": "; ".join(f"{term} at {at}" for term, at in row.places.items()) or None,
        "unseen": row.facts.unseen,
        "embedded": "; ".join(row.facts.embedded) or None,
        "segments": row.segments,
        "duration": row.facts.duration,
        "bytes": row.facts.bytes,
        "sha256": row.facts.sha256,
        "duplicate_of": None if first is None else first.decode("utf-8", "backslashreplace"),
        "warnings": "; ".join(warning.value for warning in row.facts.warnings) or None,
        "error_code": row.error.code.value if row.error else None,
        "error_message": row.error.message if row.error else None,
    }


def with_carried(row: Row, carried: bool, plain: Callable[[Any, bool], Any]) -> dict[str, Any]:
    """All columns of a file by name; `plain(value, is_carried)` makes the cells."""
    own = {name: plain(value, False) for name, value in plain_record(row).items()}
    given_values = row.ref.carried or (None,) * len(CARRIED)
    pairs = zip(COLUMNS_CARRIED, given_values, strict=True)
    between = {column.name: plain(value, True) for column, value in pairs} if carried else {}
    names = ("path", "path_bytes", "uri")
    return {**{name: own[name] for name in names}, **between, **own}


def plain_json(value: Any, is_carried: bool) -> Any:
    if isinstance(value, float):
        if not is_carried:
            return float(str(np.float32(value)))
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.date):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else value


def plain_csv(value: Any, is_carried: bool) -> str:
    value = plain_json(value, is_carried)
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False)
    text = str(value)
    runs = text.lstrip("'").startswith(tuple("=+-@\t\r\n\0＝＋－＠"))
    return "'" + text if runs and not NUMBER.fullmatch(text) else text


def written(writer: ResultWriter, target: Path, given_rows: list[Row], carried: bool) -> bytes:
    writer.start({}, COLUMNS_CARRIED if carried else ())
    for row in given_rows:
        writer.write(row)
    writer.commit({})
    return target.read_bytes()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plain") / "out"


SOME = st.lists(rows(), min_size=1, max_size=8)
few = settings(max_examples=40, deadline=None)


@few
@given(SOME, st.booleans())
def test_csv_is_what_the_csv_module_writes(
    target: Path, given_rows: list[Row], carried: bool
) -> None:
    expected = io.StringIO(newline="")
    names = list(with_carried(given_rows[0], carried, plain_csv))
    lines = [list(with_carried(row, carried, plain_csv).values()) for row in given_rows]
    for line in [[plain_csv(name, True) for name in names], *lines]:
        one = io.StringIO(newline="")
        csv.writer(one, lineterminator="\r\n").writerow(line)
        expected.write(one.getvalue()[:-2] + "\n")
    found = written(CsvWriter(str(target)), target, given_rows, carried)
    assert found.decode() == expected.getvalue()


@few
@given(SOME, st.booleans())
def test_jsonl_is_what_the_json_module_writes(
    target: Path, given_rows: list[Row], carried: bool
) -> None:
    lines = [
        json.dumps(with_carried(row, carried, plain_json), ensure_ascii=False) + "\n"
        for row in given_rows
    ]
    found = written(JsonlWriter(str(target)), target, given_rows, carried)
    assert found.decode() == "".join(lines)


@few
@given(SOME, st.booleans())
def test_parquet_is_what_pyarrow_makes_of_records(
    target: Path, given_rows: list[Row], carried: bool
) -> None:
    records = [with_carried(row, carried, lambda value, _: value) for row in given_rows]
    schema = arrow_schema(COLUMNS_CARRIED if carried else ())
    written(ParquetResultWriter(str(target)), target, given_rows, carried)
    found = pq.read_table(target)
    expected = pa.Table.from_pylist(records, schema=schema)
    assert found.schema.equals(schema)
    assert str(found.to_pylist()) == str(expected.to_pylist())  # NaN is NaN there


@given(rows())
def test_values_stand_in_the_order_of_the_columns(row: Row) -> None:
    expected = plain_record(row)
    assert list(expected) == [column.name for column in COLUMNS]
    assert values(row) == list(expected.values())


@few
@given(SOME, st.integers(1, 3))
def test_columns_are_written_as_rows_are(
    target: Path, given_rows: list[Row], repeated: int
) -> None:
    """Also those that are the same in every row, whose text is made once."""
    for some in (given_rows, given_rows[:1] * repeated):
        cells = zip(*map(values, some), strict=True)
        columns = [pa.array(c, field.type) for c, field in zip(cells, arrow_schema(), strict=True)]
        for writer in (CsvWriter, JsonlWriter):
            row_by_row = written(writer(str(target)), target, some, False)
            by_columns = writer(str(target))
            by_columns.start({})
            by_columns.write_columns(columns, [])
            by_columns.commit({})
            assert target.read_bytes() == row_by_row


def test_text_that_utf8_cannot_hold_is_escaped(target: Path) -> None:
    error = ImageError(ErrorCode.READ_ERROR, "half a \ud83d,")
    row = Row(ImageRef(b"a"), ImageFacts(), UNSCORED, Decision.REVIEW, (), error=error)
    for writer in (CsvWriter, JsonlWriter):
        assert rb'half a \ud83d,"' in written(writer(str(target)), target, [row], False)


@given(st.floats(0, 1, width=32) | st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_the_shortest_text_is_python_s_of_numpy_s_number(value: float) -> None:
    assert shortest(value) == repr(float(str(np.float32(value))))
    assert np.float32(shortest(value)) == np.float32(value)
    assert shortest(float(np.float32(1e-4))) == "0.0001"


def test_floats_of_a_column_have_the_shortest_text_whatever_their_size() -> None:
    """Around each change of notation, all in one column."""
    steps = np.float32([10.0**power for power in range(-45, 39)])
    few_digits = np.float32([f"{digits}e{p}" for p in range(-12, 8) for digits in (1, 12, 95, 123)])
    drawn = np.float32(10.0 ** np.random.default_rng(7).uniform(-12, 8, 2000))
    close = [np.nextafter(steps, np.float32(to)) for to in (0, 1)]
    values = np.concatenate([steps, *close, few_digits, drawn, np.float32([0.0])])
    values = np.concatenate([values, -values])
    column = pa.array([*values.tolist(), None], pa.float32())
    keys, names = ["a: ", "b: "], pa.array([str(n) for n in range(len(column))])
    lines = csv_lines([names, column], []).decode().splitlines()
    assert [line.partition(",")[2] for line in lines] == [*map(shortest, values), ""]
    lines = json_lines(keys, [names, column], []).decode().splitlines()
    assert [line.partition("b: ")[2] for line in lines] == [
        f"{text}}}" for text in [*map(shortest, values), "null"]
    ]
