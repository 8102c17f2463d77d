"""Rows by columns into the writers of rows: the same bytes, many times as fast."""

from __future__ import annotations

import json
from collections.abc import Sequence
from json.encoder import encode_basestring
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moderate.arrow import python_values
from moderate.errors import OutputError
from moderate.results.atomic import output_error
from moderate.results.interface import ResultWriter
from moderate.results.parquet_writer import ROW_GROUP_ROWS, ParquetResultWriter, arrow_schema
from moderate.results.remote import shown_target
from moderate.results.schema import in_order, shortest
from moderate.results.text_writers import (
    CsvWriter,
    JsonlWriter,
    _base64,
    _carried_csv,
    _carried_json,
    _no_formula,
    _quoted,
    _TextWriter,
)
from moderate.tables.csv import FORMULA_STARTS
from moderate.text import one_line
from moderate.types import Column

Cells = Any
"""A column's values: an Arrow array, or a list of what Python has for them."""

_MOST_BYTES = 1 << 28
"""Of a batch that is made text at once: an Arrow array of text holds less than 2 GiB."""

_FREE_TEXT = frozenset({pa.string(), pa.binary()})
_CARRIED_TYPES = _FREE_TEXT | {pa.bool_(), pa.int64()}
_OWN_TYPES = _CARRIED_TYPES | {pa.float32()}
"""Types whose values are made text by columns; carried floats have all digits of a float64."""

_FIRSTS = np.zeros(256, bool)
_FIRSTS[[start.encode()[0] for start in FORMULA_STARTS]] = True
_QUOTED = np.zeros(256, bool)
_QUOTED[list(b'",\r\n')] = True
_ESCAPED = np.zeros(256, bool)
_ESCAPED[[*range(32), *b'"\\']] = True


class ColumnsWriter:
    """Columns into a `ResultWriter`, which is started and committed here and takes no rows."""

    def __init__(self, writer: ResultWriter) -> None:
        assert isinstance(writer, (CsvWriter, JsonlWriter, ParquetResultWriter))
        self._inner = writer
        self._schema = arrow_schema()
        self._held: list[Any] = []
        self._count = 0

    def start(
        self, audit: dict[str, str], carried: Sequence[Column], labels: Sequence[str] = ()
    ) -> None:
        """See `ResultWriter`."""
        self._schema = arrow_schema(carried, labels)
        self._inner.start(audit, carried, labels)

    def write(self, own: Sequence[Any], carried: Sequence[Cells]) -> None:
        """Some rows: an Arrow array for each of our own columns, cells for each carried one.

        Raises OutputError.
        """
        if not len(own[0]):
            return
        if isinstance(self._inner, ParquetResultWriter):
            self._hold(in_order(own, carried))
        elif len(own[0]) > 1 and _bytes(own, carried) > _MOST_BYTES:
            half = len(own[0]) // 2
            for part in (slice(None, half), slice(half, None)):
                self.write([cells[part] for cells in own], [cells[part] for cells in carried])
        else:
            _put_lines(self._inner, own, carried)

    def commit(self, facts: dict[str, str]) -> dict[str, str]:
        """See `ResultWriter`."""
        self._flush(1)
        return self._inner.commit(facts)

    def _hold(self, columns: Sequence[Cells]) -> None:
        """Row groups are as large as a scan's, however few rows come at a time."""
        try:
            arrays = [
                cells if isinstance(cells, pa.Array) else _typed(cells, field.type)
                for cells, field in zip(columns, self._schema, strict=True)
            ]
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise self._refused(error) from error
        self._held.append(pa.Table.from_arrays(arrays, schema=self._schema))
        self._count += len(arrays[0])
        self._flush(ROW_GROUP_ROWS)

    def _flush(self, least: int) -> None:
        if self._count < least:
            return
        assert isinstance(self._inner, ParquetResultWriter)
        assert self._inner._writer is not None
        table = pa.concat_tables(self._held)
        now = self._count if least == 1 else self._count - self._count % ROW_GROUP_ROWS
        try:
            writer = self._inner._writer
            some = table.slice(0, now).replace_schema_metadata(writer.schema.metadata)
            writer.write_table(some, row_group_size=ROW_GROUP_ROWS)
        except OSError as error:
            raise output_error(self._inner._target, error) from error
        except pa.ArrowException as error:
            raise self._refused(error) from error
        self._held = [table.slice(now)] if now < self._count else []
        self._count -= now

    def _refused(self, error: Exception) -> OutputError:
        assert isinstance(self._inner, ParquetResultWriter)
        return OutputError(
            f"cannot write {shown_target(self._inner._target)}: {one_line(str(error))}"
        )


def _typed(values: list[Any], kind: Any) -> Any:
    """Python's values as an Arrow array; as text, what is none is JSON."""
    if kind != pa.string():
        return pa.array(values, kind)
    return _text_array(
        [
            value if value is None or isinstance(value, str) else json.dumps(value)
            for value in values
        ]
    )


def _bytes(own: Sequence[Any], carried: Sequence[Cells]) -> int:
    # Of lists, what is in them is not known: as if each value were long.
    known: int = sum(cells.nbytes for cells in (*own, *carried) if isinstance(cells, pa.Array))
    return known + sum(len(cells) << 8 for cells in carried if not isinstance(cells, pa.Array))


def _put_lines(writer: _TextWriter, own: Sequence[Any], carried: Sequence[Cells]) -> None:
    if isinstance(writer, CsvWriter):
        theirs = [_csv(cells, _CARRIED_TYPES) for cells in carried]
        made = in_order([_csv(cells, _OWN_TYPES) for cells in own], theirs)
        lines = pc.binary_join_element_wise(*made, ",")
        lines = pc.binary_join_element_wise(lines, "", "\n")
    else:
        assert isinstance(writer, JsonlWriter)
        theirs = [_json(cells, _CARRIED_TYPES) for cells in carried]
        made = in_order([_json(cells, _OWN_TYPES) for cells in own], theirs)
        keys = [("{" if not number else ", ") + key for number, key in enumerate(writer._keys)]
        parts = [part for pair in zip(keys, made, strict=True) for part in pair]
        lines = pc.binary_join_element_wise(*parts, "}\n", "")
    writer._put(_data(lines).tobytes().decode())


def _csv(cells: Cells, types: frozenset[Any]) -> Any:
    """Values as CSV cells; those of other types than these one by one."""
    if not (isinstance(cells, pa.Array) and cells.type in types):
        texts = [None if v is None else _carried_csv(v) for v in python_values(cells)]
        return _csv_cells(_text_array(texts))
    texts = _plain_texts(cells)
    return _csv_cells(_guarded(texts) if cells.type in _FREE_TEXT else texts)


def _json(cells: Cells, types: frozenset[Any]) -> Any:
    """Values as JSON; those of other types than these one by one."""
    if not (isinstance(cells, pa.Array) and cells.type in types):
        return _text_array([_carried_json(v) for v in python_values(cells)])
    texts = _plain_texts(cells)
    if cells.type in _FREE_TEXT:
        quoted = pc.binary_join_element_wise('"', texts, '"', "")
        if _ESCAPED[_data(texts)].any():
            quoted = _changed(texts, quoted, r'[\x00-\x1f"\\]', encode_basestring)
        texts = quoted
    return texts.fill_null("null")


def _plain_texts(cells: Any) -> Any:
    """Values as text, not yet quoted; null stays null."""
    if cells.type == pa.binary():
        if cells.null_count == len(cells):
            return pa.nulls(len(cells), pa.string())
        texts = [None if value is None else _base64(value) for value in cells.to_pylist()]
        return pa.array(texts, pa.string())
    return _float_texts(cells) if cells.type == pa.float32() else cells.cast(pa.string())


def _float_texts(cells: Any) -> Any:
    """`shortest` of a float32 column. Arrow gives the same digits, but `1` and `0.00001`."""
    values = cells.fill_null(0.5).to_numpy(zero_copy_only=False)
    texts = cells.cast(pa.string())
    other = (values == np.trunc(values)) | (np.abs(values) < 1e-4) | (np.abs(values) >= 1e6)
    if other.any():
        changed = [shortest(value) for value in values[other].tolist()]
        texts = pc.replace_with_mask(texts, pa.array(other), pa.array(changed, pa.string()))
    return texts


def _guarded(texts: Any) -> Any:
    """Texts of which none starts a formula."""
    starts, data = _starts(texts), _data_buffer(texts)
    if not len(data) or not _FIRSTS[data[np.minimum(starts, len(data) - 1)]].any():
        return texts
    return _changed(texts, texts, "^(" + "|".join(map(_literal, FORMULA_STARTS)) + ")", _no_formula)


def _literal(text: str) -> str:
    return "".join(f"\\x{{{ord(char):x}}}" for char in text)


def _csv_cells(texts: Any) -> Any:
    """Texts quoted where they need it, empty for null."""
    if _QUOTED[_data(texts)].any():
        # With a second, empty cell: a comma and the line end are taken off again.
        texts = _changed(texts, texts, '[",\r\n]', lambda text: _quoted([text, ""])[:-2])
    return texts.fill_null("")


def _changed(texts: Any, otherwise: Any, pattern: str, change: Any) -> Any:
    """`otherwise`, and where a text matches, what `change` makes of it."""
    mask = pc.match_substring_regex(texts, pattern).fill_null(False)
    values = texts.filter(mask).to_pylist()
    return pc.replace_with_mask(otherwise, mask, pa.array(list(map(change, values)), pa.string()))


def _text_array(texts: list[str | None]) -> Any:
    try:
        return pa.array(texts, pa.string())
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can hold
        return pa.array(
            [t and t.encode("utf-8", "backslashreplace").decode() for t in texts], pa.string()
        )


def _starts(texts: Any) -> NDArray[np.int32]:
    offsets = np.frombuffer(texts.buffers()[1], np.int32)
    return offsets[texts.offset : texts.offset + len(texts)]


def _data_buffer(texts: Any) -> NDArray[np.uint8]:
    data = texts.buffers()[2]
    return np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)


def _data(texts: Any) -> NDArray[np.uint8]:
    """The bytes of all texts of an array, one after another."""
    if not len(texts):
        return np.zeros(0, np.uint8)
    offsets = np.frombuffer(texts.buffers()[1], np.int32)
    first, end = offsets[texts.offset], offsets[texts.offset + len(texts)]
    return _data_buffer(texts)[first:end]
