"""Results in Parquet, read back by row groups and columns."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import pyarrow as pa

from moderate.errors import InputError
from moderate.results.folders import PART
from moderate.results.pages import PAGES, pages_digest
from moderate.results.parquet_writer import DESCRIPTIONS
from moderate.results.read_format import (
    CONVERSION_ERRORS,
    Chunk,
    ResultsFile,
    first_invalid,
    invalid_reason,
    own_type,
    type_name,
)
from moderate.tables.lines import file_name
from moderate.tables.parquet import ParquetReader, open_parquet
from moderate.text import one_line

MAX_GROUP_BYTES = 1 << 30
"""Most bytes that the requested columns of a row group hold; ours have some MiB."""

MAX_RATIO = 1000
"""How many times its size a file may hold, once that is over MAX_GROUP_BYTES."""

_NOT_FACTS = ("ARROW:schema", "pandas", PAGES, DESCRIPTIONS, PART)
"""Metadata of libraries, and what is true of one file alone."""


class _ParquetChunk(Chunk):
    """A row group, whose columns are read when they are asked for."""

    def __init__(
        self, file: ParquetResults, reader: ParquetReader, group: int, first: int, count: int
    ) -> None:
        super().__init__(file.names, first, count)
        self._file, self._reader, self._group = file, reader, group

    def columns(self, names: Sequence[str]) -> list[Any]:
        """See `Chunk`."""
        present = [name for name in names if name in self._file.names]
        table = self._read(present)
        arrays = {name: self._typed(name, table.column(name)) for name in present}
        return [
            arrays[name] if name in arrays else pa.nulls(self.count, own_type(name))
            for name in names
        ]

    def carried(self, name: str) -> Any:
        """See `Chunk`."""
        try:
            column = _one_array(self._read([name]).column(name))
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise InputError(
                f"{file_name(self._file.path)} is not readable Parquet: {one_line(str(error))}"
            ) from None
        return self._valid(name, column)

    def error(self, index: int, reason: str) -> InputError:
        """See `Chunk`."""
        return InputError(f"row {self.first + index} of {file_name(self._file.path)}: {reason}")

    def _valid(self, name: str, array: Any) -> Any:
        """The array. Raises InputError where its bytes are not what its type promises."""
        try:
            array.validate(full=True)
        except pa.ArrowException as error:
            invalid = _first_that_fails(array, lambda part: part.validate(full=True))
            reason = f"{one_line(name, 60)}: {one_line(str(error), 100)}"
            raise self.error(invalid, reason) from None
        return array

    def _read(self, names: Sequence[str]) -> Any:
        """Columns of the row group as an Arrow table. Raises InputError."""
        batches = []
        size = 0
        for batch in self._reader.batches(names, groups=[self._group]):
            size += batch.nbytes
            if size > MAX_GROUP_BYTES:
                raise InputError(
                    f"row group {self._group} of {file_name(self._file.path)} holds more than "
                    f"{MAX_GROUP_BYTES >> 20} MiB; no run writes that"
                )
            batches.append(batch)
        self._file.spend(size)
        if names and sum(batch.num_rows for batch in batches) != self.count:
            raise InputError(
                f"{file_name(self._file.path)} is damaged: row group {self._group} lacks rows"
            )
        return self._file.restored(batches, names)

    def _typed(self, name: str, column: Any) -> Any:
        try:
            array = _one_array(column.cast(own_type(name)))
        except CONVERSION_ERRORS:
            raise InputError(
                f"{file_name(self._file.path)}: column {name} is {one_line(str(column.type), 60)}, "
                f"not {type_name(name)}"
            ) from None
        self._valid(name, array)
        if (invalid := first_invalid(name, array)) is not None:
            raise self.error(invalid, invalid_reason(name, array[invalid].as_py()))
        return array


class ParquetResults(ResultsFile):
    """Results in Parquet. schema is the Arrow schema of the file."""

    def __init__(self, path: str) -> None:
        with open_parquet(os.fsencode(path)) as reader:
            self._take(path, reader, os.stat(path).st_size)

    @classmethod
    def of_reader(cls, path: str, reader: ParquetReader, file_bytes: int) -> Self:
        """The results that a reader has open, which are a file of this path and size."""
        results = cls.__new__(cls)
        results._take(path, reader, file_bytes)
        return results

    def _take(self, path: str, reader: ParquetReader, file_bytes: int) -> None:
        super().__init__(path)
        self.schema = reader.schema
        self._metadata = {**(reader.schema.metadata or {}), **reader.metadata}
        self._file_bytes = file_bytes
        self._spent = 0
        self.names = tuple(self.schema.names)

    def facts(self) -> dict[str, str]:
        """See `ResultsFile`."""
        # Facts that were added at the end are in the file's metadata alone, and win.
        facts = {
            key.decode("utf-8", "backslashreplace"): value.decode("utf-8", "backslashreplace")
            for key, value in self._metadata.items()
        }
        return {key: value for key, value in facts.items() if key not in _NOT_FACTS}

    @property
    def is_as_written(self) -> bool:
        """Whether the pages are those that a run wrote. Reads the whole file."""
        recorded = self._metadata.get(PAGES.encode(), b"").decode("ascii", "replace")
        return bool(recorded) and pages_digest(self.path) == recorded

    def chunks(self) -> Iterator[Chunk]:
        """See `ResultsFile`."""
        self._spent = 0
        with open_parquet(os.fsencode(self.path)) as reader:
            if reader.schema != self.schema:
                raise InputError(f"{file_name(self.path)} changed while it was read")
            yield from self.chunks_of(reader)

    def chunks_of(self, reader: ParquetReader, first: int = 1) -> Iterator[Chunk]:
        """All rows by a reader that has the file open; first is the number of the first one."""
        for group, count in enumerate(reader.group_rows):
            yield _ParquetChunk(self, reader, group, first, count)
            first += count

    def spend(self, size: int) -> None:
        """Count the bytes that a pass has read. Raises InputError where they are too many."""
        self._spent += size
        if self._spent > max(MAX_GROUP_BYTES, MAX_RATIO * self._file_bytes):
            raise InputError(
                f"{file_name(self.path)} has {self._file_bytes} bytes and holds more than "
                f"{MAX_RATIO} times as much; no run writes that"
            )

    def restored(self, batches: Sequence[Any], names: Sequence[str]) -> Any:
        """A table of these columns, with dictionaries where the file has them.

        The process that reads the file sends them decoded.
        """
        kinds = {name: self.schema.field(name).type for name in names}
        if not batches:
            return pa.schema(kinds.items()).empty_table()
        table = pa.Table.from_batches(batches)
        for index, (name, kind) in enumerate(kinds.items()):
            if pa.types.is_dictionary(kind):
                try:
                    encoded = table[name].dictionary_encode().cast(kind)
                except CONVERSION_ERRORS as error:
                    reason = one_line(str(error))
                    raise InputError(f"{file_name(self.path)}: column {name}: {reason}") from None
                table = table.set_column(index, name, encoded)
        return table

    def carried_column(self, name: str, pieces: Sequence[Any]) -> Any:
        """See `ResultsFile`."""
        return pa.chunked_array(pieces, self.schema.field(name).type)


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


def _one_array(column: Any) -> Any:
    """A chunked array as one array."""
    combined = column.combine_chunks()
    return pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined
