"""What a results file in Parquet says of its columns, and types that never change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from moderate.results.parquet_writer import DESCRIPTIONS, arrow_schema
from moderate.results.read import read_results
from moderate.results.schema import COLUMNS, own_columns
from moderate.types import Category, Column
from tests.support.scored import write_results

FROZEN = """
path string, path_bytes binary, uri string, origin string, run_id string, scored_at string,
status string, decision string, reasons string, nudity float, sexual_activity float,
suggestive float, violence float, drug_use float, label string, nsfw_score float,
safe_score float, confidence float, risk string, is_nsfw bool, rating string, width int64,
height int64, format string, frames int64, frames_scored int64, highest_at string, unseen float,
embedded string, segments string, duration float, bytes int64, sha256 string, duplicate_of string,
warnings string, error_code string, error_message string
"""


def test_types_are_those_that_warehouses_have_tables_for() -> None:
    """A column may be added; one that is there keeps its name and type."""
    found = ", ".join(f"{field.name} {field.type}" for field in arrow_schema())
    assert found == " ".join(FROZEN.split())
    carried = arrow_schema((Column("user", pa.int32()),), ("net/cat",))
    assert carried.field("user").type == pa.int32()
    assert carried.field("label:net/cat").type == pa.float32()


def test_each_column_says_what_it_means(tmp_path: Path) -> None:
    file = write_results(tmp_path / "r.parquet", {Category.NUDITY: np.zeros(3)})
    meant = {column.name: column.meaning for column in COLUMNS}
    in_arrow = {
        field.name: field.metadata[b"description"].decode() for field in pq.read_schema(file)
    }
    assert in_arrow == meant
    assert all(in_arrow.values())
    table = pq.read_table(file, columns=["uri"])
    assert table.schema.field("uri").metadata[b"description"].decode() == meant["uri"]
    # Readers without Arrow's schema have the metadata of the file.
    assert json.loads(pl.read_parquet_metadata(file)[DESCRIPTIONS]) == meant
    query = f"SELECT value FROM parquet_kv_metadata('{file}') WHERE key = '{DESCRIPTIONS}'"
    assert json.loads(one(query)) == meant
    results = read_results(str(file))
    assert DESCRIPTIONS not in results.facts
    assert results.is_as_written


def test_columns_of_labels_are_described_and_carried_ones_are_as_they_came() -> None:
    schema = arrow_schema((Column("user", pa.int32()),), ("net/cat",))
    assert schema.field("label:net/cat").metadata
    assert own_columns(("net/cat",))[-1].meaning
    assert schema.field("user").metadata is None


def one(query: str) -> Any:
    ((value,),) = duckdb.sql(query).fetchall()
    return value
