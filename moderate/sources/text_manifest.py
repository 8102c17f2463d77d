"""CSV and JSON Lines manifests, row by row."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from moderate.errors import InputError
from moderate.fetch.local import FetchError
from moderate.fetch.naming import shown
from moderate.sources.columns import (
    TEXT_NAMES,
    ManifestOptions,
    check_once,
    kept_columns,
    no_image_column,
    unknown_column,
    usual_column,
)
from moderate.sources.entries import bad_line, entry_ref, no_image
from moderate.sources.interface import Source
from moderate.tables.csv import Record, cell_count_problem, csv_records, tsv_records
from moderate.tables.jsonl import json_kind, json_object
from moderate.tables.lines import CHUNK_BYTES, Line, LineFile, read_lines
from moderate.types import Column, ImageRef, Listing, Skipped

LOOK_LINES = 1000
"""Lines of a JSONL manifest whose values decide the types of kept columns."""

LOOK_BYTES = 8 << 20
"""Most bytes of such lines held at once; those after them do not count."""

_SEPARATOR = re.compile(rb'"?sep=([,;\t|])"?\r?', re.IGNORECASE)  # Excel's first line
_NO_HEADER_HINT = (
    "; its first line must name the columns; without such a line, give them as --columns path,id"
)
_EXACT_FLOAT = 1 << 53  # integers up to here are exact as float64
_INT64 = 1 << 63


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a CSV file is written: what separates its cells, and lines before the first record."""

    delimiter: str
    skipped_lines: int = 0


@dataclass(frozen=True, slots=True)
class CsvManifest(Source):
    """A CSV or TSV, with the columns of its header or of --columns; made by `csv_manifest`.

    Cells are text; kept ones are carried as they are. Bytes that are not UTF-8 survive in paths. A
    record with another number of cells, or with broken quoting, is an error row named by its line.
    Raises InputError where a quote swallows lines, since rows would be missing.
    """

    kind: ClassVar[str] = "CSV"

    file: LineFile = field(repr=False)
    name: str
    header: tuple[str, ...]
    image: int
    kept: tuple[tuple[str, int], ...]
    dialect: Dialect
    options: ManifestOptions
    lines: Iterator[Line] | None = field(default=None, repr=False)

    @property
    def columns(self) -> tuple[Column, ...]:
        """See `Source`."""
        import pyarrow as pa

        return tuple(Column(name, pa.string()) for name, _ in self.kept)

    @property
    def files(self) -> tuple[bytes, ...]:
        """See `Source`."""
        return (self.file,) if isinstance(self.file, bytes) else ()

    def __iter__(self) -> Iterator[ImageRef | Skipped]:
        """See `Source`."""
        name = self.name
        listing = self.options.listing(name, _folder(self.file))
        lines = self.lines or _lines(self.file, name, self.options)
        records = _records(lines, name, self.dialect, self.options)
        if not self.options.columns:
            header = next(records, None)
            if header is None or tuple(header.cells) != self.header:
                raise InputError(f"{name} changed while it was read")
        for record in records:
            if len(record.cells) != len(self.header):
                problem = record.problem or cell_count_problem(
                    len(record.cells), len(self.header), self._named_by
                )
                nothing = (None,) * len(self.kept)
                text = record.text or self.dialect.delimiter.join(record.cells)
                yield bad_line(name, record.line, no_image(problem), nothing, _exact(text))
                continue
            carried = tuple(
                _shown_text(cell) if index == self.image else clean_text(cell)
                for index, cell in ((index, record.cells[index]) for _, index in self.kept)
            )
            yield _named(
                record.cells[self.image], name, record.line, listing, self.options, carried
            )

    @property
    def _named_by(self) -> str:
        return "--columns" if self.options.columns else "the header"


def csv_manifest(
    file: LineFile, name: str, options: ManifestOptions, *, tabs: bool = False
) -> CsvManifest:
    """Read the first record of a CSV file, and find its dialect and the columns.

    The delimiter is a comma (with `tabs`, a tab), unless no column of images is found so and one is
    with a semicolon, a tab or a bar; or what Excel's `sep=;` in the first line says. A stream needs
    options.columns. Raises InputError where the file has no header and options.columns does not
    name the columns, or where it lacks a requested column.
    """
    lines = _lines(file, name, options)
    first = list(itertools.islice(lines, 1))
    is_stream = not isinstance(file, bytes)
    start = first if is_stream else None
    readings = _readings(file, name, _dialects(first, tabs=tabs), options, start)
    if options.columns:
        dialect, header = _reading_without_header(readings, name, options)
    else:
        dialect, header = _reading_with_header(readings, name, options)
    image = options.image_column or usual_column(header, TEXT_NAMES, name)
    if image is None:
        raise no_image_column(header, name, "" if options.columns else _NO_HEADER_HINT)
    check_once("--image-column", image, header, name)
    kept = kept_columns(options, header)
    for _, column in kept:
        check_once("--keep", column, header, name)
    indexes = tuple((shown_as, header.index(column)) for shown_as, column in kept)
    rest = itertools.chain(first, lines) if is_stream else None
    return CsvManifest(file, name, header, header.index(image), indexes, dialect, options, rest)


def _dialects(first: Sequence[Line], *, tabs: bool) -> Sequence[Dialect]:
    """The ways in which a file with this first line may have to be read, the likeliest first."""
    if first and (separator := _SEPARATOR.fullmatch(first[0].data)):
        return [Dialect(separator[1].decode(), skipped_lines=1)]
    own = "\t" if tabs else ","
    return [Dialect(delimiter) for delimiter in sorted(",;\t|", key=lambda mark: mark != own)]


def _readings(
    file: LineFile,
    name: str,
    dialects: Sequence[Dialect],
    options: ManifestOptions,
    start: Sequence[Line] | None,
) -> Iterator[tuple[Dialect, Record | None]]:
    """The first record by each dialect, None in an empty file; of a stream, from its `start`."""
    for dialect in dialects:
        lines = _lines(file, name, options) if start is None else iter(start)
        try:
            first = next(_records(lines, name, dialect, options), None)
        except InputError:
            if dialect is dialects[0]:
                raise
        else:
            yield dialect, first


def _reading_with_header(
    readings: Iterator[tuple[Dialect, Record | None]], name: str, options: ManifestOptions
) -> tuple[Dialect, tuple[str, ...]]:
    """The first dialect whose header names the images, else the one with the most columns."""
    widest = None
    for dialect, first in readings:
        if widest is None:
            if first is None:
                raise InputError(f"{name} is empty; its first line must name the columns")
            if first.problem:
                raise InputError(f"line {first.line} of {name}, the header: {first.problem}")
        header = tuple(first.cells) if first else ()
        if widest is None or len(header) > len(widest[1]):
            widest = dialect, header
        if (
            options.image_column in header
            if options.image_column
            else usual_column(header, TEXT_NAMES, name)
        ):
            return dialect, header
    assert widest is not None
    return widest


def _reading_without_header(
    readings: Iterator[tuple[Dialect, Record | None]], name: str, options: ManifestOptions
) -> tuple[Dialect, tuple[str, ...]]:
    """The first dialect that gives as many cells as there are columns; that of an empty file."""
    counts = []
    for dialect, first in readings:
        if first is None or len(first.cells) == len(options.columns):
            return dialect, options.columns
        counts.append(len(first.cells))
    raise InputError(
        f"--columns names {len(options.columns)} columns, but the first line of {name} has "
        f"{max(counts)} cells"
    )


@dataclass(frozen=True, slots=True)
class JsonlManifest(Source):
    """One JSON object per line; made by `jsonl_manifest`.

    A line that is not a JSON object, or whose image column is not a string, is an error row named
    by its line. A kept string column holds strings as they are and any other value as JSON. Where a
    later value does not fit a bool, int64 or float64 column, its row is an error row, since a null
    would hide the value.
    """

    kind: ClassVar[str] = "JSON lines"

    file: LineFile = field(repr=False)
    name: str
    image: str
    kept: tuple[Column, ...]
    keys: tuple[str, ...]
    listing: Listing
    options: ManifestOptions
    head: tuple[Line, ...] | None = field(repr=False)
    lines: Iterator[Line] | None = field(repr=False)

    @property
    def columns(self) -> tuple[Column, ...]:
        """See `Source`."""
        return self.kept

    @property
    def files(self) -> tuple[bytes, ...]:
        """See `Source`."""
        return (self.file,) if isinstance(self.file, bytes) else ()

    def __iter__(self) -> Iterator[ImageRef | Skipped]:
        """See `Source`."""
        lines = (
            _lines(self.file, self.name, self.options)
            if self.head is None or self.lines is None
            else itertools.chain(self.head, self.lines)
        )
        for line in lines:
            if line.data.strip():
                yield self._ref(line)

    def _ref(self, line: Line) -> ImageRef:
        nothing = (None,) * len(self.kept)
        try:
            values = _json_object(line)
        except ValueError as error:
            return bad_line(self.name, line.number, no_image(str(error)), nothing, line.data)
        image = _look_up(values, self.image)
        if not isinstance(image, str):
            kind = "null or missing" if image is None else f"{json_kind(image)}, not a string"
            problem = no_image(f"{self.image} is {kind}")
            return bad_line(self.name, line.number, problem, nothing, line.data)
        carried: list[Any] = []
        for column, key in zip(self.kept, self.keys, strict=True):
            try:
                value = _fitted(values.get(key), str(column.type))
            except _MismatchError:
                shown_value = json.dumps(values[key])[:60]
                problem = no_image(
                    f"column {key} is {column.type} by the first lines, but holds {shown_value}"
                )
                return bad_line(self.name, line.number, problem, nothing, line.data)
            except RecursionError:  # it was read with a few calls fewer on the stack
                problem = no_image(f"column {key} is nested too deep")
                return bad_line(self.name, line.number, problem, nothing, line.data)
            carried.append(_shown_text(value) if key == self.image else value)
        return _named(image, self.name, line.number, self.listing, self.options, tuple(carried))


def jsonl_manifest(file: LineFile, name: str, options: ManifestOptions) -> JsonlManifest:
    """Look at the first lines of a JSONL manifest to find the columns and types of kept ones.

    These are the first LOOK_LINES lines of at most LOOK_BYTES together; of a stream, without kept
    columns, only those up to the first object. Relative paths of a stream start from the current
    directory. Raises InputError where not one of these lines is a JSON object, or the columns asked
    for are not there.
    """
    lines = _lines(file, name, options)
    is_stream = not isinstance(file, bytes)
    head: list[Line] = []
    objects: list[dict[str, Any]] = []
    size = 0
    for line in itertools.islice(lines, LOOK_LINES):
        head.append(line)
        size += len(line.data)
        try:
            if line.data.strip():
                objects.append(_json_object(line))
        except ValueError as error:
            problem = f"line {line.number} is not one: {error}"
        if size >= LOOK_BYTES or (is_stream and objects and not options.keep):
            break
    if not objects and any(line.data.strip() for line in head):
        raise InputError(
            f"{name} holds no JSON objects, one per line; {problem}{_document_hint(name)}"
        )
    names = tuple(dict.fromkeys(key for values in objects for key in values))
    if options.image_column:
        image = options.image_column
        is_present = any(_look_up(values, image) is not None for values in objects)
        if objects and not is_present and image not in names:
            raise unknown_column("--image-column", image, names, name)
    else:
        image = usual_column(names, TEXT_NAMES, name) or ""
        if objects and not image:
            arrays = any(isinstance(value, list) for value in objects[0].values())
            raise no_image_column(names, name, _document_hint(name) if arrays else "")
    kept = kept_columns(options, names)
    columns = []
    for shown_as, key in kept:
        if objects and key not in names:
            raise unknown_column("--keep", key, names, name)
        columns.append(Column(shown_as, _inferred([values.get(key) for values in objects])))
    return JsonlManifest(
        file,
        name,
        image,
        tuple(columns),
        tuple(key for _, key in kept),
        options.listing(name, _folder(file)),
        options,
        tuple(head) if is_stream else None,
        lines if is_stream else None,
    )


def _document_hint(name: str) -> str:
    return f"; of a whole document, write each item on a line, as by jq -c '.images[]' {name}"


def clean_text(text: str) -> str:
    """Text without lone surrogates, which no output can hold: `\\xNN` for a byte."""
    if text.isascii():
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()


def _records(
    lines: Iterator[Line], name: str, dialect: Dialect, options: ManifestOptions
) -> Iterator[Record]:
    lines = itertools.islice(lines, dialect.skipped_lines, None)
    limit = _line_limit(options)
    if dialect.delimiter == "\t":
        return tsv_records(lines, limit)
    return csv_records(lines, name, limit, dialect.delimiter)


def _folder(file: LineFile) -> bytes | None:
    return os.path.dirname(file) if isinstance(file, bytes) else None


def _lines(file: LineFile, name: str, options: ManifestOptions) -> Iterator[Line]:
    limit = _line_limit(options)
    return read_lines(file, name, lambda _: limit)


def _line_limit(options: ManifestOptions) -> int:
    """Most bytes of a line: a `data:` URL of the largest image and as much again beside it."""
    return CHUNK_BYTES + 4 * options.max_file_bytes


def _named(
    value: str,
    name: str,
    line: int,
    listing: Listing,
    options: ManifestOptions,
    carried: tuple[Any, ...],
) -> ImageRef:
    try:
        exact = value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return bad_line(
            name, line, no_image("half a surrogate pair, no path"), carried, _exact(value)
        )
    try:
        return entry_ref(
            exact, listing=listing, max_file_bytes=options.max_file_bytes, carried=carried
        )
    except FetchError as error:
        return bad_line(name, line, error.error, carried, exact)


def _exact(text: str) -> bytes:
    """Text as the file has it, also where it is not UTF-8."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")


def _shown_text(value: str | None) -> str | None:
    """A path or URL to carry: its credentials stay behind, and so does the image of a data: URL."""
    if value is None:
        return None
    exact = value.encode("utf-8", "backslashreplace")
    masked = shown(exact)
    return clean_text(value) if masked == exact else masked.decode("utf-8", "backslashreplace")


class _MismatchError(Exception):
    """A value that its column's type cannot hold."""


def _json_object(line: Line) -> dict[str, Any]:
    """The object of a line. Raises ValueError with what is wrong."""
    if not line.whole:
        raise ValueError("the line is too long")
    # Values that are not carried may be nested as deep as Python reads them.
    return json_object(line.data.decode("utf-8", "surrogateescape"), max_nesting=None)


def _look_up(values: dict[str, Any], name: str) -> Any:
    """The value called `name`, or, with a dot, that of an object within."""
    if name in values or "." not in name:
        return values.get(name)
    outer, inner = name.split(".", 1)
    within = values.get(outer)
    return _look_up(within, inner) if isinstance(within, dict) else None


def _inferred(values: Sequence[Any]) -> Any:
    """The pyarrow.DataType that holds all of `values` exactly; a string, where no other does."""
    import pyarrow as pa

    present = [value for value in values if value is not None]
    for kind in (pa.bool_(), pa.int64(), pa.float64()):
        try:
            for value in present:
                _fitted(value, str(kind))
        except _MismatchError:
            continue
        if present:
            return kind
    return pa.string()


def _fitted(value: Any, kind: str) -> Any:
    """A JSON value as a column of a type (by Arrow's name) holds it; raises _MismatchError."""
    if value is None:
        return None
    if kind == "string":
        return clean_text(
            value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        )
    is_int = isinstance(value, int) and not isinstance(value, bool)
    if (kind == "bool" and isinstance(value, bool)) or (
        kind == "int64" and is_int and -_INT64 <= value < _INT64
    ):
        return value
    if kind == "double" and (isinstance(value, float) or (is_int and abs(value) <= _EXACT_FLOAT)):
        return float(value)
    raise _MismatchError
