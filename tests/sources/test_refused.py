"""Files that are not read: by their bytes, by their name, and what to do instead."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import sqlite3
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pytest

from moderate.errors import InputError
from moderate.sources.refused import check_no_array, check_readable
from moderate.sources.resolve import InputOptions, resolve


def zipped(*names: str, first: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, first)
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"))
    return buffer.getvalue()


def feather() -> bytes:
    buffer = io.BytesIO()
    pyarrow.feather.write_feather(pa.table({"path": ["a"]}), buffer)
    return buffer.getvalue()


def database(folder: Path) -> bytes:
    with sqlite3.connect(folder / "x") as connection:
        connection.execute("create table t (path)")
    return (folder / "x").read_bytes()


def test_bytes_decide_whatever_the_name_says(tmp_path: Path) -> None:
    kinds = {
        "an Excel workbook; save the sheet as CSV": zipped("[Content_Types].xml", "xl/a.xml"),
        "an OpenDocument spreadsheet": zipped(
            "mimetype", first=b"application/vnd.oasis.opendocument.spreadsheet"
        ),
        "a zip archive; give it a name that ends in .zip": zipped("a.jpg"),
        "a tar archive; give it a name that ends in .tar": tarred(),
        "a 7z archive; unpack it": b"7z\xbc\xaf\x27\x1c\0\4",
        "a RAR archive; unpack it": b"Rar!\x1a\x07\1\0",
        "an Arrow file; convert it to Parquet": feather(),
        "an SQLite database; export the table": database(tmp_path),
        "compressed data": gzip.compress(b"a"),
    }
    packed = [bz2.compress(b"a"), lzma.compress(b"a"), b"\x28\xb5\x2f\xfd\0"]
    for what, data in [*kinds.items(), *(("compressed data", data) for data in packed)]:
        for name in (b"names.csv", b"list.txt", b"data.bin", b"nothing"):
            with pytest.raises(InputError, match=rf"^{name.decode()} is ") as caught:
                check_readable(name, data[:1024])
            assert what in str(caught.value)
        check_readable(b"photo.jpg", data)  # has its row, like every named image
    with pytest.raises(InputError, match="is an Arrow file"):
        check_readable(b"x", b"FEA1")


def test_names_decide_where_bytes_say_nothing() -> None:
    for name, remedy in {
        "a.xlsx": "save the sheet as CSV",
        "a.XLS": "save the sheet as CSV",
        "a.ods": "save the sheet as CSV",
        "a.7z": "unpack it",
        "a.rar": "unpack it",
        "a.arrow": "convert it to Parquet",
        "a.feather": "convert it to Parquet",
        "a.sqlite": "export the table",
        "a.gz": "unpack it",
    }.items():
        with pytest.raises(InputError, match=rf"^{name}: .* is not read; .*{remedy}"):
            check_readable(name.encode(), b"")
    for name in ("a.jpg", "a.svgz", "dump.tar.gz", "notes.css", "ORC.md"):
        check_readable(name.encode(), b"ORCHIDS")


def test_json_arrays_get_the_command_that_unfolds_them() -> None:
    with pytest.raises(InputError, match=r"jq -c '.\[\]' a.json > a.jsonl"):
        check_no_array("a.json", b'\xef\xbb\xbf[\n  {"path": 1}')
    with pytest.raises(InputError, match=r"jq -r '.\[\]' a.json > a.txt"):
        check_no_array("a.json", b'["a.jpg"]')
    with pytest.raises(InputError, match=r"standard input is a JSON array.*jq -c '.\[\]' > list"):
        check_no_array("-", b"[[1]]")
    for start in (b"[1].jpg", b"[", b'{"a": []}', b""):
        check_no_array("a.txt", start)


def test_named_files_end_the_run_before_it_starts_and_walked_ones_do_not(tmp_path: Path) -> None:
    for name, data in {
        "sheet.xlsx": zipped("[Content_Types].xml"),
        "list.csv": zipped("[Content_Types].xml"),
        "array.json": b'[{"path": "a.jpg"}]',
        "document.json": b'{\n"images": [{"path": "a.jpg"}]}',
        "coco.json": b'{"images": [{"path": "a.jpg"}]}',
        "dump.zip": b"Rar!\x1a\x07\1\0",
    }.items():
        (tmp_path / name).write_bytes(data)
        for inputs, lists in (((tmp_path / name,), ()), ((), (str(tmp_path / name),))):
            with pytest.raises(InputError, match=name):
                resolve(inputs, InputOptions(files_from=lists))
    with pytest.raises(InputError, match=r"jq -c '.images\[\]'"):
        resolve([tmp_path / "document.json"], InputOptions())
    with pytest.raises(InputError, match=r"jq -c '.images\[\]'"):
        resolve([tmp_path / "coco.json"], InputOptions())
    (source,) = resolve([tmp_path], InputOptions())
    assert [os.path.basename(item.path) for item in source] == [
        b"array.json",
        b"coco.json",
        b"document.json",
        b"dump.zip",
        b"list.csv",
        b"sheet.xlsx",
    ]
    (tmp_path / "b1946ac92492d234").write_bytes(b"7z\xbc\xaf\x27\x1c")
    (source,) = resolve([tmp_path / "b1946ac92492d234"], InputOptions())
    assert len(list(source)) == 1, "a name without a suffix is not opened beforehand"
    with pytest.raises(InputError, match="save the sheet"):
        resolve(["s3://bucket/sheet.xlsx"], InputOptions())


def test_zstd_without_a_decoder_ends_the_run_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dump.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))

    def no_module(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", no_module)
    with pytest.raises(InputError, match="pip install"):
        resolve([tmp_path / "dump.tar.zst"], InputOptions())


def test_a_missing_argument_is_explained(tmp_path: Path) -> None:
    (tmp_path / "a b.jpg").touch()
    with pytest.raises(InputError, match="does not exist; it is there without percent-encoding"):
        resolve([tmp_path / "a%20b.jpg"], InputOptions())
