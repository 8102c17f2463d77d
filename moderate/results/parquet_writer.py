"""Parquet: row groups of bounded size, audit facts in the file's metadata."""

from __future__ import annotations

import contextlib
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from moderate.errors import OutputError
from moderate.results.atomic import open_whole, output_error
from moderate.results.column_text import Cells, text_array
from moderate.results.interface import ResultWriter
from moderate.results.pages import PAGES, HashedFile
from moderate.results.remote import shown_target
from moderate.results.schema import carried_values, in_order, own_columns, values
from moderate.text import one_line
from moderate.types import Column, Row

ROW_GROUP_ROWS = 20_000
"""Rows kept in memory before they are written as a row group (about 10 MB)."""

REFUSED = (pa.ArrowException, ValueError, TypeError, OverflowError)

_TYPES = {
    "string": pa.string(),
    "binary": pa.binary(),
    "bool": pa.bool_(),
    "int64": pa.int64(),
    "float32": pa.float32(),
}


DESCRIPTION = "description"
"""Key in the metadata of a field of the Arrow schema: what the column means."""

DESCRIPTIONS = "column_descriptions"
"""Key in a file's metadata: the same as a JSON object, for readers without Arrow's schema."""


def arrow_schema(carried: Sequence[Column] = (), labels: Sequence[str] = ()) -> pa.Schema:
    """The row schema in Arrow's types, with the columns that rows carry and those of labels.

    The metadata of each own column's field has its description.
    """
    own = [
        pa.field(column.name, _TYPES[column.type], metadata={DESCRIPTION: column.meaning})
        for column in own_columns(labels)
    ]
    return pa.schema(in_order(own, [pa.field(column.name, column.type) for column in carried]))


def file_schema(schema: pa.Schema, audit: Mapping[str, str]) -> pa.Schema:
    """`arrow_schema` with what the metadata of a file has."""
    described = {
        field.name: field.metadata[DESCRIPTION.encode()].decode()
        for field in schema
        if field.metadata
    }
    return schema.with_metadata({**audit, DESCRIPTIONS: json.dumps(described)})


def arrays_of(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> list[pa.Array]:
    """Rows of cells by columns, an array for each field of `schema`."""
    columns = zip(*rows, strict=True) if rows else ([] for _ in schema)
    return [_array(cells, field.type) for cells, field in zip(columns, schema, strict=True)]


class TableWriter(ResultWriter):
    """Takes rows, however they come, as Arrow tables."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._schema: pa.Schema
        self._rows: list[list[Any]] = []
        self._small: list[Any] = []  # tables that came before them, fewer rows than a row group has
        self._small_rows = 0
        self._carried: list[str] = []
        self._labels: Sequence[str] = ()

    def start(
        self, audit: dict[str, str], carried: Sequence[Column] = (), labels: Sequence[str] = ()
    ) -> None:
        """See `ResultWriter`."""
        self._carried = [column.name for column in carried]
        self._labels = labels
        self._schema = file_schema(arrow_schema(carried, labels), audit)
        self.begin(audit)

    @abstractmethod
    def begin(self, audit: dict[str, str]) -> None:
        """Begin, after the schema is known."""

    @abstractmethod
    def add(self, table: Any) -> None:
        """Write some rows. Raises OutputError."""

    def prepare(self, row: Row) -> list[Any]:
        """See `ResultWriter`."""
        cells = values(row, self._labels)
        if self._carried:
            cells = in_order(cells, carried_values(row, self._carried))
        return cells

    def put(self, prepared: list[Any]) -> None:
        """See `ResultWriter`."""
        self._rows.append(prepared)
        if self._small_rows + len(self._rows) >= ROW_GROUP_ROWS:
            self._take_rows()

    def write_columns(self, own: Sequence[Any], carried: Sequence[Cells]) -> None:
        """See `ResultWriter`."""
        if not len(own[0]):
            return
        columns = zip(in_order(own, carried), self._schema, strict=True)
        try:
            arrays = [_typed(cells, field.type) for cells, field in columns]
            self._gather(pa.Table.from_arrays(arrays, schema=self._schema))
        except REFUSED as error:
            raise self.refused(error) from error

    def _gather(self, table: Any) -> None:
        """Take a table, and write as many rows at once as where they come one by one."""
        self._rows_to_table()
        if self._small or table.num_rows < ROW_GROUP_ROWS:
            room = ROW_GROUP_ROWS - self._small_rows
            self._keep_small(table.slice(0, room))
            table = table.slice(room)
            if self._small_rows == ROW_GROUP_ROWS:
                self._take_rows()
        if table.num_rows >= ROW_GROUP_ROWS:
            self.add(table)
        elif table.num_rows:
            self._keep_small(table)

    def _keep_small(self, table: Any) -> None:
        self._small.append(table)
        self._small_rows += table.num_rows

    def _rows_to_table(self) -> None:
        if self._rows:
            arrays = arrays_of(self._rows, self._schema)
            self._rows.clear()
            self._keep_small(pa.Table.from_arrays(arrays, schema=self._schema))

    def _take_rows(self) -> None:
        """Write what has gathered."""
        self._rows_to_table()
        if self._small:
            # One chunk: where one ends, a page of a file may.
            table = pa.concat_tables(self._small).combine_chunks()
            self._small, self._small_rows = [], 0
            self.add(table)

    def refused(self, error: Exception) -> OutputError:
        """The line for rows that Arrow does not write."""
        return OutputError(f"cannot write {shown_target(self._target)}: {one_line(str(error))}")


class ParquetResultWriter(TableWriter):
    """Rows to a Parquet file, zstd-compressed."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self._atomic = open_whole(target)
        self._file: HashedFile
        self._writer: pq.ParquetWriter | None = None
        self._tables: list[Any] = []  # rows that wait for a row group to be full
        self._waiting = 0
        self._sealed = False

    def begin(self, audit: dict[str, str]) -> None:
        """See `TableWriter`."""
        self._file = HashedFile(self._atomic.file)
        self._writer = pq.ParquetWriter(self._file, self._schema, compression="zstd")

    def seal(self, facts: dict[str, str]) -> None:
        """See `ResultWriter`. The facts of `start` are in the schema too, all in the file's."""
        if self._sealed:
            return
        self._sealed = True
        assert self._writer is not None
        try:
            self._take_rows()
            self._write_groups(self._waiting)
            self._writer.add_key_value_metadata({**facts, PAGES: self._file.hexdigest()})
            self._writer.close()
        except OSError as error:
            self.discard()
            raise output_error(self._target, error) from error
        self._atomic.seal()

    def commit(self, facts: dict[str, str]) -> dict[str, str]:
        """See `ResultWriter`."""
        self.seal(facts)
        return {self._atomic.name: self._atomic.commit()}

    def discard(self) -> None:
        """See `ResultWriter`."""
        # An open writer would complain when it is collected.
        try:
            with contextlib.suppress(OSError, ValueError, MemoryError, pa.ArrowException):
                if self._writer:
                    self._writer.close()
        finally:
            self._atomic.discard()

    def add(self, table: Any) -> None:
        """See `TableWriter`. Row groups have one size, however many rows come at a time."""
        self._tables.append(table)
        self._waiting += table.num_rows
        self._write_groups(self._waiting - self._waiting % ROW_GROUP_ROWS)

    def _write_groups(self, count: int) -> None:
        """Write so many of the rows that wait."""
        if not count:
            return
        assert self._writer is not None
        table = pa.concat_tables(self._tables)
        try:
            self._writer.write_table(table.slice(0, count), row_group_size=ROW_GROUP_ROWS)
        except OSError as error:
            raise output_error(self._target, error) from error
        except pa.ArrowException as error:
            raise self.refused(error) from error
        self._waiting -= count
        self._tables = [table.slice(count)] if self._waiting else []


def _typed(cells: Cells, kind: pa.DataType) -> pa.Array:
    """Cells of a column as an Arrow array; where it holds text, what is none is made JSON."""
    if isinstance(cells, pa.Array):
        return cells
    if kind != pa.string():
        return pa.array(cells, kind)
    return text_array([v if v is None or isinstance(v, str) else json.dumps(v) for v in cells])


def _array(cells: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """The cells of a column; one that its type cannot hold is null and costs no other its place."""
    try:
        return pa.array(cells, kind)
    except REFUSED:
        return pa.concat_arrays([_one(cell, kind) for cell in cells])


def _one(cell: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(cell, str):  # half a surrogate pair, as CSV and JSONL have it
        cell = cell.encode("utf-8", "backslashreplace").decode()
    try:
        return pa.array([cell], kind)
    except REFUSED:
        return pa.nulls(1, kind)
