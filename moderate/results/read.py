"""Results files of this tool, read back: audit facts, and rows with typed values or as a table."""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import json
import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from itertools import islice
from operator import add, itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from moderate.arrow import python_value, python_values
from moderate.errors import InputError, UsageError
from moderate.results.cells import FORMULA_STARTS
from moderate.results.parquet_writer import arrow_schema
from moderate.results.remote import is_remote, shown_target
from moderate.results.schema import in_order, own_columns
from moderate.results.targets import SUFFIXES
from moderate.results.text_writers import metadata_path
from moderate.tables.parquet import ParquetReader, open_parquet
from moderate.text import first_repeated, one_line, printable
from moderate.types import CATEGORIES, LABEL_PREFIX, Decision, Status

CHUNK_ROWS = 8192
"""Rows held as Python objects at once."""

MAX_LINE_CHARACTERS = 64 << 20
MAX_NESTING = 100
"""Lists and objects within each other in a line of JSON, which later stages follow by recursion."""

MAX_WARNINGS = 64
"""Warnings of one row; the closed list that a run knows is far shorter."""

MAX_FACTS_BYTES = 16 << 20

MAX_GROUP_BYTES = 1 << 30
"""Most bytes that the columns asked for of a Parquet file's row group hold; ours have some MiB."""

MAX_RATIO = 1000
"""How many times its size a Parquet file may hold, once that is over MAX_GROUP_BYTES."""

_OWN = {field.name: field.type for field in arrow_schema()}
_REQUIRED = ("path", "status", "decision")
_ALLOWED = {"status": tuple(s.value for s in Status), "decision": tuple(d.value for d in Decision)}
_SCORES = tuple(category.value for category in CATEGORIES)
_TOGETHER = ("status", "decision", "error_code", *_SCORES)
"""Columns whose cells have to fit together in a row; see `contradiction`."""

_NOT_FACTS = ("ARROW:schema", "pandas")  # what libraries keep in a Parquet file's metadata
_TAKEN_AMISS = {"int64": float, "float": bool}  # Arrow would cut 3.5 to 3, and take true for 1
_BRACKET_OR_STRING = re.compile(r'[\[\]{}]|"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_REFUSED = (pa.ArrowException, ValueError, TypeError, OverflowError)


@dataclass(frozen=True)
class Results:
    """A results file whose rows are read, anew each time, when they are asked for.

    facts are the audit facts, empty where the file beside a CSV or JSONL file is gone. carried are
    the columns that the rows carry from a manifest. Reading raises InputError, naming line or row,
    for what no run of this tool wrote: a row cut short, a score outside 0..1, another decision.
    """

    path: str
    facts: Mapping[str, str]
    carried: tuple[str, ...]
    _file: _File

    @cached_property
    def sha256(self) -> str:
        """The digest of the rows' file as it is now. Raises InputError."""
        try:
            with open(self.path, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _unreadable(self.path, error) from None

    @cached_property
    def mismatch(self) -> bool:
        """Whether the file is not the one that the facts beside it describe, by its digest."""
        recorded = self.facts.get("sha256")
        return recorded is not None and recorded != self.sha256

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of a row, in order."""
        return tuple(in_order(self.own, self.carried))

    @property
    def own(self) -> list[str]:
        """The columns of ours: those that every file has, and those of labels."""
        return [column.name for column in own_columns(self.labels)]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, named MODEL/LABEL, that the rows have the scores of."""
        return tuple(
            name.removeprefix(LABEL_PREFIX)
            for name in self._file.names
            if name.startswith(LABEL_PREFIX)
        )

    def rows(self) -> Iterator[dict[str, Any]]:
        """Each row as column name to value, in bounded memory.

        None stands for null, scores are floats that hold a float32, path_bytes are bytes. A column
        of ours that the file lacks, for its age, is null. Carried values are as the format has
        them: text in CSV, which has no empty text apart from null.
        """
        for chunk in self._file.chunks():
            yield from self._chunk_rows(chunk, range(chunk.count))

    def find(
        self, paths: Collection[str] = (), sha256: str | None = None, number: int | None = None
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """The rows of these paths, whose sha256 starts so, or of this number, with their numbers.

        Numbers count from 1. Rows that do not match cost little: only path and sha256 are read.
        """
        for chunk in self._file.chunks():
            if number is not None:
                found = [number - chunk.first] if 0 <= number - chunk.first < chunk.count else []
            else:
                texts, digests = chunk.columns(["path", "sha256"])
                matches = pc.is_in(texts, pa.array(list(paths), pa.string()))
                if sha256:
                    by_digest = pc.starts_with(digests, sha256)
                    matches = pc.or_(matches, pc.fill_null(by_digest, False))
                found = pc.indices_nonzero(matches).to_pylist()
            if found:
                rows = self._chunk_rows(chunk, found)
                yield from zip((chunk.first + index for index in found), rows, strict=True)
            if number is not None and number < chunk.first + chunk.count:
                return

    def column(self, name: str) -> Iterator[pa.Array]:
        """One of our own columns, piece by piece."""
        for chunk in self._file.chunks():
            yield chunk.columns([name])[0]

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows, or these columns of them, with the types of the schema, in memory.

        Carried columns have the types that a Parquet file gives them, are strings in CSV, and in
        JSONL whatever holds all values, else strings of JSON. Raises InputError.
        """
        names = list(self.columns if columns is None else columns)
        known = set(self.columns)
        if unknown := [name for name in names if name not in known]:
            raise InputError(f"{_shown(self.path)} has no column {one_line(unknown[0], 60)!r}")
        own = [name for name in names if _is_own(name)]
        parts: dict[str, list[Any]] = {name: [] for name in names}
        for chunk in self._file.chunks():
            for name, array in zip(own, chunk.arrays(own), strict=True):
                parts[name].append(array)
            for name in names:
                if not _is_own(name):
                    parts[name].append(chunk.carried(name))
        made = {
            name: pa.chunked_array(pieces, _own_type(name))
            if _is_own(name)
            else self._file.carried_column(name, pieces)
            for name, pieces in parts.items()
        }
        return pa.table(made)

    def _chunk_rows(self, chunk: _Chunk, indices: Sequence[int]) -> Iterator[dict[str, Any]]:
        names = self.columns
        arrays = chunk.arrays(self.own)
        carried = [chunk.carried(name) for name in self.carried]
        for start in range(0, len(indices), CHUNK_ROWS):
            some = indices[start : start + CHUNK_ROWS]
            ours = [_taken(array, some).to_pylist() for array in arrays]
            theirs = [python_values(_taken(values, some)) for values in carried]
            for cells in zip(*in_order(ours, theirs), strict=True):
                yield dict(zip(names, cells, strict=True))


def read_results(path: str) -> Results:
    """Open a .csv, .parquet or .jsonl file that a scan wrote, and read its audit facts.

    Raises UsageError for another suffix, InputError for what cannot be read or is no results file.
    """
    if is_remote(path):
        raise UsageError(f"{shown_target(path)}: results are read from local files; fetch it first")
    suffix = next((suffix for suffix in SUFFIXES if path.lower().endswith(suffix)), None)
    if suffix is None:
        raise UsageError(
            f"{_shown(path)} is no results file: the suffix is one of {', '.join(SUFFIXES)}"
        )
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"cannot read {_shown(path)}: not a regular file")
    facts = {} if suffix == ".parquet" else _facts_beside(path)
    # JSON Lines without a line are what a run over nothing wrote; nothing else is ever empty.
    if not found.st_size and not (suffix == ".jsonl" and facts):
        raise InputError(f"{_shown(path)} is empty: it is no results file")
    kinds: dict[str, type[_File]] = {".csv": _Csv, ".jsonl": _Jsonl, ".parquet": _Parquet}
    file = kinds[suffix](path)
    if file.names or found.st_size:
        _check_columns(path, file.names)
    carried = tuple(name for name in file.names if not _is_own(name))
    return Results(path, facts or file.facts(), carried, file)


def read_table(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A results file as an Arrow table; see `Results.table`. Raises UsageError and InputError."""
    return read_results(path).table(columns)


class _Chunk(ABC):
    """Some rows one after another of a file with columns of these names.

    first is the number of the first row, from 1.
    """

    def __init__(self, names: Collection[str], first: int, count: int) -> None:
        self.names = names
        self.first = first
        self.count = count

    def arrays(self, names: Sequence[str]) -> list[Any]:
        """These of our columns as `columns` gives them, of rows that do not contradict themselves.

        Raises InputError for a row that does.
        """
        wanted = list(dict.fromkeys([*names, *_TOGETHER]))
        found = dict(zip(wanted, self.columns(wanted), strict=True))
        if (wrong := contradiction(found, self.names)) is not None:
            raise self.bad(*wrong)
        return [found[name] for name in names]

    @abstractmethod
    def columns(self, names: Sequence[str]) -> list[Any]:
        """These of our columns as Arrow arrays of the schema's types, each value checked."""

    @abstractmethod
    def carried(self, name: str) -> Any:
        """A carried column's values: a list, or an Arrow array."""

    @abstractmethod
    def bad(self, index: int, reason: str) -> InputError:
        """What to raise for the row of this index, from 0, that no run wrote."""


class _File(ABC):
    """A results file of one format. names are the columns that it has, in its order."""

    names: tuple[str, ...]

    def __init__(self, path: str) -> None:
        self.path = path

    def facts(self) -> dict[str, str]:
        """The audit facts that the file itself holds."""
        return {}

    @abstractmethod
    def chunks(self) -> Iterator[_Chunk]:
        """All rows, from the first."""

    def carried_column(self, name: str, pieces: Sequence[Any]) -> Any:
        """What the chunks gave for a carried column as one Arrow column."""
        return pa.array([value for piece in pieces for value in piece], pa.string())


# Text -------------------------------------------------------------------------------------------


class _TextChunk(_Chunk):
    """Rows as parsed: `raw` gives a column's cells, `line` the line of the row of an index."""

    def __init__(
        self,
        file: _Text,
        first: int,
        count: int,
        raw: Callable[[str], Sequence[Any]],
        line: Callable[[int], int],
    ) -> None:
        super().__init__(file.names, first, count)
        self._file, self._raw, self._line = file, raw, line

    def columns(self, names: Sequence[str]) -> list[Any]:
        return [self._array(name) for name in names]

    def carried(self, name: str) -> Any:
        return self._file.carried_values(self._raw(name))

    def bad(self, index: int, reason: str) -> InputError:
        return self._file.bad(self._line(index), reason)

    def _array(self, name: str) -> Any:
        if name not in self._file.names:
            return pa.nulls(self.count, _own_type(name))
        values, convert = self._raw(name), self._file.array
        try:
            array = convert(values, _own_type(name))
        except _REFUSED as error:
            for index, value in enumerate(values):
                try:
                    convert([value], _own_type(name))
                except _REFUSED:
                    reason = f"{name}: {one_line(str(value), 40)!r} is no {_kind(name)}"
                    raise self.bad(index, reason) from None
            raise self.bad(0, f"{name}: {one_line(str(error))}") from None
        if (wrong := _first_wrong(name, array)) is not None:
            raise self.bad(wrong, _wrong(name, array[wrong].as_py()))
        return array


class _Text(_File):
    """A format of lines."""

    @staticmethod
    @abstractmethod
    def array(values: Sequence[Any], kind: Any) -> Any:
        """Raw values as an Arrow array; raises one of _REFUSED."""

    @staticmethod
    @abstractmethod
    def carried_values(values: Sequence[Any]) -> list[Any]:
        """Raw values as rows have them."""

    def bad(self, line: int, reason: str) -> InputError:
        """What to raise for a line that no run wrote."""
        return InputError(f"line {line} of {_shown(self.path)}: {reason}")

    @contextlib.contextmanager
    def lines(self) -> Iterator[Iterator[str]]:
        """All lines with their ends; one that is too long comes in parts, which fit nowhere."""
        try:
            with open(self.path, encoding="utf-8-sig", newline="\n") as file:
                yield iter(partial(file.readline, MAX_LINE_CHARACTERS), "")
        except UnicodeDecodeError as error:
            raise self._not_utf8() or self.bad(1, str(error)) from None
        except OSError as error:
            raise _unreadable(self.path, error) from None

    def _not_utf8(self) -> InputError | None:
        with open(self.path, "rb") as file:
            for number, line in enumerate(
                iter(partial(file.readline, MAX_LINE_CHARACTERS), b""), 1
            ):
                try:
                    line.decode()
                except UnicodeDecodeError as error:
                    return self.bad(number, f"not UTF-8 at byte {error.start + 1}")
        return None


class _Csv(_Text):
    def __init__(self, path: str) -> None:
        super().__init__(path)
        # A process has one limit for all its readers.
        csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_CHARACTERS))
        with self.lines() as lines:
            header = self._some(csv.reader(lines, strict=True), 1)
        self.names = tuple(_unguarded(cell) for cell in (header[0] if header else ()))

    def chunks(self) -> Iterator[_Chunk]:
        with self.lines() as lines:
            reader = csv.reader(lines, strict=True)
            self._some(reader, 1)
            first, before = 1, reader.line_num
            while rows := self._some(reader, CHUNK_ROWS):
                line = partial(_line_of, rows, before)
                if set(map(len, rows)) != {len(self.names)}:
                    counts = list(map(len, rows))
                    index = next(i for i, n in enumerate(counts) if n != len(self.names))
                    expected = f"{counts[index]} cells where {len(self.names)} are expected"
                    raise self.bad(line(index), expected)
                columns = dict(zip(self.names, zip(*rows, strict=True), strict=True))
                yield _TextChunk(self, first, len(rows), columns.__getitem__, line)
                first, before = first + len(rows), reader.line_num

    def _some(self, reader: Any, count: int) -> list[list[str]]:
        try:
            return list(islice(reader, count))
        except csv.Error as error:
            raise self.bad(reader.line_num, f"not CSV: {one_line(str(error))}") from None

    @staticmethod
    def array(values: Sequence[Any], kind: Any) -> Any:
        if kind == pa.string():
            return pa.array([_unguarded(cell) or None for cell in values], kind)
        if kind == pa.binary():
            decoded = [base64.b64decode(cell, validate=True) if cell else None for cell in values]
            return pa.array(decoded, kind)
        return pa.array([cell or None for cell in values], pa.string()).cast(kind)

    @staticmethod
    def carried_values(values: Sequence[Any]) -> list[Any]:
        return [_unguarded(cell) or None for cell in values]


class _Jsonl(_Text):
    def __init__(self, path: str) -> None:
        super().__init__(path)
        with self.lines() as lines:
            self.names = tuple(next((self._object(1, line) for line in lines), ()))

    def chunks(self) -> Iterator[_Chunk]:
        names = set(self.names)
        first = 1
        with self.lines() as lines:
            while some := list(islice(lines, CHUNK_ROWS)):
                rows = [self._object(number, line) for number, line in enumerate(some, first)]
                for number, row in enumerate(rows, first):
                    if row.keys() != names:
                        other = one_line(sorted(row.keys() ^ names)[0], 60)
                        reason = f"not the columns of the first line: {other!r} differs"
                        raise self.bad(number, reason)
                column = partial(_column_of, rows)
                yield _TextChunk(self, first, len(rows), column, partial(add, first))
                first += len(rows)

    def _object(self, number: int, line: str) -> dict[str, Any]:
        try:
            return json_object(line)
        except ValueError as error:
            raise self.bad(number, str(error)) from None

    @staticmethod
    def array(values: Sequence[Any], kind: Any) -> Any:
        if kind == pa.binary():
            return pa.array(
                [None if v is None else base64.b64decode(v, validate=True) for v in values], kind
            )
        if _TAKEN_AMISS.get(str(kind)) in set(map(type, values)):
            raise TypeError
        try:
            return pa.array(values, kind)
        except UnicodeEncodeError:  # half a surrogate pair, which JSON can hold
            return pa.array([None if v is None else _clean(v) for v in values], kind)

    @staticmethod
    def carried_values(values: Sequence[Any]) -> list[Any]:
        return list(values)

    def carried_column(self, name: str, pieces: Sequence[Any]) -> Any:
        """See `_File`. Not Arrow's own guess alone: it makes text of what is bytes, and fails."""
        values = [value for piece in pieces for value in piece]
        try:
            return pa.array(values)
        except _REFUSED:
            return pa.array(
                [
                    None
                    if value is None
                    else _clean(value if isinstance(value, str) else json.dumps(value))
                    for value in values
                ],
                pa.string(),
            )


def _line_of(rows: Sequence[Sequence[str]], before: int, index: int) -> int:
    """The last line of a CSV row, where `before` is the one before the first row."""
    within = sum(cell.count("\n") for row in rows[: index + 1] for cell in row)
    return before + index + 1 + within


def json_object(line: str) -> dict[str, Any]:
    """The object in a line of JSON. Raises ValueError with a message for users.

    One that is nested deeper than MAX_NESTING, or has two values for a name, is not taken either.
    """
    if line.count("[") + line.count("{") > MAX_NESTING and _nesting(line) > MAX_NESTING:
        raise ValueError(f"not JSON that can be read: nested over {MAX_NESTING} levels deep")
    try:
        value = json.loads(line, object_pairs_hook=_object_of)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON that can be read: {one_line(str(error))}") from None
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value


def _nesting(line: str) -> int:
    """How many lists and objects of a line of JSON lie within each other at the most."""
    deepest = depth = 0
    for found in _BRACKET_OR_STRING.finditer(line):
        if found[0] in ("[", "{"):
            depth += 1
            deepest = max(deepest, depth)
        elif found[0] in ("]", "}"):
            depth -= 1
    return deepest


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = first_repeated(name for name, _ in pairs) or ""
        raise ValueError(f"two values for {one_line(twice, 60)!r}")
    return made


def _column_of(rows: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in rows]


def _unguarded(cell: str) -> str:
    """A CSV cell without the `'` that the writer put before what would run as a formula."""
    return cell[1:] if cell[:1] == "'" and cell[1:].startswith(FORMULA_STARTS) else cell


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _facts_beside(path: str) -> dict[str, str]:
    beside = metadata_path(path)
    try:
        with open(beside, "rb") as file:
            data = file.read(MAX_FACTS_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _unreadable(beside, error) from None
    try:
        facts = json.loads(data) if len(data) <= MAX_FACTS_BYTES else None
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        raise InputError(f"{_shown(beside)} holds no audit facts: it is not a JSON object")
    return {
        _clean(key): _clean(value if isinstance(value, str) else json.dumps(value))
        for key, value in facts.items()
    }


# Parquet ----------------------------------------------------------------------------------------


class _ParquetChunk(_Chunk):
    """A row group, whose columns are read when they are asked for."""

    def __init__(
        self, file: _Parquet, reader: ParquetReader, group: int, first: int, count: int
    ) -> None:
        super().__init__(file.names, first, count)
        self._file, self._reader, self._group = file, reader, group

    def columns(self, names: Sequence[str]) -> list[Any]:
        there = [name for name in names if name in self._file.names]
        read = self._read(there)
        found = {name: self._typed(name, read.column(name)) for name in there}
        return [
            found[name] if name in found else pa.nulls(self.count, _own_type(name))
            for name in names
        ]

    def carried(self, name: str) -> Any:
        try:
            column = _whole(self._read([name]).column(name))
        except (pa.ArrowException, UnicodeDecodeError) as error:
            reason = one_line(str(error))
            where = _shown(self._file.path)
            raise InputError(f"{where} is not readable Parquet: {reason}") from None
        return self._valid(name, column)

    def bad(self, index: int, reason: str) -> InputError:
        return InputError(f"row {self.first + index} of {_shown(self._file.path)}: {reason}")

    def _valid(self, name: str, array: Any) -> Any:
        """The array; raises InputError where its bytes are not what its type promises."""
        try:
            array.validate(full=True)
        except pa.ArrowException as error:
            said = one_line(name, 60)
            wrong = _first_that_fails(array, lambda part: part.validate(full=True))
            raise self.bad(wrong, f"{said}: {one_line(str(error), 100)}") from None
        return array

    def _read(self, names: Sequence[str]) -> Any:
        """Columns of the row group as an Arrow table. Raises InputError."""
        batches = []
        size = 0
        for batch in self._reader.batches(names, groups=[self._group]):
            size += batch.nbytes
            if size > MAX_GROUP_BYTES:
                raise InputError(
                    f"row group {self._group} of {_shown(self._file.path)} holds more than "
                    f"{MAX_GROUP_BYTES >> 20} MiB; no run writes that"
                )
            batches.append(batch)
        self._file.spend(size)
        if names and sum(batch.num_rows for batch in batches) != self.count:
            raise InputError(
                f"{_shown(self._file.path)} is damaged: row group {self._group} lacks rows"
            )
        return self._file.restored(batches, names)

    def _typed(self, name: str, column: Any) -> Any:
        try:
            array = _whole(column.cast(_own_type(name)))
        except _REFUSED:
            raise InputError(
                f"{_shown(self._file.path)}: column {name} is {one_line(str(column.type), 60)}, "
                f"not {_kind(name)}"
            ) from None
        self._valid(name, array)
        if (wrong := _first_wrong(name, array)) is not None:
            raise self.bad(wrong, _wrong(name, array[wrong].as_py()))
        return array


class _Parquet(_File):
    def __init__(self, path: str) -> None:
        super().__init__(path)
        with open_parquet(os.fsencode(path)) as reader:
            self.schema = reader.schema
            self._metadata = {**(reader.schema.metadata or {}), **reader.metadata}
            self._file_bytes = os.stat(path).st_size
        self._spent = 0
        self.names = tuple(self.schema.names)

    def facts(self) -> dict[str, str]:
        # What was added at the end stands in the file's metadata alone, and wins.
        facts = {
            key.decode("utf-8", "backslashreplace"): value.decode("utf-8", "backslashreplace")
            for key, value in self._metadata.items()
        }
        return {key: value for key, value in facts.items() if key not in _NOT_FACTS}

    def chunks(self) -> Iterator[_Chunk]:
        first = 1
        self._spent = 0
        with open_parquet(os.fsencode(self.path)) as reader:
            if reader.schema != self.schema:
                raise InputError(f"{_shown(self.path)} changed while it was read")
            for group, count in enumerate(reader.group_rows):
                yield _ParquetChunk(self, reader, group, first, count)
                first += count

    def spend(self, size: int) -> None:
        """Count what a pass has read. Raises InputError where that is out of all proportion."""
        self._spent += size
        if self._spent > max(MAX_GROUP_BYTES, MAX_RATIO * self._file_bytes):
            raise InputError(
                f"{_shown(self.path)} has {self._file_bytes} bytes and holds more than {MAX_RATIO} "
                "times as much; no run writes that"
            )

    def restored(self, batches: Sequence[Any], names: Sequence[str]) -> Any:
        """The table of these columns, with dictionaries where the file has them."""
        kinds = {name: self.schema.field(name).type for name in names}
        if not batches:
            return pa.schema(kinds.items()).empty_table()
        table = pa.Table.from_batches(batches)
        for at, (name, kind) in enumerate(kinds.items()):
            if pa.types.is_dictionary(kind):
                try:
                    encoded = table[name].dictionary_encode().cast(kind)
                except _REFUSED as error:
                    reason = one_line(str(error))
                    raise InputError(f"{_shown(self.path)}: column {name}: {reason}") from None
                table = table.set_column(at, name, encoded)
        return table

    def carried_column(self, name: str, pieces: Sequence[Any]) -> Any:
        """See `_File`."""
        return pa.chunked_array(pieces, self.schema.field(name).type)


# What all have in common -------------------------------------------------------------------------


def _check_columns(path: str, names: Sequence[str]) -> None:
    if missing := [name for name in _REQUIRED if name not in names]:
        raise InputError(
            f"{_shown(path)} is no results file of this tool: it has no column {missing[0]}"
        )
    if (twice := first_repeated(names)) is not None:
        raise InputError(f"{_shown(path)} has two columns {one_line(twice, 60)!r}")


def contradiction(columns: Mapping[str, Any], names: Collection[str]) -> tuple[int, str] | None:
    """The first row whose status, decision, error code and scores contradict each other, and why.

    columns are arrays of _TOGETHER, names those that the file has. A row whose status is not ok is
    never approved and has no score, one without a score is never approved, and one that is ok has
    no error: a file that says otherwise was changed, or was not written by this tool.
    """
    failed = pc.equal(columns["status"], Status.ERROR.value)
    approved = pc.equal(columns["decision"], Decision.APPROVE.value)
    coded = columns["error_code"].is_valid()
    scored = {name: columns[name].is_valid() for name in _SCORES}
    any_score = reduce(pc.or_, scored.values())
    rules = [
        (pc.and_(pc.invert(failed), coded), "status is ok, but error_code is not empty"),
        (pc.and_(failed, approved), "status is error, but decision is approve"),
        *((pc.and_(failed, mask), f"status is error, but {name} has a score")
          for name, mask in scored.items()),
    ]  # fmt: skip
    if all(name in names for name in _SCORES):
        unscored = pc.and_(approved, pc.invert(any_score))
        rules.append((unscored, "decision is approve, but no category has a score"))
    found = [(pc.index(mask, True).as_py(), reason) for mask, reason in rules]
    wrong = [(index, reason) for index, reason in found if index >= 0]
    return min(wrong, key=itemgetter(0), default=None)


def _first_that_fails(array: Any, check: Callable[[Any], Any]) -> int:
    """The index of the first value of an array that a check refuses."""
    low, high = 0, len(array)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            check(array[low:middle])
            low = middle
        except pa.ArrowException:
            high = middle
    return low


def _is_own(name: str) -> bool:
    return name in _OWN or name.startswith(LABEL_PREFIX)


def _own_type(name: str) -> Any:
    """The Arrow type of a column of ours."""
    return _OWN[name] if name in _OWN else pa.float32()


def _is_score(name: str) -> bool:
    return name in _SCORES or name.startswith(LABEL_PREFIX)


def _first_wrong(name: str, array: Any) -> int | None:
    """The index of the first value that a column of ours cannot have."""
    if name in _ALLOWED:
        good = pc.is_in(array, pa.array(_ALLOWED[name], pa.string()))
    elif name == "path":
        good = array.is_valid()
    elif _is_score(name):  # NaN is neither above nor below anything
        inside = pc.and_(pc.greater_equal(array, 0.0), pc.less_equal(array, 1.0))
        good = pc.fill_null(inside, True)
    elif name == "warnings":
        few = pc.less(pc.count_substring(array, "; "), MAX_WARNINGS)
        good = pc.fill_null(few, True)
    else:
        return None
    index: int = pc.index(good, False).as_py()
    return None if index < 0 else index


def _wrong(name: str, value: Any) -> str:
    if value is None:
        return f"{name} is missing"
    if _is_score(name):
        return f"{name}: {value} is no score from 0 to 1"
    if name == "warnings":
        return f"{name}: more than {MAX_WARNINGS} in one row"
    return f"{name}: {one_line(str(value), 40)!r} is none of {', '.join(_ALLOWED[name])}"


def _kind(name: str) -> str:
    kinds = {"float": "number", "int64": "whole number", "bool": "true or false"}
    return kinds.get(str(_own_type(name)), "base64" if _own_type(name) == pa.binary() else "text")


def _whole(column: Any) -> Any:
    """A chunked array as one array."""
    made = column.combine_chunks()
    return pa.concat_arrays(made.chunks) if isinstance(made, pa.ChunkedArray) else made


def _taken(values: Any, indices: Sequence[int]) -> Any:
    if isinstance(indices, range):
        return values[indices.start : indices.stop]
    if isinstance(values, list):
        return [values[index] for index in indices]
    try:
        return values.take(pa.array(indices, pa.int64()))
    except pa.ArrowNotImplementedError:  # of some types, such as string_view
        return [python_value(values[index]) for index in indices]


def _shown(path: str) -> str:
    return printable(os.fsencode(path).decode("utf-8", "backslashreplace"))


def _unreadable(path: str, error: OSError | ValueError) -> InputError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return InputError(f"cannot read {_shown(path)}: {reason}")
