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
from collections.abc import Callable, Mapping, Sequence
from json.encoder import encode_basestring
from operator import add
from typing import Any, BinaryIO, ClassVar

from moderate.arrow import plain_value
from moderate.errors import OutputError, ReaderGoneError
from moderate.results.atomic import WholeFile, open_whole, output_error
from moderate.results.interface import ResultWriter
from moderate.results.remote import target_name
from moderate.results.schema import carried_values, in_order, own_columns, shortest, values
from moderate.tables.csv import FORMULA_STARTS
from moderate.types import Column, Row

_UNSAFE = frozenset(FORMULA_STARTS)

Plain = str | bool | int | float | list[Any] | dict[str, Any] | None
"""What JSON has a type for."""


class _TextWriter(ResultWriter):
    """Lines to `target`; None stands for standard output."""

    null: ClassVar[str]
    texts: ClassVar[Mapping[str, Callable[[Any], str]]]
    """What makes text of a cell, by the type of its column, or `carried`."""

    def __init__(self, target: str | None) -> None:
        self._target = target
        self._atomic = open_whole(target) if target is not None else None
        self._beside = self._open_beside()
        self._stream: BinaryIO = self._atomic.file if self._atomic else sys.stdout.buffer
        self._audit: dict[str, str] = {}
        self._carried: list[str] = []
        self._labels: Sequence[str] = ()
        self._sealed = False
        self._texts: list[Callable[[Any], str]] = []

    def _open_beside(self) -> WholeFile | None:
        """The file of the audit facts, held from the start: no surprise after hours of work."""
        if self._target is None or self._atomic is None:
            return None
        try:
            return open_whole(metadata_path(self._target))
        except OutputError:
            self._atomic.discard()
            raise

    @abstractmethod
    def header(self, names: list[str]) -> str:
        """What comes before the first row; `names` are those of all columns."""

    @abstractmethod
    def line(self, cells: list[str]) -> str:
        """One row of cells made text, with its line end."""

    def start(
        self, audit: dict[str, str], carried: Sequence[Column] = (), labels: Sequence[str] = ()
    ) -> None:
        """See `ResultWriter`."""
        self._audit = audit
        self._carried = [column.name for column in carried]
        self._labels = labels
        columns = own_columns(labels)
        own = [self.texts[column.type] for column in columns]
        self._texts = in_order(own, [self.texts["carried"] for _ in carried])
        self._put(self.header(in_order([column.name for column in columns], self._carried)))

    def prepare(self, row: Row) -> str:
        """See `ResultWriter`."""
        cells, null = values(row, self._labels), self.null
        if self._carried:
            cells = in_order(cells, carried_values(row, self._carried))
        pairs = zip(self._texts, cells, strict=True)
        return self.line([null if cell is None else text(cell) for text, cell in pairs])

    def put(self, prepared: str) -> None:
        """See `ResultWriter`."""
        self._put(prepared)

    def seal(self, facts: dict[str, str]) -> None:
        """See `ResultWriter`. A text file has no place for metadata: it stands beside it."""
        if self._atomic is None or self._beside is None or self._sealed:
            return
        self._sealed = True
        audit = {**self._audit, **facts, "sha256": self._atomic.seal()}
        text = json.dumps(audit, indent=2, ensure_ascii=False) + "\n"
        try:
            self._beside.file.write(text.encode("utf-8", "backslashreplace"))
        except OSError as error:
            raise output_error(self._beside.target, error) from error
        self._beside.seal()

    def commit(self, facts: dict[str, str]) -> dict[str, str]:
        """See `ResultWriter`."""
        if self._atomic is None or self._beside is None:
            return {}
        self.seal(facts)
        # Both are on the disk. What describes the rows first: their name says that all is there.
        written = (self._beside, self._atomic)
        return {file.name: file.commit() for file in written}

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


def _quoted(cells: list[str]) -> str:
    buffer = io.StringIO()
    # Only characters of the line end are quoted by themselves, and a bare CR must be.
    csv.writer(buffer, lineterminator="\r\n").writerow(cells)
    return buffer.getvalue().removesuffix("\r\n") + "\n"


def _no_formula(text: str) -> str:
    return "'" + text if text[:1] in _UNSAFE else text


def _boolean(value: bool) -> str:
    return "true" if value else "false"


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _json(value: Plain) -> str:
    return json.dumps(value, ensure_ascii=False)


def _carried_json(value: Any) -> str:
    return _json(_carried(value))


def _carried_csv(value: Any) -> str:
    plain = _carried(value)
    if isinstance(plain, bool):
        return _boolean(plain)
    if isinstance(plain, str):
        return _no_formula(plain)
    return str(plain) if isinstance(plain, (int, float)) else _json(plain)


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
    if hasattr(value, "cast"):  # an Arrow scalar that Python has nothing equal to
        return _carried(plain_value(value))
    return str(value)


class CsvWriter(_TextWriter):
    """RFC 4180 with `\\n` line ends; null is an empty cell, no cell starts a formula."""

    null = ""
    texts = {
        "string": _no_formula,
        "binary": lambda value: _no_formula(_base64(value)),
        "bool": _boolean,
        "int64": str,
        "float32": shortest,
        "carried": _carried_csv,
    }

    def header(self, names: list[str]) -> str:
        """See `_TextWriter`."""
        return self.line([_no_formula(name) for name in names])

    def line(self, cells: list[str]) -> str:
        """See `_TextWriter`."""
        line = ",".join(cells)
        if '"' in line or "\n" in line or "\r" in line or line.count(",") >= len(cells):
            return _quoted(cells)
        return line + "\n"


class JsonlWriter(_TextWriter):
    """One JSON object a line, keys in column order."""

    null = "null"
    texts = {
        "string": encode_basestring,
        "binary": lambda value: _json(_base64(value)),
        "bool": _boolean,
        "int64": str,
        "float32": shortest,
        "carried": _carried_json,
    }

    def header(self, names: list[str]) -> str:
        """See `_TextWriter`. The names stand in every row."""
        self._keys = [f"{_json(name)}: " for name in names]
        return ""

    def line(self, cells: list[str]) -> str:
        """See `_TextWriter`."""
        return "{" + ", ".join(map(add, self._keys, cells)) + "}\n"


def metadata_path(target: str) -> str:
    """Where the audit facts of a CSV or JSONL file stand; a URI keeps the options behind it."""
    name = target_name(target)
    return name + ".meta.json" + target[len(name) :]


def stdout_is_closed() -> None:
    """After a broken pipe: keep the interpreter from complaining again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
