"""CSV and JSON Lines: one line a row, to a file or to standard output."""

from __future__ import annotations

import base64
import csv
import datetime
import io
import json
import math
import os
import sys
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, BinaryIO

from moderate.errors import OutputError, ReaderGoneError
from moderate.results.atomic import AtomicFile, output_error
from moderate.results.interface import ResultWriter
from moderate.results.schema import COLUMNS, Cell, carried_values, in_order, record, shortest
from moderate.sources.interface import Column
from moderate.types import Row

# A cell that starts with one of these runs as a formula in some spreadsheet; so do the full-width
# forms, which some programs fold to ASCII. Source: OWASP, "CSV Injection".
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\0", "＝", "＋", "－", "＠")


Plain = str | bool | int | float | list[Any] | dict[str, Any] | None
"""What JSON has a type for."""


class _TextWriter(ResultWriter):
    """Lines to `target`; None stands for standard output."""

    def __init__(self, target: str | None) -> None:
        self._target = target
        self._atomic = AtomicFile(target) if target is not None else None
        self._beside = self._open_beside()
        self._stream: BinaryIO = self._atomic.file if self._atomic else sys.stdout.buffer
        self._audit: dict[str, str] = {}
        self._carried: list[str] = []
        self._names: list[str] = []

    def _open_beside(self) -> AtomicFile | None:
        """The file of the audit facts, held from the start: no surprise after hours of work."""
        if self._target is None or self._atomic is None:
            return None
        try:
            return AtomicFile(metadata_path(self._target))
        except OutputError:
            self._atomic.discard()
            raise

    def header(self, names: list[str]) -> str:
        """What comes before the first row; `names` are those of all columns."""
        return ""

    @abstractmethod
    def line(self, cells: dict[str, Plain]) -> str:
        """One row, with its line end."""

    def start(self, audit: dict[str, str], carried: Sequence[Column] = ()) -> None:
        """See `ResultWriter`."""
        self._audit = audit
        self._carried = [column.name for column in carried]
        own = [column.name for column in COLUMNS]
        self._names = in_order(own, self._carried)
        self._put(self.header(self._names))

    def write(self, row: Row) -> None:
        """See `ResultWriter`."""
        own = [_plain(cell) for cell in record(row).values()]
        carried = [_carried(value) for value in carried_values(row, self._carried)]
        self._put(self.line(dict(zip(self._names, in_order(own, carried), strict=True))))

    def commit(self, facts: dict[str, str]) -> dict[str, str]:
        """See `ResultWriter`. A text file has no place for metadata: it stands beside it."""
        if self._atomic is None or self._beside is None:
            return {}
        audit = {**self._audit, **facts, "sha256": self._atomic.seal()}
        text = json.dumps(audit, indent=2, ensure_ascii=False) + "\n"
        try:
            self._beside.file.write(text.encode("utf-8", "backslashreplace"))
        except OSError as error:
            raise output_error(self._beside.target, error) from error
        self._beside.seal()
        # Both are on the disk. What describes the rows first: their name says that all is there.
        written = (self._beside, self._atomic)
        return {os.path.abspath(file.target): file.commit() for file in written}

    def discard(self) -> None:
        """See `ResultWriter`."""
        for file in (self._atomic, self._beside):
            if file:
                file.discard()

    def _put(self, text: str) -> None:
        try:
            self._stream.write(text.encode("utf-8", "backslashreplace"))
            if self._atomic is None:
                self._stream.flush()  # a reader at the other end of a pipe sees rows as they come
        except BrokenPipeError as error:
            raise ReaderGoneError("standard output was closed by its reader") from error
        except OSError as error:
            raise output_error(self._target or "standard output", error) from error


class CsvWriter(_TextWriter):
    """RFC 4180 with `\\n` line ends; null is an empty cell, no cell starts a formula."""

    def header(self, names: list[str]) -> str:
        """See `_TextWriter`."""
        return _csv_line([_csv_cell(name) for name in names])

    def line(self, cells: dict[str, Plain]) -> str:
        """See `_TextWriter`."""
        return _csv_line([_csv_cell(cell) for cell in cells.values()])


class JsonlWriter(_TextWriter):
    """One JSON object a line, keys in column order."""

    def line(self, cells: dict[str, Plain]) -> str:
        """See `_TextWriter`."""
        return json.dumps(cells, ensure_ascii=False) + "\n"


def metadata_path(target: str) -> str:
    """Where the audit facts of a CSV or JSONL file stand."""
    return target + ".meta.json"


def _csv_line(cells: list[str]) -> str:
    buffer = io.StringIO()
    # Only characters of the line end are quoted by themselves, and a bare CR must be.
    csv.writer(buffer, lineterminator="\r\n").writerow(cells)
    return buffer.getvalue().removesuffix("\r\n") + "\n"


def _csv_cell(cell: Plain) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, str):
        return "'" + cell if cell.startswith(_FORMULA_STARTS) else cell
    if isinstance(cell, (list, dict)):
        return _csv_cell(json.dumps(cell, ensure_ascii=False))
    return str(cell)


def _plain(cell: Cell) -> Plain:
    if isinstance(cell, bytes):
        return base64.b64encode(cell).decode("ascii")
    if isinstance(cell, float):
        return shortest(cell)
    return cell


def _carried(value: Any) -> Plain:
    """A carried value in JSON's types: numbers as they are, what JSON has no type for as text."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, (datetime.date, datetime.time)):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, dict):
        return {str(key): _carried(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_carried(item) for item in value]
    if hasattr(value, "cast"):  # a pyarrow scalar: finer than Python's types are
        import pyarrow as pa

        return str(value.cast(pa.string()))
    return str(value)


def stdout_is_closed() -> None:
    """After a broken pipe: keep the interpreter from complaining again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
