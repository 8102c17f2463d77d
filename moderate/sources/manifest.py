"""Which kind of list or manifest a file is: by its suffix, and by how it starts."""

from __future__ import annotations

import os
import sys
from typing import BinaryIO

from moderate.decode.sniff import claimed_format
from moderate.errors import InputError
from moderate.sources.columns import ManifestOptions
from moderate.sources.interface import Source
from moderate.sources.lists import ListSource
from moderate.tables.lines import file_name

STDIN_NAME = "stdin"
"""How rows and messages show standard input."""

LIST_SUFFIXES = frozenset({b".txt", b".lst", b".list"})
MANIFEST_SUFFIXES = frozenset({b".csv", b".tsv", b".jsonl", b".ndjson", b".parquet", b".pq"})

_PARQUET_MAGIC = b"PAR1"
_BESIDE_PARQUET = frozenset({b".md", b".json", b".yaml", b".yml", b".txt", b".crc"})


def list_or_manifest(
    file: str | bytes | os.PathLike[str],
    options: ManifestOptions,
    *,
    nul: bool = False,
    stdin: BinaryIO | None = None,
) -> Source:
    """The source that `file` is, `-` being standard input (`stdin`, or this process's own).

    With `nul` it is a list. Parquet is known by its first bytes. Else the suffix decides: .csv,
    .tsv, .jsonl, .ndjson are manifests, .txt is a list; anything else, and standard input, is
    a JSONL manifest if it starts with `{` and a list if not. Raises InputError for a manifest that
    cannot be used; a list is not opened before it is iterated, unless its suffix says nothing.
    """
    path = os.fsencode(file)
    if path == b"-":
        if stdin is None and sys.stdin is None:
            raise InputError("standard input is closed, so - cannot be read")
        return _stream(stdin or sys.stdin.buffer, options, nul=nul)
    suffix = os.path.splitext(path)[1].lower()
    if nul:
        return _list(path, options, nul=True)
    start = _start(path)
    if start.startswith(_PARQUET_MAGIC) or suffix in (b".parquet", b".pq"):
        from moderate.sources.parquet_manifest import parquet_manifest

        return parquet_manifest([path], options)
    if suffix in MANIFEST_SUFFIXES and os.path.exists(path) and not os.path.isfile(path):
        # A pipe can be read only once, and the columns have to be known before the rows.
        raise InputError(f"{file_name(path)} is not a regular file; feed JSON lines to - instead")
    if suffix in (b".csv", b".tsv"):
        from moderate.sources.text_manifest import csv_manifest

        return csv_manifest(path, options, "\t" if suffix == b".tsv" else ",")
    if suffix in (b".jsonl", b".ndjson") or (
        suffix not in LIST_SUFFIXES and _starts_an_object(start)
    ):
        from moderate.sources.text_manifest import jsonl_manifest

        return jsonl_manifest(path, file_name(path), options)
    return _list(path, options, nul=False)


def parquet_files_in(folder: bytes) -> list[bytes] | None:
    """The Parquet files of a folder that is nothing but a manifest in parts, sorted by name.

    None for any other folder. Hidden files, those that start with `_` (Spark's), and readable notes
    (.md, .json, .yaml, .txt, .crc) may be beside them, but no folder, image or other file.
    Stops at the first of those, so that a large folder of images costs nothing.
    """
    paths = []
    try:
        with os.scandir(folder) as listing:
            for entry in listing:
                suffix = os.path.splitext(entry.name)[1].lower()
                if entry.name.startswith((b".", b"_")):
                    continue
                if not entry.is_file() or claimed_format(entry.name):
                    return None
                if suffix == b".parquet":
                    paths.append(entry.path)
                elif suffix not in _BESIDE_PARQUET:
                    return None
    except OSError:
        return None  # the walk of the folder reports it
    return sorted(paths) or None


def _stream(stream: BinaryIO, options: ManifestOptions, *, nul: bool) -> Source:
    if not nul:
        start = _peek(stream)
        if start.startswith(_PARQUET_MAGIC):
            raise InputError(
                "a Parquet manifest cannot be read from standard input; save it and name the file"
            )
        if _starts_an_object(start):
            from moderate.sources.text_manifest import jsonl_manifest

            return jsonl_manifest(stream, STDIN_NAME, options)
    return ListSource(stream, nul=nul, name=STDIN_NAME, max_file_bytes=options.max_file_bytes)


def _list(path: bytes, options: ManifestOptions, *, nul: bool) -> ListSource:
    name = file_name(path)
    return ListSource(path, nul=nul, name=name, max_file_bytes=options.max_file_bytes)


def _start(path: bytes) -> bytes:
    """The first bytes of a regular file; nothing of a pipe, which cannot be read twice."""
    if not os.path.isfile(path):
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(16)
    except OSError:
        return b""  # the source reports it


def _peek(stream: BinaryIO) -> bytes:
    """The next bytes, without consuming them; waits for the first one."""
    peek = getattr(stream, "peek", None)
    return bytes(peek(16)[:16]) if peek else b""


def _starts_an_object(start: bytes) -> bool:
    return start.removeprefix(b"\xef\xbb\xbf").startswith(b"{")
