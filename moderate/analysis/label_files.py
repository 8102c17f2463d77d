"""Files and folders of labels, read as columns, whatever the format."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from moderate.arrow import python_values
from moderate.errors import InputError, UsageError
from moderate.regular import sha256_of
from moderate.results.targets import SUFFIXES
from moderate.tables.csv import strict_records, unguarded
from moderate.tables.jsonl import json_object
from moderate.tables.lines import file_name, text_lines, unreadable
from moderate.text import first_repeated, one_line
from moderate.types import CATEGORIES, Decision

_DECISIONS = tuple(decision.value for decision in Decision)
NOTHING = ("safe", "none", "clean", "neutral", "negative", "sfw")
"""Names of folders whose images show none of the categories."""
_MAX_PARQUET_BYTES = 1 << 30  # a label has some hundred bytes


class Columns(NamedTuple):
    """Labels as columns of equal length; `where` names the line, row or file of an index."""

    columns: dict[str, Sequence[Any]]
    where: Callable[[int], str]


def normal_name(column: str) -> str:
    """A name of a column or folder in lower case, with `_` between words."""
    return re.sub(r"[\s-]+", "_", column.strip().lower())


def read_file(path: str) -> Columns:
    """The columns of a .csv, .jsonl or .parquet file; nested columns of Parquet are left out.

    Raises UsageError for another suffix, and InputError for a file that is missing, empty or not
    readable as what its suffix says.
    """
    suffix = next((suffix for suffix in SUFFIXES if path.lower().endswith(suffix)), None)
    if suffix is None:
        raise UsageError(
            f"{file_name(path)} is not a file of labels: the suffix is one of "
            f"{', '.join(SUFFIXES)}; a folder with a folder per label will do, too"
        )
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    try:
        if not os.path.isfile(path):
            os.stat(path)
            raise InputError(f"cannot read {file_name(path)}: not a regular file")
        if not os.path.getsize(path):
            raise InputError(f"{file_name(path)} is empty: it has no labels")
        return readers[suffix](path)
    except (OSError, ValueError) as error:
        raise unreadable(file_name(path), error) from None


def read_folder(path: str, own: Sequence[str] = ()) -> Columns:
    """The files of a folder that has a folder per label, by their digests.

    A folder is named like a category, one of the five or of `own` (its images show it; other
    categories are unknown), like a
    decision (the one expected), or `safe`, `none` and the like (its images show no category).
    Folders inside these may have any name. Raises InputError for other names, and for a folder
    without images.
    """
    shown = file_name(path)
    categories = [*(name.value for name in CATEGORIES), *own]
    known = f"{', '.join((*categories, *_DECISIONS))}, or {', '.join(NOTHING)}"
    rows: list[dict[str, str]] = []
    files: list[str] = []
    try:
        folders = sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
        for name in folders:
            label = normal_name(name)
            if label in NOTHING:
                labels = dict.fromkeys(categories, "0")
            elif label in categories:
                labels = {label: "1"}
            elif label in _DECISIONS:
                labels = {"decision": label}
            else:
                raise InputError(f"{shown}: the folder {one_line(name, 40)!r} is no label: {known}")
            for file in files_below(os.path.join(path, name)):
                rows.append({"sha256": sha256_of(file), **labels})
                files.append(file_name(file))
    except OSError as error:
        raise unreadable(shown, error) from None
    if not rows:
        raise InputError(f"{shown} has no labels: put images into folders named {known}")
    names = dict.fromkeys(name for row in rows for name in row)
    columns: dict[str, Sequence[Any]] = {name: [row.get(name) for row in rows] for name in names}
    return Columns(columns, lambda index: files[index])


def files_below(folder: str) -> Iterator[str]:
    """All regular files, sorted, but for hidden ones; links are not followed."""
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            file = os.path.join(root, name)
            if not name.startswith(".") and os.path.isfile(file) and not os.path.islink(file):
                yield file


def _read_csv(path: str) -> Columns:
    lines: list[int] = []
    rows: list[list[str]] = []
    with open(path, "rb") as file:
        records = strict_records(file, file_name(path))
        _, header = next(records, (0, ()))
        for line, cells in records:
            rows.append([unguarded(cell) for cell in cells])
            lines.append(line)
    if (repeated := first_repeated(header)) is not None:
        raise InputError(f"{file_name(path)} has two columns {one_line(repeated, 60)!r}")
    cells_of: list[Sequence[Any]] = list(zip(*rows, strict=True)) or [()] * len(header)
    return Columns(dict(zip(header, cells_of, strict=True)), lambda index: f"line {lines[index]}")


def _read_jsonl(path: str) -> Columns:
    lines: list[int] = []
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(text_lines(os.fsencode(path), file_name(path)), 1):
        if not line.strip():
            continue
        try:
            rows.append(json_object(line))
        except ValueError as error:
            raise InputError(f"line {number} of {file_name(path)}: {error}") from None
        lines.append(number)
    names = dict.fromkeys(name for row in rows for name in row)
    columns: dict[str, Sequence[Any]] = {name: [row.get(name) for row in rows] for name in names}
    if not columns:
        raise InputError(f"{file_name(path)} is empty: it has no labels")
    return Columns(columns, lambda index: f"line {lines[index]}")


def _read_parquet(path: str) -> Columns:
    import pyarrow as pa

    from moderate.tables.parquet import open_parquet

    try:
        with open_parquet(os.fsencode(path)) as file:
            names = file.schema.names
            if (twice := first_repeated(names)) is not None:
                raise InputError(f"{file_name(path)} has two columns {one_line(twice, 60)!r}")
            fields = [(name, file.schema.field(name).type) for name in names]
            wanted = [name for name, kind in fields if not pa.types.is_nested(kind)]
            columns: dict[str, list[Any]] = {name: [] for name in wanted}
            size = 0
            for batch in file.batches(wanted):
                size += batch.nbytes
                if size > _MAX_PARQUET_BYTES:
                    limit = f"{_MAX_PARQUET_BYTES >> 20} MiB"
                    raise InputError(f"{file_name(path)} holds more than {limit}")
                for name, array in zip(wanted, batch.columns, strict=True):
                    columns[name] += python_values(array)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        reason = one_line(str(error))
        raise InputError(f"{file_name(path)} is not readable Parquet: {reason}") from None
    return Columns({**columns}, lambda index: f"row {index + 1}")
