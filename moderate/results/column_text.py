"""Columns of rows as lines of CSV and JSON: the same bytes as row by row, many times as fast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from json.encoder import encode_basestring
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moderate.arrow import python_values
from moderate.results.cells import (
    base64_text,
    carried_csv,
    carried_json,
    carried_text,
    quoted,
)
from moderate.results.schema import in_order
from moderate.tables.csv import FORMULA_STARTS, guarded

Cells = Any
"""A column's values: an Arrow array, or a list of what Python has for them."""

MOST_BYTES = 1 << 28
"""Of a batch that is made text at once: an Arrow array of text holds less than 2 GiB."""

_FREE_TEXT = frozenset({pa.string(), pa.binary()})
_CARRIED_TYPES = _FREE_TEXT | {pa.bool_(), pa.int64()}
_OWN_TYPES = _CARRIED_TYPES | {pa.float32()}
"""Types whose values are made text by columns; carried floats have all digits of a float64."""

_FIRSTS = np.zeros(256, bool)
_FIRSTS[[start.encode()[0] for start in (*FORMULA_STARTS, "'")]] = True
_QUOTED = np.zeros(256, bool)
_QUOTED[list(b'",\r\n')] = True
_ESCAPED = np.zeros(256, bool)
_ESCAPED[[*range(32), *b'"\\']] = True


def csv_lines(own: Sequence[Any], carried: Sequence[Cells], *, raw: bool = False) -> bytes:
    """Lines of CSV: of an Arrow array for each of our own columns, and cells of carried ones.

    raw leaves out the guard against formulas.
    """

    def to_text(cells: Cells, types: frozenset[Any]) -> Any:
        return _csv(cells, types, raw=raw)

    first, *others = own
    carried_texts = [to_text(cells, _CARRIED_TYPES) for cells in carried]
    own_texts = [to_text(first, _OWN_TYPES), *(_once(to_text, cells) for cells in others)]
    lines = pc.binary_join_element_wise(*in_order(own_texts, carried_texts), ",")
    return _data(pc.binary_join_element_wise(lines, "", "\n")).tobytes()


def json_lines(keys: Sequence[str], own: Sequence[Any], carried: Sequence[Cells]) -> bytes:
    """Lines of JSON, see `csv_lines`; keys are those of all columns, made JSON, with `: `."""
    first, *others = own
    carried_texts = [_json(cells, _CARRIED_TYPES) for cells in carried]
    own_texts = [_json(first, _OWN_TYPES), *(_once(_json, cells) for cells in others)]
    columns = in_order(own_texts, carried_texts)
    before = [("{" if not number else ", ") + key for number, key in enumerate(keys)]
    parts = [part for pair in zip(before, columns, strict=True) for part in pair]
    return _data(pc.binary_join_element_wise(*parts, "}\n", "")).tobytes()


def byte_count(own: Sequence[Any], carried: Sequence[Cells]) -> int:
    """About how many bytes the values have; of lists, as if each of them were long."""
    known: int = sum(cells.nbytes for cells in (*own, *carried) if isinstance(cells, pa.Array))
    return known + sum(len(cells) << 8 for cells in carried if not isinstance(cells, pa.Array))


def _once(to_text: Callable[[Cells, frozenset[Any]], Any], cells: Any) -> Any:
    """The text of a column of ours; of one that is the same in every row, such as a run's id, once.

    The result is then a scalar, which Arrow joins to every line.
    """
    if len(cells) > 1 and cells.null_count == len(cells):
        return to_text(cells[:1], _OWN_TYPES)[0]
    may_be_constant = len(cells) > 1 and cells.type == pa.string() and not cells.null_count
    if may_be_constant and pc.all(pc.equal(cells, cells[0])).as_py():
        return to_text(cells[:1], _OWN_TYPES)[0]
    return to_text(cells, _OWN_TYPES)


def _csv(cells: Cells, types: frozenset[Any], *, raw: bool) -> Any:
    """Values as CSV cells; those of other types than these one by one."""
    if not (isinstance(cells, pa.Array) and cells.type in types):
        text = carried_text if raw else carried_csv
        texts = [None if v is None else text(v) for v in python_values(cells)]
        return _csv_cells(text_array(texts))
    texts = _plain_texts(cells)
    return _csv_cells(_guarded(texts) if cells.type in _FREE_TEXT and not raw else texts)


def _json(cells: Cells, types: frozenset[Any]) -> Any:
    """Values as JSON; those of other types than these one by one."""
    if not (isinstance(cells, pa.Array) and cells.type in types):
        return text_array([carried_json(v) for v in python_values(cells)])
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
        texts = [None if value is None else base64_text(value) for value in cells.to_pylist()]
        return pa.array(texts, pa.string())
    return _float_texts(cells) if cells.type == pa.float32() else cells.cast(pa.string())


def _float_texts(cells: Any) -> Any:
    """`shortest` of a float32 column. Arrow gives the same digits, but `1` and `0.00001`."""
    values = cells.fill_null(0.5).to_numpy(zero_copy_only=False)
    texts = cells.cast(pa.string())
    other = (values == np.trunc(values)) | (np.abs(values) < 1e-4) | (np.abs(values) >= 1e6)
    if other.any():
        # So few digits come back from a float64 as they are, in Python's notation.
        found = texts.filter(pa.array(other)).dictionary_encode()
        changed = pa.array(
            [repr(float(text)) for text in found.dictionary.to_pylist()], pa.string()
        )
        texts = pc.replace_with_mask(texts, pa.array(other), changed.take(found.indices))
    return texts


def _guarded(texts: Any) -> Any:
    """Texts of which none starts a formula."""
    starts, data = _starts(texts), _data_buffer(texts)
    if not len(data) or not _FIRSTS[data[np.minimum(starts, len(data) - 1)]].any():
        return texts
    return _changed(texts, texts, "^'*(" + "|".join(map(_literal, FORMULA_STARTS)) + ")", guarded)


def _literal(text: str) -> str:
    return "".join(f"\\x{{{ord(char):x}}}" for char in text)


def _csv_cells(texts: Any) -> Any:
    """Texts quoted where they need it, empty for null."""
    if _QUOTED[_data(texts)].any():
        # With a second, empty cell: a comma and the line end are taken off again.
        texts = _changed(texts, texts, '[",\r\n]', lambda text: quoted([text, ""])[:-2])
    return texts.fill_null("")


def _changed(texts: Any, otherwise: Any, pattern: str, change: Any) -> Any:
    """`otherwise`, and where a text matches, what `change` makes of it."""
    mask = pc.match_substring_regex(texts, pattern).fill_null(False)
    values = texts.filter(mask).to_pylist()
    return pc.replace_with_mask(otherwise, mask, pa.array(list(map(change, values)), pa.string()))


def text_array(texts: Sequence[str | None]) -> Any:
    """Texts as an Arrow array, with what is not UTF-8 as `\\xNN`."""
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
