"""CSV and JSON Lines: one line a row, to a file or to standard output."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import sys
from abc import abstractmethod
from typing import BinaryIO

from moderate.errors import ReaderGoneError
from moderate.results.atomic import AtomicFile, output_error, write_atomic
from moderate.results.interface import ResultWriter
from moderate.results.schema import COLUMNS, Cell, record, shortest
from moderate.types import Row

# A cell that starts with one of these runs as a formula in some spreadsheet; so do the full-width
# forms, which some programs fold to ASCII. Source: OWASP, "CSV Injection".
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\0", "＝", "＋", "－", "＠")


class _TextWriter(ResultWriter):
    """Lines to `target`; None stands for standard output."""

    def __init__(self, target: str | None) -> None:
        self._target = target
        self._atomic = AtomicFile(target) if target is not None else None
        self._stream: BinaryIO = self._atomic.file if self._atomic else sys.stdout.buffer
        self._audit: dict[str, str] = {}

    def header(self) -> str:
        """What comes before the first row."""
        return ""

    @abstractmethod
    def line(self, cells: dict[str, Cell]) -> str:
        """One row, with its line end."""

    def start(self, audit: dict[str, str]) -> None:
        """See `ResultWriter`."""
        self._audit = audit
        self._put(self.header())

    def write(self, row: Row) -> None:
        """See `ResultWriter`."""
        self._put(self.line(record(row)))

    def commit(self, ended: str) -> None:
        """See `ResultWriter`. A text file has no place for metadata: it stands beside it."""
        if self._atomic is None:
            return
        assert self._target is not None
        text = json.dumps({**self._audit, "ended": ended}, indent=2, ensure_ascii=False) + "\n"
        write_atomic(metadata_path(self._target), text.encode())
        self._atomic.commit()

    def discard(self) -> None:
        """See `ResultWriter`."""
        if self._atomic:
            self._atomic.discard()

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

    def header(self) -> str:
        """See `_TextWriter`."""
        return _csv_line([column.name for column in COLUMNS])

    def line(self, cells: dict[str, Cell]) -> str:
        """See `_TextWriter`."""
        return _csv_line([_csv_cell(cell) for cell in cells.values()])


class JsonlWriter(_TextWriter):
    """One JSON object a line, keys in column order."""

    def line(self, cells: dict[str, Cell]) -> str:
        """See `_TextWriter`."""
        values = {name: _json_value(cell) for name, cell in cells.items()}
        return json.dumps(values, ensure_ascii=False) + "\n"


def metadata_path(target: str) -> str:
    """Where the audit facts of a CSV or JSONL file stand."""
    return target + ".meta.json"


def _csv_line(cells: list[str]) -> str:
    buffer = io.StringIO()
    # Only characters of the line end are quoted by themselves, and a bare CR must be.
    csv.writer(buffer, lineterminator="\r\n").writerow(cells)
    return buffer.getvalue().removesuffix("\r\n") + "\n"


def _csv_cell(cell: Cell) -> str:
    value = _json_value(cell)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "'" + value if value.startswith(_FORMULA_STARTS) else value
    return str(value)


def _json_value(cell: Cell) -> str | bool | int | float | None:
    if isinstance(cell, bytes):
        return base64.b64encode(cell).decode("ascii")
    if isinstance(cell, float):
        return shortest(cell)
    return cell


def stdout_is_closed() -> None:
    """After a broken pipe: keep the interpreter from complaining again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
