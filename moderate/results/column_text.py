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

    carried_texts = [to_text(cells, _CARRIED_TYPES) for cells in carried]
    columns = in_order(_own_texts(own, to_text, ""), carried_texts)
    lines = pc.binary_join_element_wise(*_constants_joined(columns, ","), ",")
    return _data(pc.binary_join_element_wise(lines, "", "\n")).tobytes()


def json_lines(keys: Sequence[str], own: Sequence[Any], carried: Sequence[Cells]) -> bytes:
    """Lines of JSON, see `csv_lines`; keys are those of all columns, made JSON, with `: `."""
    carried_texts = [_json(cells, _CARRIED_TYPES) for cells in carried]
    columns = in_order(_own_texts(own, _json, "null"), carried_texts)
    parts = []
    for number, (key, cells) in enumerate(zip(keys, columns, strict=True)):
        parts += [pa.scalar(("{" if not number else ", ") + key), cells]
    parts = _constants_joined([*parts, pa.scalar("}\n")], "")
    return _data(pc.binary_join_element_wise(*parts, "")).tobytes()


def byte_count(own: Sequence[Any], carried: Sequence[Cells]) -> int:
    """About how many bytes the values have; of lists, as if each of them were long."""
    known: int = sum(cells.nbytes for cells in (*own, *carried) if isinstance(cells, pa.Array))
    return known + sum(len(cells) << 8 for cells in carried if not isinstance(cells, pa.Array))


def _own_texts(
    own: Sequence[Any], to_text: Callable[[Cells, frozenset[Any]], Any], null: str
) -> list[Any]:
    """The text of each column of ours.

    One that is the same in every row, such as a run's id, is a scalar, which Arrow joins to every
    line. The first is an array in any case.
    """
    floats = _texts_of_floats(own)
    texts: list[Any] = []
    for place, cells in enumerate(own):
        if place == 0:
            texts.append(to_text(cells, _OWN_TYPES))
        elif place in floats:
            texts.append(floats[place].fill_null(null))
        elif cells.null_count == len(cells):
            texts.append(pa.scalar(null))
        elif _is_constant(cells):
            texts.append(to_text(cells[:1], _OWN_TYPES)[0])
        else:
            texts.append(to_text(cells, _OWN_TYPES))
    return texts


def _texts_of_floats(own: Sequence[Any]) -> dict[int, Any]:
    """The text of the columns of floats, by their places; not of those that are null throughout.

    All are made text at once, because each step costs more than the rows of a batch do.
    """
    count = len(own[0])
    places = [
        place
        for place, cells in enumerate(own)
        if cells.type == pa.float32() and cells.null_count < count
    ]
    if not places:
        return {}
    texts = _float_texts(pa.concat_arrays([own[place] for place in places]))
    return {place: texts.slice(n * count, count) for n, place in enumerate(places)}


def _constants_joined(columns: Sequence[Any], separator: str) -> list[Any]:
    """The cells of lines, with those of neighbouring columns that are scalars made one."""
    joined: list[Any] = []
    for cells in columns:
        if joined and isinstance(cells, pa.Scalar) and isinstance(joined[-1], pa.Scalar):
            joined[-1] = pa.scalar(f"{joined[-1].as_py()}{separator}{cells.as_py()}")
        else:
            joined.append(cells)
    return joined


def _is_constant(cells: Any) -> bool:
    if len(cells) == 1 or cells.type != pa.string() or cells.null_count:
        return False
    return bool(pc.all(pc.equal(cells, cells[0])).as_py())


def _csv(cells: Cells, types: frozenset[Any], *, raw: bool) -> Any:
    """Values as CSV cells; those of other types than these one by one."""
    if not (isinstance(cells, pa.Array) and cells.type in types):
        text = carried_text if raw else carried_csv
        texts = [None if v is None else text(v) for v in python_values(cells)]
        return _csv_cells(text_array(texts))
    texts = _plain_texts(cells)
    if cells.type not in _FREE_TEXT:
        return texts.fill_null("")
    return _csv_cells(texts if raw else _guarded(texts))


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
    sizes = np.abs(values)
    small = (values < 1e-4) & (values > 0)
    if small.any():
        mask = pa.array(small)
        texts = pc.replace_with_mask(texts, mask, _small_in_python(texts.filter(mask)))
    other = (values == np.trunc(values)) | (sizes >= 1e6) | ((sizes < 1e-4) & ~small)
    if other.any():
        # So few digits come back from a float64 as they are, in Python's notation.
        mask = pa.array(other)
        found = texts.filter(mask).dictionary_encode()
        changed = pa.array(
            [repr(float(text)) for text in found.dictionary.to_pylist()], pa.string()
        )
        texts = pc.replace_with_mask(texts, mask, changed.take(found.indices))
    return texts


def _small_in_python(texts: Any) -> Any:
    """Numbers over 0 and below 0.0001 as Python writes them: `1.2e-05` for `0.000012`.

    A model is that sure of most of what it does not see, so that one by one takes too long.
    """
    for digit in "789":  # two digits and more are as they should be
        texts = pc.replace_substring(texts, f"e-{digit}", f"e-0{digit}")
    decimal = pc.starts_with(texts, "0.0")
    if not pc.any(decimal).as_py():
        return texts
    found = texts.filter(decimal)
    digits = pc.ascii_ltrim(found, "0.")
    # Of `0.000012`: it has as many zeros as its exponent says, one of them before the point.
    zeros = pc.subtract(pc.subtract(pc.binary_length(found), pc.binary_length(digits)), 1)
    changed = pc.binary_join_element_wise(
        pc.utf8_slice_codeunits(digits, 0, 1),
        ".",
        pc.utf8_slice_codeunits(digits, 1),
        "e-0",
        zeros.cast(pa.string()),
        "",
    )
    return pc.replace_with_mask(texts, decimal, pc.replace_substring(changed, ".e", "e"))


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
