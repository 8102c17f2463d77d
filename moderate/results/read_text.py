"""Results in CSV and JSON Lines, read back with the line of every mistake."""

from __future__ import annotations

import base64
import csv
import json
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from operator import add
from typing import Any

import pyarrow as pa

from moderate.errors import InputError
from moderate.results.read_format import (
    CHUNK_ROWS,
    CONVERSION_ERRORS,
    Chunk,
    ResultsFile,
    first_invalid,
    invalid_reason,
    own_type,
    type_name,
    without_surrogates,
)
from moderate.tables.csv import cell_count_problem, strict_reader, unguarded
from moderate.tables.jsonl import json_object
from moderate.tables.lines import MAX_LINE_BYTES, file_name, text_lines
from moderate.text import one_line

# Types of Python that Arrow would convert, though it is a mistake: 3.5 to 3, and true to 1.
_NOT_CONVERTED = {"int64": float, "float": bool}


class _TextFile(ResultsFile):
    """A format of lines."""

    @abstractmethod
    def array(self, values: Sequence[Any], kind: Any) -> Any:
        """Parsed values as an Arrow array of a type; raises one of CONVERSION_ERRORS."""

    @abstractmethod
    def carried_values(self, values: Sequence[Any]) -> list[Any]:
        """Parsed values of a carried column as rows have them."""

    def error(self, line: int, reason: str) -> InputError:
        """The error for a line that no run wrote."""
        return InputError(f"line {line} of {file_name(self.path)}: {reason}")

    def lines(self) -> Iterator[str]:
        """All lines with their ends. Raises InputError."""
        return text_lines(os.fsencode(self.path), file_name(self.path))


class _TextChunk(Chunk):
    """Parsed rows: `parsed` returns a column's cells, `line` the line of the row of an index."""

    def __init__(
        self,
        file: _TextFile,
        first: int,
        count: int,
        parsed: Callable[[str], Sequence[Any]],
        line: Callable[[int], int],
    ) -> None:
        super().__init__(file.names, first, count)
        self._file, self._parsed, self._line = file, parsed, line

    def columns(self, names: Sequence[str]) -> list[Any]:
        """See `Chunk`."""
        return [self._array(name) for name in names]

    def carried(self, name: str) -> Any:
        """See `Chunk`."""
        return self._file.carried_values(self._parsed(name))

    def error(self, index: int, reason: str) -> InputError:
        """See `Chunk`."""
        return self._file.error(self._line(index), reason)

    def _array(self, name: str) -> Any:
        if name not in self._file.names:
            return pa.nulls(self.count, own_type(name))
        values, convert = self._parsed(name), self._file.array
        try:
            array = convert(values, own_type(name))
        except CONVERSION_ERRORS as error:
            # One value at a time, to name the line of the first that does not fit.
            for index, value in enumerate(values):
                try:
                    convert([value], own_type(name))
                except CONVERSION_ERRORS:
                    reason = f"{name}: {one_line(str(value), 40)!r} is not {type_name(name)}"
                    raise self.error(index, reason) from None
            raise self.error(0, f"{name}: {one_line(str(error))}") from None
        if (invalid := first_invalid(name, array)) is not None:
            raise self.error(invalid, invalid_reason(name, array[invalid].as_py()))
        return array


class CsvResults(_TextFile):
    """Results in CSV.

    They are read by chunks of columns rather than by `csv_records`: a row has to be exactly what
    our writer wrote, so that the first mistake ends the reading, and a million rows take seconds.
    raw says that it is without the guard against formulas.
    """

    def __init__(self, path: str, *, raw: bool = False) -> None:
        super().__init__(path)
        self.raw = raw
        header = self._take(strict_reader(self.lines(), MAX_LINE_BYTES), 1)
        self.names = tuple(map(self._text, header[0] if header else ()))

    def chunks(self) -> Iterator[Chunk]:
        """See `ResultsFile`."""
        reader = strict_reader(self.lines(), MAX_LINE_BYTES)
        self._take(reader, 1)
        first, lines_before = 1, reader.line_num
        while rows := self._take(reader, CHUNK_ROWS):
            line = partial(_last_line, rows, lines_before)
            for index, row in enumerate(rows):
                if len(row) != len(self.names):
                    reason = cell_count_problem(len(row), len(self.names))
                    raise self.error(line(index), reason)
            columns = dict(zip(self.names, zip(*rows, strict=True), strict=True))
            yield _TextChunk(self, first, len(rows), columns.__getitem__, line)
            first, lines_before = first + len(rows), reader.line_num

    def _take(self, reader: Any, count: int) -> list[list[str]]:
        try:
            return list(islice(reader, count))
        except csv.Error as error:
            raise self.error(reader.line_num, f"not CSV: {one_line(str(error))}") from None

    def _text(self, cell: str) -> str:
        return cell if self.raw else unguarded(cell)

    def array(self, values: Sequence[Any], kind: Any) -> Any:
        """See `_TextFile`."""
        if kind == pa.string():
            return pa.array(self.carried_values(values), kind)
        if kind == pa.binary():
            decoded = [base64.b64decode(cell, validate=True) if cell else None for cell in values]
            return pa.array(decoded, kind)
        return pa.array([cell or None for cell in values], pa.string()).cast(kind)

    def carried_values(self, values: Sequence[Any]) -> list[Any]:
        """See `_TextFile`."""
        return [self._text(cell) or None for cell in values]


class JsonlResults(_TextFile):
    """Results in JSON Lines."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.names = tuple(next((self._object(1, line) for line in self.lines()), ()))

    def chunks(self) -> Iterator[Chunk]:
        """See `ResultsFile`."""
        names = set(self.names)
        lines = self.lines()
        first = 1
        while some := list(islice(lines, CHUNK_ROWS)):
            rows = [self._object(number, line) for number, line in enumerate(some, first)]
            for number, row in enumerate(rows, first):
                if row.keys() != names:
                    other = one_line(sorted(row.keys() ^ names)[0], 60)
                    reason = f"not the columns of the first line: {other!r} differs"
                    raise self.error(number, reason)
            yield _TextChunk(self, first, len(rows), partial(_column, rows), partial(add, first))
            first += len(rows)

    def _object(self, number: int, line: str) -> dict[str, Any]:
        try:
            return json_object(line)
        except ValueError as error:
            raise self.error(number, str(error)) from None

    def array(self, values: Sequence[Any], kind: Any) -> Any:
        """See `_TextFile`."""
        if kind == pa.binary():
            return pa.array(
                [None if v is None else base64.b64decode(v, validate=True) for v in values], kind
            )
        if _NOT_CONVERTED.get(str(kind)) in set(map(type, values)):
            raise TypeError
        try:
            return pa.array(values, kind)
        except UnicodeEncodeError:
            return pa.array([None if v is None else without_surrogates(v) for v in values], kind)

    def carried_values(self, values: Sequence[Any]) -> list[Any]:
        """See `_TextFile`."""
        return list(values)

    def carried_column(self, name: str, pieces: Sequence[Any]) -> Any:
        """See `ResultsFile`. Arrow infers the type; values of several types become text."""
        values = [value for piece in pieces for value in piece]
        try:
            return pa.array(values)
        except CONVERSION_ERRORS:
            return pa.array(
                [
                    None
                    if value is None
                    else without_surrogates(value if isinstance(value, str) else json.dumps(value))
                    for value in values
                ],
                pa.string(),
            )


def _last_line(rows: Sequence[Sequence[str]], lines_before: int, index: int) -> int:
    """The last line of a CSV row; lines_before are those before the first of the rows."""
    within = sum(cell.count("\n") for row in rows[: index + 1] for cell in row)
    return lines_before + index + 1 + within


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in rows]
