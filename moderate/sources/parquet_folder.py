"""Folders that are one Parquet manifest in parts, also partitioned as Hive and Spark do it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import unquote

from moderate.decode.sniff import claimed_format
from moderate.errors import InputError
from moderate.tables.lines import file_name

_BESIDE_PARQUET = frozenset({b".md", b".json", b".yaml", b".yml", b".txt", b".crc"})
_PARQUET_SUFFIXES = frozenset({b".parquet", b".pq"})
_MOST_PARTITION_KEYS = 32
_NULL = "__HIVE_DEFAULT_PARTITION__"


def parquet_files_in(folder: bytes) -> list[bytes] | None:
    """The Parquet files of a folder that is nothing but a manifest in parts, sorted by name.

    They may be in folders that are called `key=value`, to any depth. None for any other folder.
    Hidden files, those that start with `_` (Spark's), and readable notes (.md, .json, .yaml, .txt,
    .crc) may be beside them, but no other folder, image or file. Stops at the first of those, so
    that a large folder of images costs nothing. Raises InputError for a Delta table.
    """
    paths: list[bytes] = []
    folders = [(folder, 0)]
    while folders:
        current, depth = folders.pop()
        try:
            with os.scandir(current) as listing:
                for entry in listing:
                    if entry.name == b"_delta_log":
                        raise InputError(
                            f"{file_name(current)} is a Delta table, which also holds files of "
                            "older versions; export it as plain Parquet"
                        )
                    if entry.name.startswith((b".", b"_")):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        if b"=" not in entry.name[1:] or depth == _MOST_PARTITION_KEYS:
                            return None
                        folders.append((entry.path, depth + 1))
                        continue
                    suffix = os.path.splitext(entry.name)[1].lower()
                    if not entry.is_file() or claimed_format(entry.name):
                        return None
                    if suffix in _PARQUET_SUFFIXES:
                        paths.append(entry.path)
                    elif suffix not in _BESIDE_PARQUET:
                        return None
        except OSError:
            return None  # the walk of the folder reports it
    return sorted(paths) or None


def partition_values(root: bytes, path: bytes) -> Mapping[str, str | None]:
    """What the folders between `root` and a file say, `key=value` each; null as Hive writes it."""
    values: dict[str, str | None] = {}
    for part in os.path.relpath(os.path.dirname(path), root).split(b"/"):
        key, equals, value = part.partition(b"=")
        if equals:
            text = unquote(value.decode("utf-8", "backslashreplace"))
            values[unquote(key.decode("utf-8", "backslashreplace"))] = (
                None if text == _NULL else text
            )
    return values
