"""Columns of every type that Parquet has, from a manifest through results and back."""

from __future__ import annotations

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moderate.analysis.decide import DecideOptions, redecide
from moderate.arrow import plain_value, python_values
from moderate.policy.load import load_policy
from moderate.results.cells import plain
from moderate.results.read import read_results
from moderate.results.targets import open_writers
from moderate.sources.columns import ManifestOptions
from moderate.sources.parquet_manifest import parquet_manifest
from moderate.types import CATEGORIES, ImageFacts, Row
from tests.support.oracle import decide, views

SUFFIXES = ("csv", "jsonl", "parquet")
ZONES = ("Nowhere/At_All", "+27:99", "Europe", "a\0b", "../../etc/passwd", "x" * 5000)
BIG = 2**60


def not_utf8(kind: Any = None) -> pa.Array:
    kind = kind or pa.string()
    wide = pa.large_binary() if kind == pa.large_string() else pa.binary()
    return pa.Array.from_buffers(kind, 2, pa.array([b"a\xff", b"b"], wide).buffers())


def extension(kind: Any, storage: Any) -> pa.Array:
    return pa.ExtensionArray.from_storage(kind, storage)


ARRAYS: dict[str, tuple[pa.Array, Any]] = {
    "duration of seconds": (pa.array([BIG, None], pa.duration("s")), f"{BIG} s"),
    "duration of nanoseconds": (pa.array([5, None], pa.duration("ns")), "5 ns"),
    "time of nanoseconds": (pa.array([5, None], pa.time64("ns")), "00:00:00.000000005"),
    "timestamp of nanoseconds": (
        pa.array([5, None], pa.timestamp("ns")), "1970-01-01 00:00:00.000000005",
    ),
    "year 38505": (pa.array([BIG, None], pa.timestamp("us", "UTC")), f"{BIG} us since 1970"),
    "decimal256": (pa.array([Decimal(10) ** 60, None], pa.decimal256(70, 2)), "1" + "0" * 60),
    "day out of range": (pa.array([2**31 - 1, None], pa.date32()), "<value out of range"),
    "null": (pa.nulls(2), None),
    "float16": (pa.array([np.float16(1.5), None], pa.float16()), 1.5),
    "dictionary": (pa.array(["a", None]).dictionary_encode(), "a"),
    "large string": (pa.array(["a", None], pa.large_string()), "a"),
    "string view": (pa.array(["a", None], pa.string_view()), "a"),
    "binary view": (pa.array([b"a", None], pa.binary_view()), "YQ=="),
    "list view": (pa.array([[1], None], pa.list_view(pa.int64())), [1]),
    "list of a fixed size": (pa.array([[1, 2], None], pa.list_(pa.int64(), 2)), [1, 2]),
    "map": (pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())), [["k", 1]]),
    "uint64": (pa.array([2**64 - 1, None], pa.uint64()), 2**64 - 1),
    "uuid": (
        extension(pa.uuid(), pa.array([b"u" * 16, None], pa.binary(16))), "dXV1dXV1dXV1dXV1dXV1dQ=="
    ),
    "not UTF-8": (not_utf8(), "a\\xff"),
    "large and not UTF-8": (not_utf8(pa.large_string()), "a\\xff"),
    "dictionary that is not UTF-8": (not_utf8().dictionary_encode(), "a\\xff"),
    "list that is not UTF-8": (
        pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), not_utf8()), ["a\\xff"],
    ),
    "struct that is not UTF-8": (
        pa.StructArray.from_arrays([not_utf8()], names=["s"]), {"s": "a\\xff"},
    ),
    "struct with two fields of a name": (
        pa.StructArray.from_arrays([pa.array([1, 2]), pa.array(["x", "y"])], names=["a", "a"]),
        [["a", 1], ["a", "x"]],
    ),
    "list of durations": (
        pa.array([[BIG], None], pa.list_(pa.duration("s"))), [f"{BIG} s"],
    ),
    **{
        f"timestamp in {zone[:20]!r} {unit}": (
            pa.array([5, None], pa.timestamp(unit, zone)), "1970-01-01 00:00:00.00",
        )
        for zone in ZONES
        for unit in ("us", "ns")
    },
    "list of timestamps": (
        pa.array([[5], None], pa.list_(pa.timestamp("us", ZONES[0]))),
        ["1970-01-01 00:00:00.000005Z"],
    ),
    "struct of a timestamp": (
        pa.array([{"t": 5}, None], pa.struct([("t", pa.timestamp("us", ZONES[0]))])),
        {"t": "1970-01-01 00:00:00.000005Z"},
    ),
}  # fmt: skip


def same(got: Any, wanted: Any) -> bool:
    """Where JSON Lines become Parquet, what Arrow has no type for is the text of the JSON."""
    if isinstance(wanted, str):
        return isinstance(got, str) and got.startswith(wanted)
    return got in (wanted, json.dumps(wanted))


@pytest.mark.parametrize("name", ARRAYS)
def test_a_kept_column_of_any_type_is_written_read_and_decided_again(
    tmp_path: Path, name: str
) -> None:
    column, wanted = ARRAYS[name]
    manifest_file = str(tmp_path / "m.parquet")
    pq.write_table(pa.table({"path": ["a.jpg", "b.jpg"], "k": column}), manifest_file)
    manifest = parquet_manifest([manifest_file.encode()], ManifestOptions(keep=("k",)))
    policy = load_policy("balanced").policy
    scores = dict.fromkeys(CATEGORIES, 0.125)
    decision, why = decide(policy, scores, (), None)
    by_column = tmp_path / "by-column.toml"
    preset = Path(__file__).parent.parent / "moderate/policy/presets/balanced.toml"
    by_column.write_text(preset.read_text() + '\n[[override]]\nwhen = "k = x"\npolicy = "strict"\n')
    for suffix in SUFFIXES:
        out = str(tmp_path / f"out.{suffix}")
        with open_writers([out]) as (writer,):
            writer.start({}, manifest.columns)
            for ref in manifest:
                facts = ImageFacts(1, 1, "png", 1, 1, "ab" * 32, ())
                writer.write(Row(ref, facts, scores, decision, why, views(policy, scores), None))
            writer.commit({})
        again = [str(tmp_path / f"again-{suffix}.{other}") for other in SUFFIXES]
        redecide(DecideOptions(out, str(by_column), again))
        for file in (out, *again):
            values = [row["k"] for row in read_results(file).rows()]
            assert len(values) == 2
            assert read_results(file).table().num_rows == 2
            got = plain(values[0])
            if suffix != "csv" and not file.endswith("csv"):  # CSV has nothing but text
                assert same(got, wanted), (file, got)


def test_types_that_parquet_lacks_have_a_text_too() -> None:
    union = pa.UnionArray.from_dense(
        pa.array([0, 1], pa.int8()), pa.array([0, 0], pa.int32()), [pa.array([1]), not_utf8()]
    )
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), pa.array(["a"]))
    interval = pa.array([pa.MonthDayNano([1, 2, 3])], pa.month_day_nano_interval())
    for array in (union, runs, interval, *(column for column, _ in ARRAYS.values())):
        for value in python_values(array):
            plain(value)
        for scalar in array:
            plain(plain_value(scalar))


def test_arrow_can_be_kept_from_importing_pandas(tmp_path: Path) -> None:
    (tmp_path / "pandas").mkdir()
    (tmp_path / "pandas" / "__init__.py").write_text("__version__ = '0.0'")
    script = (
        "import sys\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from moderate.arrow import leave_out_pandas\n"
        "leave_out_pandas()\n"
        "import pyarrow as pa\n"
        "assert pa.array([1, None]).to_pylist() == [1, None]\n"
        "assert 'pandas' not in sys.modules\n"
        "import pandas\n"
        "leave_out_pandas()\n"
        "assert pandas.__version__ == '0.0'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[1])
