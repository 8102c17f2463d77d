"""Files that people have their images or lists in and that are not read, with what to do instead.

They end a run before its first image: as a row they would be one error among thousands.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from moderate.decode.sniff import claimed_format
from moderate.errors import InputError
from moderate.sources.archive import ARCHIVE_SUFFIXES
from moderate.tables.gzip_text import MAGIC as GZIP
from moderate.tables.lines import file_name


class _Kind(NamedTuple):
    what: str
    remedy: str


_SHEET = "save the sheet as CSV and give that"
_UNPACK = "unpack it and give the folder"
_EXPORT = "export the table as CSV or Parquet and give that"
_CONVERT = "convert it to Parquet and give that"

_EXCEL = _Kind("an Excel workbook", _SHEET)
_OPEN_DOCUMENT = _Kind("an OpenDocument spreadsheet", _SHEET)
_SEVEN_ZIP = _Kind("a 7z archive", _UNPACK)
_RAR = _Kind("a RAR archive", _UNPACK)
_ARROW = _Kind("an Arrow file", _CONVERT)
_SQLITE = _Kind("an SQLite database", _EXPORT)
_DUCKDB = _Kind("a DuckDB database", _EXPORT)
_ORC = _Kind("an ORC file", _CONVERT)
_AVRO = _Kind("an Avro file", _CONVERT)
_HDF5 = _Kind("an HDF5 file", "write its images to files, or to a column of a Parquet file")
_PACKED = _Kind(
    "compressed data",
    "unpack it, or call it by what it holds (.tar.gz, or .txt.gz, .csv.gz, .jsonl.gz)",
)
_ZIP = _Kind("a zip archive", "give it a name that ends in .zip")
_TAR = _Kind("a tar archive", "give it a name that ends in .tar")

_BY_SUFFIX = {
    **dict.fromkeys((b".xlsx", b".xlsm", b".xlsb", b".xls"), _EXCEL),
    b".ods": _OPEN_DOCUMENT,
    b".numbers": _Kind("a Numbers spreadsheet", _SHEET),
    b".7z": _SEVEN_ZIP,
    b".rar": _RAR,
    **dict.fromkeys((b".arrow", b".feather", b".ipc"), _ARROW),
    **dict.fromkeys((b".sqlite", b".sqlite3"), _SQLITE),
    b".duckdb": _DUCKDB,
    b".orc": _ORC,
    b".avro": _AVRO,
    **dict.fromkeys((b".h5", b".hdf5"), _HDF5),
    **dict.fromkeys((b".gz", b".bz2", b".xz", b".zst", b".lz4", b".z"), _PACKED),
}

_BY_MAGIC = (
    (b"7z\xbc\xaf\x27\x1c", _SEVEN_ZIP),
    (b"Rar!\x1a\x07", _RAR),
    (b"ARROW1\0\0", _ARROW),
    (b"FEA1", _ARROW),
    (b"SQLite format 3\0", _SQLITE),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", _Kind("an old Office document", _SHEET)),
    (b"Obj\x01", _AVRO),
    (b"\x89HDF\r\n\x1a\n", _HDF5),
    *((magic, _PACKED) for magic in (GZIP, b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")),
    *((b"BZh%d1AY&SY" % level, _PACKED) for level in range(1, 10)),
)
_JSON_ARRAY = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[\s*(?:([{\[])|(\"))")


def check_readable(path: bytes, head: bytes) -> None:
    """Raise InputError for a named file that is of no use here, with what to do about it.

    head is how the file starts, as much as `sniff` needs; it may be empty. A file that is called
    like an image is never refused: it has its row, whatever it is.
    """
    if claimed_format(path):
        return
    if kind := _by_content(head):
        raise InputError(f"{file_name(path)} is {kind.what}; {kind.remedy}")
    if path.lower().endswith(ARCHIVE_SUFFIXES):
        return  # a broken one has its row
    if kind := _BY_SUFFIX.get(os.path.splitext(path)[1].lower()):
        raise InputError(f"{file_name(path)}: {kind.what} is not read; {kind.remedy}")


def check_no_array(name: str, head: bytes) -> None:
    """Raise InputError for a JSON array where one object or one path per line is expected."""
    array = _JSON_ARRAY.match(head)
    if not array:
        return
    source = "" if name == "-" else f" {name}"
    stem = "list" if name == "-" else os.path.splitext(name)[0]
    command = (
        f"jq -r '.[]'{source} > {stem}.txt" if array[2] else (f"jq -c '.[]'{source} > {stem}.jsonl")
    )
    what = "standard input" if name == "-" else name
    raise InputError(f"{what} is a JSON array; write one item per line: {command}")


def _by_content(head: bytes) -> _Kind | None:
    for magic, kind in _BY_MAGIC:
        if head.startswith(magic):
            return kind
    if head[8:12] == b"DUCK":
        return _DUCKDB
    if head.startswith(b"PK\x03\x04"):
        if b"[Content_Types].xml" in head or b"xl/" in head:
            return _EXCEL
        return _OPEN_DOCUMENT if b"application/vnd.oasis.opendocument" in head else _ZIP
    return _TAR if head[257:262] == b"ustar" else None
