"""Folders of fragments: read by their manifest, by one process, and refused where they changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moderate.cluster.files import FragmentFile, FragmentFolder, Manifest
from moderate.errors import InputError
from moderate.results.read import read_results
from moderate.tables import parquet
from moderate.tables.parquet import ParquetSeries
from moderate.types import CATEGORIES
from tests.support.scored import write_results

COUNT = 12
NAMES = [f"part-{number:06}-00112233aabbccdd.parquet" for number in range(COUNT // 4)]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """The same rows in one file."""
    scores = {category: np.linspace(0, 0.9, COUNT) for category in CATEGORIES}
    return write_results(tmp_path / "rows.parquet", scores)


@pytest.fixture
def folder(tmp_path: Path, rows: Path) -> Path:
    """A complete folder of three fragments."""
    table = pq.read_table(rows)
    whole = FragmentFolder(f"{tmp_path}/folder/")
    whole.check()
    manifest = Manifest(whole)
    for number, name in enumerate(NAMES):
        digest = whole.write(name, table.slice(4 * number, 4))
        manifest.add(FragmentFile(name, 4 * number, 4, 4, digest))
    manifest.seal()
    manifest.commit({"run_id": "r"})
    return tmp_path / "folder"


def test_a_folder_has_the_rows_of_its_fragments_whatever_else_lies_there(
    folder: Path, rows: Path
) -> None:
    (folder / "part-000000-ffffffffffffffff.parquet").write_bytes(b"of another run")
    results = read_results(str(folder))
    assert results.table().equals(read_results(str(rows)).table())
    assert [number for number, _ in results.find(paths=["./9.jpg"])] == [10]
    assert results.is_as_written
    assert results.facts == {"run_id": "r"}


def test_one_process_reads_all_fragments(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    start = parquet.ParquetReader._start

    def counted(reader: parquet.ParquetReader) -> None:
        started.append(reader)
        start(reader)

    results = read_results(str(folder))
    monkeypatch.setattr(parquet.ParquetReader, "_start", counted)
    assert results.table().num_rows == COUNT
    assert len(started) == 1


@pytest.mark.parametrize("change", ["deleted", "cut", "replaced", "manifest", "no manifest"])
def test_a_folder_that_was_changed_is_refused(folder: Path, change: str) -> None:
    second, manifest = folder / NAMES[1], folder / "_manifest.jsonl"
    if change == "deleted":
        second.unlink()
    elif change == "cut":
        second.write_bytes(second.read_bytes()[:-9])
    elif change == "replaced":
        second.write_bytes((folder / NAMES[0]).read_bytes())
    elif change == "manifest":
        manifest.write_text("".join(manifest.read_text().splitlines(keepends=True)[:2]))
    else:
        manifest.unlink()
    with pytest.raises(InputError, match=NAMES[1] if "manifest" not in change else "_manifest"):
        read_results(str(folder)).table()


def test_a_series_goes_on_after_a_file_that_is_no_parquet() -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": list(range(1000))}), sink)
    data = sink.getvalue().to_pybytes()
    with ParquetSeries(len(data)) as series:
        assert series.open("one", data).row_count == 1000
        with pytest.raises(InputError, match="two is not readable Parquet"):
            series.open("two", data[:-1])
        batches = series.open("three", data).batches(["a"])
        assert sum(batch.num_rows for batch in batches) == 1000
