"""Which kind of list or manifest a file is: by its suffix, and by how it starts."""

from __future__ import annotations

import os
import sys
from typing import BinaryIO

from moderate.decode.sniff import HEAD_BYTES
from moderate.errors import InputError
from moderate.sources.columns import ManifestOptions
from moderate.sources.interface import Source
from moderate.sources.lists import ListSource
from moderate.sources.parquet_folder import parquet_files_in
from moderate.sources.refused import check_no_array, check_readable
from moderate.tables.gzip_text import MAGIC as GZIP_MAGIC
from moderate.tables.gzip_text import SUFFIX as GZIP_SUFFIX
from moderate.tables.gzip_text import GzipReader
from moderate.tables.lines import file_name

STDIN_NAME = "stdin"
"""How rows and messages show standard input."""

_LIST_SUFFIXES = frozenset({b".txt", b".lst", b".list"})
_CSV_SUFFIXES = frozenset({b".csv", b".tsv"})
_JSONL_SUFFIXES = frozenset({b".jsonl", b".ndjson", b".manifest", b".json"})
_PARQUET_SUFFIXES = frozenset({b".parquet", b".pq"})
_PARQUET_MAGIC = b"PAR1"


def listing_suffix(path: bytes) -> bytes:
    """What a name says of a list or manifest: its suffix in lower case, without a .gz after it.

    Empty for a name that is not one of a list or manifest.
    """
    suffix = os.path.splitext(_without_gz(path.lower()))[1]
    known = _LIST_SUFFIXES | _CSV_SUFFIXES | _JSONL_SUFFIXES | _PARQUET_SUFFIXES
    return suffix if suffix in known else b""


def list_or_manifest(
    file: str | bytes | os.PathLike[str],
    options: ManifestOptions,
    *,
    nul: bool = False,
    stdin: BinaryIO | None = None,
) -> Source:
    """The source that `file` is, `-` being standard input (`stdin`, or this process's own).

    With `nul` it is a list; standard input is CSV where options.columns names its columns. A folder
    has to be one of Parquet files. Parquet is known by its first bytes. Else the suffix decides, a
    .gz after it left out: .csv, .tsv, .jsonl, .ndjson, .manifest and .json are manifests, .txt is a
    list; anything else, and standard input, is a JSONL manifest if it starts with `{` and a list if
    not. Raises InputError for a manifest that cannot be used, and for what is plainly something
    else, such as a spreadsheet; of a list only the first bytes are read before it is iterated.
    """
    path = os.fsencode(file)
    if path == b"-":
        if stdin is None and sys.stdin is None:
            raise InputError("standard input is closed, so - cannot be read")
        return _stream(stdin or sys.stdin.buffer, options, nul=nul)
    if nul:
        return _list(path, options, nul=True)
    name, suffix = file_name(path), listing_suffix(path)
    if suffix not in _CSV_SUFFIXES | _JSONL_SUFFIXES and os.path.isdir(path):
        return _parquet_folder(path, options)
    start = _start(path)
    if start.startswith(_PARQUET_MAGIC) or suffix in _PARQUET_SUFFIXES:
        from moderate.sources.parquet_manifest import parquet_manifest

        if path.lower().endswith(GZIP_SUFFIX):
            raise InputError(f"{name}: Parquet is not read through gzip; unpack it first")
        return parquet_manifest([path], options)
    check_readable(_without_gz(path), start)
    check_no_array(name, start)
    if suffix in _CSV_SUFFIXES | _JSONL_SUFFIXES and (
        os.path.exists(path) and not os.path.isfile(path)
    ):
        # A pipe can be read only once, and the columns have to be known before the rows.
        raise InputError(f"{name} is not a regular file; feed JSON lines to - instead")
    if suffix in _CSV_SUFFIXES:
        from moderate.sources.text_manifest import csv_manifest

        return csv_manifest(path, name, options, tabs=suffix == b".tsv")
    if suffix in _JSONL_SUFFIXES or (suffix not in _LIST_SUFFIXES and _starts_an_object(start)):
        from moderate.sources.text_manifest import jsonl_manifest

        return jsonl_manifest(path, name, options)
    return _list(path, options, nul=False)


def _without_gz(path: bytes) -> bytes:
    return path[: -len(GZIP_SUFFIX)] if path.lower().endswith(GZIP_SUFFIX) else path


def _parquet_folder(path: bytes, options: ManifestOptions) -> Source:
    parts = parquet_files_in(path)
    if parts is None:
        raise InputError(
            f"{file_name(path)} is a folder with more in it than Parquet files; give it as INPUT, "
            "without --files-from, to have it walked"
        )
    from moderate.sources.parquet_manifest import parquet_manifest

    return parquet_manifest(parts, options, root=path)


def _stream(stream: BinaryIO, options: ManifestOptions, *, nul: bool) -> Source:
    if not nul:
        start = _peek(stream)
        if start.startswith(GZIP_MAGIC):
            raise InputError("standard input is gzip data; feed it through gzip -dc")
        check_no_array("-", start)
        if options.columns:
            from moderate.sources.text_manifest import csv_manifest

            return csv_manifest(stream, STDIN_NAME, options)
        if start.startswith(_PARQUET_MAGIC):
            raise InputError(
                "a Parquet manifest cannot be read from standard input; save it and name the file"
            )
        if _starts_an_object(start):
            from moderate.sources.text_manifest import jsonl_manifest

            return jsonl_manifest(stream, STDIN_NAME, options)
    return ListSource(
        stream,
        nul=nul,
        name=STDIN_NAME,
        max_file_bytes=options.max_file_bytes,
        base=options.base or b"",
    )


def _list(path: bytes, options: ManifestOptions, *, nul: bool) -> ListSource:
    return ListSource(
        path,
        nul=nul,
        name=file_name(path),
        max_file_bytes=options.max_file_bytes,
        base=options.base or b"",
    )


def _start(path: bytes) -> bytes:
    """The first bytes of a regular file, unpacked; nothing of a pipe, which cannot be read twice.

    Raises InputError for a .gz that is not gzip.
    """
    if not os.path.isfile(path):
        return b""
    try:
        with open(path, "rb") as file:
            if path.lower().endswith(GZIP_SUFFIX):
                return GzipReader(file, file_name(path)).read1(HEAD_BYTES)
            return file.read(HEAD_BYTES)
    except OSError:
        return b""  # the source reports it


def _peek(stream: BinaryIO) -> bytes:
    """The next bytes, without consuming them; waits for the first one."""
    peek = getattr(stream, "peek", None)
    return bytes(peek(16)[:16]) if peek else b""


def _starts_an_object(start: bytes) -> bool:
    return start.removeprefix(b"\xef\xbb\xbf").startswith(b"{")
