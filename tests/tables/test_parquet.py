"""Parquet that asks for much more than it holds: read within a limit, or refused in one line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import moderate
from moderate.errors import InputError
from moderate.sources.columns import ManifestOptions
from moderate.sources.parquet_manifest import parquet_manifest
from moderate.tables import parquet
from moderate.tables.parquet import MIN_READER_BYTES, open_parquet
from moderate.tables.parquet_server import MAX_BATCH_BYTES
from tests.support.patience import PATIENCE

MIB = 1 << 20


def readers() -> list[int]:
    """The processes that read a file now."""
    assert parquet._servers._process is not None
    server = parquet._servers._process.pid
    return [int(pid) for pid in Path(f"/proc/{server}/task/{server}/children").read_text().split()]


def status_of(pid: int, name: str) -> str:
    found = re.search(rf"^{name}:\s+(\S+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return found[1]


def written(path: Path, columns: dict[str, pa.Array], **options: Any) -> bytes:
    pq.write_table(pa.table(columns), path, store_schema=False, **options)
    return os.fsencode(path)


def repeated(value: bytes | str, rows: int) -> pa.Array:
    """A column whose dictionary holds one value, however often it is there."""
    indices = pa.array([0] * rows, pa.int32())
    return pa.DictionaryArray.from_arrays(indices, pa.array([value]))


def peak_of_reading(path: bytes, **options: Any) -> tuple[int, int, int]:
    """Rows, their bytes, and the peak memory of the process that read them."""
    with open_parquet(path) as file:
        rows = size = 0
        for batch in file.batches(**options):
            assert batch.num_rows == 1 or batch.nbytes <= MAX_BATCH_BYTES
            rows += batch.num_rows
            size += batch.nbytes
        (reader,) = readers()
        return rows, size, int(status_of(reader, "VmHWM")) << 10


def with_lying_footer(path: Path) -> bytes:
    """The file with a footer that tells of row groups and columns of one byte."""
    data = path.read_bytes()
    footer_bytes = int.from_bytes(data[-8:-4], "little")
    start = len(data) - 8 - footer_bytes
    footer = data[start:-8]
    metadata = pq.ParquetFile(path).metadata
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    columns = [group.column(at) for group in groups for at in range(group.num_columns)]
    for size in {
        *(group.total_byte_size for group in groups),
        *(column.total_uncompressed_size for column in columns),
    }:
        true = varint(size)
        # Longer than it needs to be, so that nothing moves.
        footer = footer.replace(true, bytes([0x82] + [0x80] * (len(true) - 2) + [0]))
    path.write_bytes(data[:start] + footer + data[-8:])
    assert pq.ParquetFile(path).metadata.row_group(0).total_byte_size == 1
    return os.fsencode(path)


def varint(value: int) -> bytes:
    """A whole number as Thrift's compact protocol has it."""
    value <<= 1
    found = []
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


@pytest.mark.parametrize("role", ["path", "kept", "image"])
def test_one_long_value_that_a_dictionary_repeats(role: str, tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    long: Any = repeated(b"\0" * MIB if role == "image" else "x" * MIB, 4096)
    name = {"path": "path", "kept": "caption", "image": "image"}[role]
    columns = {name: long, **({"path": pa.array(["a.jpg"] * 4096)} if role == "kept" else {})}
    assert Path(os.fsdecode(written(path, columns, compression="zstd"))).stat().st_size < 60_000
    rows, size, peak = peak_of_reading(
        os.fsencode(path),
        leaves=[[name]] if role != "kept" else [["path"]],
        columns=["caption"] if role == "kept" else [],
        max_value_bytes=10 * MIB if role == "image" else 0,
    )
    assert rows == 4096
    assert size > 4096 * MIB
    assert peak < MIN_READER_BYTES


def test_a_footer_that_lies_about_sizes(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    values = pa.array([os.urandom(MIB) for _ in range(4)])
    indices = pa.array([number % 4 for number in range(3000)], pa.int32())
    images = pa.DictionaryArray.from_arrays(indices, values)
    written(path, {"image": images}, row_group_size=1500)
    lying = with_lying_footer(path)
    rows, size, peak = peak_of_reading(lying, leaves=[["image"]], max_value_bytes=10 * MIB)
    assert rows == 3000
    assert size > 3000 * MIB
    assert peak < MIN_READER_BYTES + 4 * path.stat().st_size


def test_prefixes_that_delta_encoding_repeats(tmp_path: Path) -> None:
    """Each value shares a MiB with the one before: 3 GiB from a page of kilobytes."""
    values = pa.array("x" * MIB + f"{number:04}" for number in range(300))
    path = written(
        tmp_path / "m.parquet",
        {"path": values},
        use_dictionary=False,
        column_encoding="DELTA_BYTE_ARRAY",
        compression="zstd",
    )
    assert (tmp_path / "m.parquet").stat().st_size < 200_000
    with_lying_footer(tmp_path / "m.parquet")
    rows, size, peak = peak_of_reading(path, leaves=[["path"]])
    assert (rows, size) == (300, pytest.approx(300 * MIB, rel=0.01))
    assert peak < MIN_READER_BYTES


@pytest.fixture(scope="module")
def needs_too_much(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of kilobytes, one value of which is too large for the memory that it may cost."""
    path = tmp_path_factory.mktemp("large") / "m.parquet"
    written(path, {"path": pa.array(["x" * (160 * MIB)])}, compression="zstd")
    assert path.stat().st_size < 100_000
    return path


def test_a_value_beyond_the_memory_of_its_reader_is_one_line(needs_too_much: Path) -> None:
    manifest = parquet_manifest([os.fsencode(needs_too_much)], ManifestOptions())
    with pytest.raises(InputError, match=r"row group 0 of .*m\.parquet cannot be read: ") as caught:
        list(manifest)
    assert "memory" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_scan_of_such_a_manifest_ends_with_one_line(needs_too_much: Path) -> None:
    done = run("scan", str(needs_too_much), "--weights", "testcard", "--no-state", "--quiet")
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if "m.parquet" in line]
    assert len(lines) == 1, done.stderr
    assert "row group 0 of " in lines[0]
    assert "Traceback" not in done.stderr


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "moderate", *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(moderate.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.fixture
def plain(tmp_path: Path) -> bytes:
    names = pa.array([f"{number}.jpg" for number in range(10_000)])
    return written(tmp_path / "plain.parquet", {"path": names}, row_group_size=3000)


def test_a_reader_is_sandboxed(plain: bytes) -> None:
    with open_parquet(plain):
        (reader,) = readers()
        assert status_of(reader, "NoNewPrivs") == "1"
        assert status_of(reader, "Seccomp") == "2"
        assert status_of(reader, "Threads") == "1"
        limits = Path(f"/proc/{reader}/limits").read_text()
        limit = re.search(r"^Max data size\s+(\d+)", limits, re.MULTILINE)
        assert limit
        assert int(limit[1]) < MIN_READER_BYTES + 4 * os.stat(plain).st_size


def test_another_process_goes_on_where_a_reader_was_killed(plain: bytes) -> None:
    with open_parquet(plain) as file:
        batches = file.batches(leaves=[["path"]])
        next(batches)
        (reader,) = readers()
        os.kill(reader, signal.SIGKILL)
        rest = [batch.num_rows for batch in batches]
        assert sum(rest) == 10_000 - 3000
    assert len(list(parquet_manifest([plain], ManifestOptions()))) == 10_000


def test_a_waiting_process_that_is_killed_is_started_again(plain: bytes) -> None:
    assert len(list(parquet_manifest([plain], ManifestOptions()))) == 10_000
    first = parquet._servers._process
    assert first is not None
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert len(list(parquet_manifest([plain], ManifestOptions()))) == 10_000
    assert parquet._servers._process is not first


def test_readers_end_with_the_file_and_with_the_run(plain: bytes) -> None:
    code = (
        "import os, sys, time\n"
        "from moderate.tables import parquet\n"
        "file = parquet.open_parquet(os.fsencode(sys.argv[1]))\n"
        "print(parquet._servers._process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, os.fsdecode(plain)],
        env={**os.environ, "PYTHONPATH": str(Path(moderate.__file__).parents[1])},
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        server = int(process.stdout.readline())
        (reader,) = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        watched = [os.pidfd_open(server), os.pidfd_open(int(reader))]
        process.kill()
    import select

    for descriptor in watched:
        assert select.select([descriptor], [], [], 20)[0], "still running"
        os.close(descriptor)


def test_what_is_sent_is_what_the_file_holds(tmp_path: Path) -> None:
    """All types, several row groups, parts of them, none of the rows."""
    columns = {
        "text": pa.array(["a", None, ""] * 1000),
        "words": pa.array(["a", "b", None] * 1000).dictionary_encode(),
        "nested": pa.array([{"x": [1, None]}, None, {"x": []}] * 1000),
        "when": pa.array([1, None, 3] * 1000, pa.timestamp("ns", "UTC")),
    }
    table = pa.table(columns)
    path = tmp_path / "m.parquet"
    pq.write_table(table, path, row_group_size=700)
    with open_parquet(os.fsencode(path)) as file:
        assert file.group_rows == (700, 700, 700, 700, 200)
        assert file.row_count == 3000
        assert file.schema.equals(table.schema)
        found = pa.Table.from_batches(list(file.batches(table.column_names)))
        for name in ("text", "words", "nested"):
            assert found[name].to_pylist() == table[name].to_pylist()
        assert found["when"].equals(table["when"])
        part = pa.Table.from_batches(list(file.batches(["nested"], groups=[4, 0])))
        assert part.num_rows == 900
        assert part["nested"].to_pylist()[:200] == table["nested"].to_pylist()[2800:]
        assert list(file.batches(["text"], groups=[])) == []
