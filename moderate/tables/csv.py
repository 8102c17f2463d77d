"""CSV of untrusted files: strict quoting, bounded records, and the line of each of them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

from moderate.errors import InputError
from moderate.tables.lines import CHUNK_BYTES, MAX_LINE_BYTES, Line, not_utf8, read_lines

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\0", "＝", "＋", "－", "＠")
"""What makes a cell run as a formula in some spreadsheet; the full-width forms are folded to ASCII
by some programs. Our CSV has `'` before such cells. Source: OWASP, "CSV Injection"."""

_NUMBER = re.compile(r"[+-](\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


class Record(NamedTuple):
    """One record. line is where it starts, from 1; with a `problem` it has text and no cells."""

    line: int
    cells: Sequence[str]
    problem: str = ""
    text: str = ""


def csv_records(
    lines: Iterator[Line],
    name: str,
    limit: int,
    delimiter: str = ",",
    encoding_errors: str = "surrogateescape",
) -> Iterator[Record]:
    """The records of CSV of at most `limit` bytes each, without empty lines.

    A record that breaks the rules of quoting on its only line has a `problem`, and the next record
    starts on the next line. Raises InputError where a quote swallows lines, since records would be
    missing, and for bytes that are not UTF-8, if encoding_errors is `strict`.
    """
    text = _RecordLines(lines, limit, encoding_errors)
    reader = strict_reader(text, limit, delimiter)
    while True:
        start = text.number + 1
        text.start_record()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except UnicodeDecodeError as error:
            raise not_utf8(text.number, name, error) from None
        except (csv.Error, _TooLongError) as error:
            is_too_long = isinstance(error, _TooLongError)
            problem = f"longer than {limit} bytes" if is_too_long else str(error)
            if text.ended or text.number > start:
                raise InputError(
                    f"{name} is not CSV: a quote opened in the record of line {start} is not "
                    f"closed properly ({problem})"
                ) from None
            yield Record(start, (), problem, text.line)
            continue
        if cells:
            yield Record(start, cells)


def strict_records(
    file: BinaryIO, name: str, limit: int = MAX_LINE_BYTES
) -> Iterator[tuple[int, Sequence[str]]]:
    """Line and cells of each record of a seekable file, first those of the header.

    Raises InputError for the first record that is not CSV, not UTF-8, or has another number of
    cells than the header.
    """
    start = file.read(CHUNK_BYTES)
    file.seek(0)
    # Some spreadsheets on a Mac still end lines with a CR alone.
    separator = b"\r" if b"\r" in start and b"\n" not in start else b"\n"
    lines = read_lines(file, name, lambda _: limit, separator)
    columns = 0
    for line, cells, problem, _ in csv_records(lines, name, limit, encoding_errors="strict"):
        if problem:
            if "new-line character" in problem:
                problem = "a CR within the line; save the file with one kind of line end"
            raise InputError(f"line {line} of {name}: not CSV: {problem}")
        columns = columns or len(cells)
        if len(cells) != columns:
            raise InputError(f"line {line} of {name}: {cell_count_problem(len(cells), columns)}")
        yield line, cells


def cell_count_problem(count: int, expected: int) -> str:
    """What is wrong with a record of another number of cells than the header."""
    return f"{count} cells where the header has {expected}"


def strict_reader(lines: Iterable[str], limit: int, delimiter: str = ",") -> Any:
    """A `csv.reader` that raises csv.Error for what breaks the rules of quoting."""
    # The module's limit on a cell counts for the whole process: it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), limit))
    return csv.reader(lines, delimiter=delimiter, strict=True)


def guarded(text: str) -> str:
    """A cell that no spreadsheet runs as a formula: with `'` before it where it needs that.

    A number with a sign runs nothing and stays. Text that already starts with `'` and then as a
    formula gets another one, so that `unguarded` gives back any text as it was.
    """
    if not text.lstrip("'").startswith(FORMULA_STARTS) or _NUMBER.fullmatch(text):
        return text
    return "'" + text


def unguarded(cell: str) -> str:
    """The text of a cell that `guarded` returned."""
    return cell[1:] if cell[:1] == "'" and cell.lstrip("'").startswith(FORMULA_STARTS) else cell


class _TooLongError(Exception):
    pass


class _RecordLines:
    """Lines as text for csv.reader, which goes on after an error that this raises.

    A record may span many lines, each ending within quotes: their bytes count together.
    """

    def __init__(self, lines: Iterator[Line], limit: int, encoding_errors: str) -> None:
        self._lines = lines
        self._limit = limit
        self._encoding_errors = encoding_errors
        self._record_bytes = 0
        self.number = 0
        self.line = ""
        self.ended = False

    def start_record(self) -> None:
        """Declare that the next line starts a record."""
        self._record_bytes = 0

    def __iter__(self) -> _RecordLines:
        return self

    def __next__(self) -> str:
        line = next(self._lines, None)
        if line is None:
            self.ended = True
            raise StopIteration
        self.number = line.number
        self._record_bytes += len(line.data) + 1
        self.line = ""
        if not line.whole or self._record_bytes > self._limit + 1:
            raise _TooLongError
        self.line = line.data.decode("utf-8", self._encoding_errors)
        return self.line + "\n"
