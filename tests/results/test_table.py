"""Rows as dictionaries and tables: the columns of the result files, by whatever way."""

from __future__ import annotations

import os
from dataclasses import replace

import pyarrow as pa

import moderate
from moderate.results.parquet_writer import arrow_schema
from moderate.results.schema import COLUMNS, own_columns
from moderate.types import (
    CATEGORIES,
    UNSCORED,
    Column,
    Decision,
    ErrorCode,
    ExtraColumns,
    ImageError,
    ImageFacts,
    ImageRef,
    Row,
    Warn,
)

SCORED = Row(
    ImageRef(b"a/\xff.png"),
    ImageFacts(3, 4, "png", 1, 99, "ab" * 32, (Warn.SMALL_IMAGE, Warn.ANIMATED)),
    dict.fromkeys(CATEGORIES, 0.25),
    Decision.REVIEW,
    ("one", "two"),
    duplicate_of="./b/\udcff.png",
)
FAILED = Row(
    ImageRef(b"b"),
    ImageFacts(),
    UNSCORED,
    Decision.BLOCK,
    (),
    error=ImageError(ErrorCode.NOT_FOUND, "gone"),
)


def test_a_row_is_text_by_its_path_and_plain_values_by_its_columns() -> None:
    assert SCORED.path == "./a/\udcff.png"
    assert os.fsencode(SCORED.path) == SCORED.ref.display
    values = SCORED.to_dict()
    assert list(values) == [column.name for column in COLUMNS]
    assert {type(value) for value in values.values()} <= {str, int, float, bool, bytes, type(None)}
    assert values["path"] == "./a/\\xff.png"
    assert values["path_bytes"] == b"./a/\xff.png"
    assert values["duplicate_of"] == "./b/\\xff.png"
    assert values["decision"] == "review"
    assert values["warnings"] == "small_image; animated"
    assert values["nudity"] == 0.25
    failed = FAILED.to_dict()
    assert (failed["error_code"], failed["nudity"], failed["reasons"]) == ("not_found", None, None)


def test_a_table_has_the_schema_of_parquet_results_and_the_values_of_the_rows() -> None:
    table = moderate.to_table(iter([SCORED, FAILED]))
    assert table.schema == arrow_schema()
    assert table.to_pylist() == [SCORED.to_dict(), FAILED.to_dict()]
    empty = moderate.to_table([])
    assert (empty.schema, empty.num_rows) == (arrow_schema(), 0)


def test_carried_columns_and_labels_stand_where_results_have_them() -> None:
    number, when = Column("n", pa.int64()), Column("when", pa.timestamp("ns"))
    extra = ExtraColumns((number, when), ("net/cat", "net/dog"))
    late = pa.scalar(2**60 + 1, pa.timestamp("ns"))  # Python has nothing equal to it
    row = replace(
        SCORED, ref=replace(SCORED.ref, carried=(7, late)), extra=extra, labels={"net/dog": 0.5}
    )
    values = row.to_dict()
    assert list(values)[:6] == ["path", "path_bytes", "uri", "n", "when", "origin"]
    assert list(values)[-2:] == ["label:net/cat", "label:net/dog"]
    assert (values["n"], values["label:net/cat"], values["label:net/dog"]) == (7, None, 0.5)
    assert isinstance(values["when"], str)
    failed = replace(FAILED, extra=extra)  # it carries nothing
    assert (failed.to_dict()["n"], len(failed.to_dict())) == (None, len(values))
    table = moderate.to_table([row, failed])
    assert table.schema == arrow_schema((number, when), extra.labels)
    assert table["n"].to_pylist() == [7, None]
    # Rows of other scans have null where they carry nothing.
    other = replace(SCORED, ref=replace(SCORED.ref, carried=("x",)),
                    extra=ExtraColumns((Column("name", pa.string()),)))  # fmt: skip
    mixed = moderate.to_table([row, other, SCORED])
    assert mixed["n"].to_pylist() == [7, None, None]
    assert mixed["name"].to_pylist() == [None, "x", None]
    assert mixed.column_names[-2:] == [column.name for column in own_columns(extra.labels)][-2:]
