"""Which kind a file is, by suffix and content, and folders of Parquet files."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moderate.errors import InputError
from moderate.sources.columns import ManifestOptions
from moderate.sources.lists import ListSource
from moderate.sources.manifest import list_or_manifest, parquet_files_in
from moderate.sources.parquet_manifest import ParquetManifest
from moderate.sources.text_manifest import CsvManifest, JsonlManifest
from moderate.types import ImageRef
from tests.support.patience import PATIENCE
from tests.support.pictures import encode, scene

OPTIONS = ManifestOptions(base=b"")
JSON = b'{"path": "a.jpg"}\n'


def kind(path: Path, data: bytes, *, nul: bool = False) -> type:
    path.write_bytes(data)
    source = list_or_manifest(path, OPTIONS, nul=nul)
    if not nul:
        assert list(source) == [ImageRef(b"a.jpg")]
    return type(source)


def parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"path": ["a.jpg"]}), buffer)
    return buffer.getvalue()


def test_suffix_and_content_decide(tmp_path: Path) -> None:
    for name in ("l.txt", "L.TXT", "l.lst", "list"):
        assert kind(tmp_path / name, b"a.jpg\n") is ListSource
    assert kind(tmp_path / "m.csv", b"path\na.jpg\n") is CsvManifest
    assert kind(tmp_path / "m.TSV", b"path\tx\na.jpg\t1\n") is CsvManifest
    for name in ("m.jsonl", "m.ndjson", "manifest"):
        assert kind(tmp_path / name, JSON) is JsonlManifest
    for name in ("m.parquet", "m.pq", "m", "m.csv"):
        assert kind(tmp_path / name, parquet()) is ParquetManifest
    for name in ("m.manifest", "m.json", "M.JSONL.GZ", "m.manifest.gz", "unnamed.gz"):
        packed = name.lower().endswith(".gz")
        assert kind(tmp_path / name, gzip.compress(JSON) if packed else JSON) is JsonlManifest
    assert kind(tmp_path / "l.txt.gz", gzip.compress(b"a.jpg\n")) is ListSource
    assert kind(tmp_path / "m.csv.gz", gzip.compress(b"path\na.jpg\n")) is CsvManifest
    assert kind(tmp_path / "m.tsv.gz", gzip.compress(b"n\tpath\n1\ta.jpg\n")) is CsvManifest
    with pytest.raises(InputError, match="unpack it first"):
        kind(tmp_path / "m.parquet.gz", gzip.compress(parquet()))
    assert kind(tmp_path / "m.csv", b"path\0a.jpg", nul=True) is ListSource


def test_a_manifest_that_is_not_there(tmp_path: Path) -> None:
    for name in ("m.csv", "m.jsonl", "m.parquet"):
        with pytest.raises(InputError, match=f"{name}.*No such file"):
            list_or_manifest(tmp_path / name, OPTIONS)
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "folder.csv").mkdir()
    for name in ("pipe.jsonl", "folder.csv"):
        with pytest.raises(InputError, match=f"{name} is not a regular file"):
            list_or_manifest(tmp_path / name, OPTIONS)
    with pytest.raises(InputError, match="No such file"):
        list(list_or_manifest(tmp_path / "l.txt", OPTIONS))


def stdin(data: bytes) -> io.BufferedReader:
    return io.BufferedReader(io.BytesIO(data))  # type: ignore[arg-type]


def test_standard_input() -> None:
    named = list_or_manifest("-", OPTIONS, stdin=stdin(b"a.jpg\nfile://x\n"))
    assert [one.path for one in named] == [b"a.jpg", b"stdin:2"]
    objects = list_or_manifest("-", OPTIONS, stdin=stdin(JSON * 2000))
    assert list(objects) == [ImageRef(b"a.jpg")] * 2000
    kept = list_or_manifest(
        "-", ManifestOptions(keep=("n",)), stdin=stdin(b'{"n": 1, "path": "a.jpg"}\n' * 1500)
    )
    assert list(kept) == [ImageRef(b"a.jpg", carried=(1,))] * 1500
    entries = list_or_manifest("-", OPTIONS, nul=True, stdin=stdin(b"{a\0b"))
    assert [one.path for one in entries] == [b"{a", b"b"]
    assert list(list_or_manifest("-", OPTIONS, stdin=stdin(b""))) == []
    csv = ManifestOptions(columns=("id", "path"))
    assert list(list_or_manifest("-", csv, stdin=stdin(b"1,a.jpg\n"))) == [ImageRef(b"a.jpg")]
    for data in (parquet(), gzip.compress(JSON), b'["a.jpg"]'):
        with pytest.raises(InputError, match="standard input"):
            list_or_manifest("-", OPTIONS, stdin=stdin(data))


def test_relative_paths_start_where_the_user_says(tmp_path: Path) -> None:
    for name, data in {"l.txt": b"a.jpg\n", "m.csv": b"path\na.jpg\n", "m.jsonl": JSON}.items():
        (tmp_path / name).write_bytes(data)
        for options, base in (
            (ManifestOptions(base=b"in"), b"in/"),
            (ManifestOptions(), b"" if name == "l.txt" else os.fsencode(tmp_path) + b"/"),
        ):
            (ref,) = list_or_manifest(tmp_path / name, options)
            assert isinstance(ref, ImageRef)
            assert ref.path == base + b"a.jpg"
            assert ref.listing
            assert ref.listing.folder == os.fsencode(tmp_path)


def test_a_pipe_is_read_once_and_whole(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    feed = f"open({str(tmp_path / 'pipe')!r}, 'wb').write(b'a.jpg\\nb.jpg\\n')"
    with subprocess.Popen([sys.executable, "-c", feed]) as child:
        source = list_or_manifest(tmp_path / "pipe", OPTIONS)
        assert list(source) == [ImageRef(b"a.jpg"), ImageRef(b"b.jpg")]
        assert child.wait(PATIENCE) == 0


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    assert parquet_files_in(folder) is None
    for name in ("b.parquet", "a.PARQUET", "_SUCCESS", ".b.parquet.crc", "README.md", "info.json"):
        (tmp_path / name).write_bytes(b"x")
    assert parquet_files_in(folder) == [folder + b"/a.PARQUET", folder + b"/b.parquet"]
    for name in ("a.jpg", "upload", "clip.mp4", "archive.zip"):
        (tmp_path / name).write_bytes(encode(scene((20, 20)), "PNG"))
        assert parquet_files_in(folder) is None
        (tmp_path / name).unlink()
    (tmp_path / "sub").mkdir()
    assert parquet_files_in(folder) is None
    assert parquet_files_in(folder + b"/none") is None
    with pytest.raises(InputError, match="more in it than Parquet files"):
        list_or_manifest(folder, OPTIONS)


def test_a_folder_partitioned_by_key_and_value(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    for part in ("year=2024/month=01", "year=2024/month=02", "year=2025/month=a%20b"):
        (tmp_path / part).mkdir(parents=True)
        (tmp_path / part / "p.parquet").write_bytes(parquet())
    (tmp_path / "year=2025" / "_SUCCESS").touch()
    source = list_or_manifest(folder, ManifestOptions(keep=("month", "y=year")))
    assert [(column.name, column.type) for column in source.columns] == [
        ("month", pa.string()),
        ("y", pa.int64()),
    ]
    assert [one.carried for one in source if isinstance(one, ImageRef)] == [
        ("01", 2024),
        ("02", 2024),
        ("a b", 2025),
    ]
    assert {one.path for one in source} == {folder + b"/a.jpg"}, "relative to the whole"
    with pytest.raises(InputError, match="it has: path, year, month"):
        list_or_manifest(folder, ManifestOptions(keep=("day",)))

    null = tmp_path / "year=2024" / "month=__HIVE_DEFAULT_PARTITION__"
    null.mkdir()
    pq.write_table(pa.table({"path": ["a.jpg"], "year": ["own"]}), null / "p.parquet")
    source = list_or_manifest(folder, ManifestOptions(keep=("month",)))
    carried = [one.carried for one in source if isinstance(one, ImageRef)]
    assert carried == [("01",), ("02",), (None,), ("a b",)]

    (tmp_path / "year=2024" / "p.parquet").write_bytes(parquet())
    with pytest.raises(InputError, match="other columns"):
        list_or_manifest(folder, OPTIONS)
    (tmp_path / "year=2024" / "a.jpg").touch()
    assert parquet_files_in(folder) is None, "a folder of images is walked"
    (tmp_path / "_delta_log").mkdir()
    with pytest.raises(InputError, match="is a Delta table"):
        parquet_files_in(folder)


def test_pyarrow_is_not_imported_for_lists() -> None:
    script = (
        "import sys; import moderate.sources.manifest, moderate.sources.subset; "
        "assert not {'pyarrow', 'aiohttp', 'numpy', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=PATIENCE)
