"""CSV of untrusted files: strict quoting, bounded records, and the line of each of them."""

from __future__ import annotations

import csv
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

from moderate.errors import InputError
from moderate.tables.lines import CHUNK_BYTES, MAX_LINE_BYTES, Line, not_utf8, read_lines

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\0", "＝", "＋", "－", "＠")
"""What makes a cell run as a formula in some spreadsheet; the full-width forms are folded to ASCII
by some programs. Our CSV has `'` before such cells. Source: OWASP, "CSV Injection"."""

# How far to look for the end of a quoted record of TSV, and how often in vain: where quotes mean
# nothing, each of them would cost that look.
_MAX_SPAN_LINES = 100
_MAX_SPAN_BYTES = 1 << 16
_MAX_FAILED_SPANS = 100


class Record(NamedTuple):
    """One record. line is where it starts, from 1; with a `problem` it has no cells."""

    line: int
    cells: Sequence[str]
    problem: str = ""


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
            yield Record(start, (), problem)
            continue
        if cells:
            yield Record(start, cells)


def tsv_records(lines: Iterator[Line], limit: int) -> Iterator[Record]:
    """The records of tab-separated text, whose cells may be quoted as in CSV or not at all.

    A line that breaks the rules of quoting is taken as it stands, quotes included. Lines belong to
    one quoted record only where they make one with as many cells as the first record has, and do
    not each have as many by themselves: no line is lost in a file where quotes mean nothing. Bytes
    that are not UTF-8 become surrogates. A line over the limit has a `problem`.
    """
    upcoming = _Upcoming(lines)
    columns = 0
    failures = 0
    while (line := upcoming.take()) is not None:
        if not line.whole:
            yield Record(line.number, (), f"longer than {limit} bytes")
            continue
        text = _tsv_text(line)
        if not text:
            continue
        cells: Sequence[str] | None = text.split("\t")
        if '"' in text:
            quoted = _quoted_cells([text], limit)
            if quoted is None and columns and failures < _MAX_FAILED_SPANS:
                quoted = _spanning_cells(text, upcoming, columns, limit)
                failures += quoted is None
            cells = quoted or cells
        assert cells is not None
        columns = columns or len(cells)
        yield Record(line.number, cells)


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
    for line, cells, problem in csv_records(lines, name, limit, encoding_errors="strict"):
        if problem:
            if "new-line character" in problem:
                problem = "a CR within the line; save the file with one kind of line end"
            raise InputError(f"line {line} of {name}: not CSV: {problem}")
        columns = columns or len(cells)
        if len(cells) != columns:
            raise InputError(f"line {line} of {name}: {cell_count_problem(len(cells), columns)}")
        yield line, cells


def cell_count_problem(count: int, expected: int, named_by: str = "the header") -> str:
    """What is wrong with a record of another number of cells than there are columns."""
    return f"{count} cells where {named_by} has {expected}"


def strict_reader(lines: Iterable[str], limit: int, delimiter: str = ",") -> Any:
    """A `csv.reader` that raises csv.Error for what breaks the rules of quoting."""
    # The module's limit on a cell counts for the whole process: it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), limit))
    return csv.reader(lines, delimiter=delimiter, strict=True)


def unguarded(cell: str) -> str:
    """A cell without the `'` that our CSV has before what would run as a formula."""
    return cell[1:] if cell[:1] == "'" and cell[1:].startswith(FORMULA_STARTS) else cell


class _TooLongError(Exception):
    pass


class _Upcoming:
    """Lines that can be looked at before they are taken."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines = lines
        self._seen: deque[Line] = deque()

    def take(self) -> Line | None:
        """The next line; None at the end."""
        return self._seen.popleft() if self._seen else next(self._lines, None)

    def ahead(self) -> Iterator[Line]:
        """The next lines, without taking them."""
        yield from list(self._seen)
        while (line := next(self._lines, None)) is not None:
            self._seen.append(line)
            yield line


def _spanning_cells(
    text: str, upcoming: _Upcoming, columns: int, limit: int
) -> Sequence[str] | None:
    """The cells of a quoted record that starts with this line and spans more, which are taken.

    None where the line is not the start of one.
    """
    texts = [text]
    size = 0
    for line in itertools.islice(upcoming.ahead(), _MAX_SPAN_LINES):
        texts.append(_tsv_text(line))
        size += len(line.data)
        if not line.whole or size > _MAX_SPAN_BYTES:
            return None
        if sum(part.count('"') for part in texts) % 2:
            continue  # the quote is still open
        cells = _quoted_cells(texts, limit)
        if cells is None:
            continue
        if len(cells) != columns or all(part.count("\t") + 1 == columns for part in texts):
            return None
        for _ in texts[1:]:
            upcoming.take()
        return cells
    return None


def _quoted_cells(texts: Sequence[str], limit: int) -> Sequence[str] | None:
    """The cells of lines that are one record by CSV's rules of quoting; None for other lines."""
    try:
        records = list(strict_reader([text + "\n" for text in texts], limit, "\t"))
    except csv.Error:
        return None
    return records[0] if len(records) == 1 else None


def _tsv_text(line: Line) -> str:
    return line.data.removesuffix(b"\r").decode("utf-8", "surrogateescape")


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
        if not line.whole or self._record_bytes > self._limit + 1:
            raise _TooLongError
        return line.data.decode("utf-8", self._encoding_errors) + "\n"
