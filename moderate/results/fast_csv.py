"""Columns of a CSV results file, several times as fast as by the reader that explains mistakes."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from moderate.results.read_format import (
    CONVERSION_ERRORS,
    contradiction,
    first_invalid,
    own_type,
    related,
)
from moderate.tables.csv import unguarded

_BLOCK_BYTES = 8 << 20
_GUARDED = "^'"
# A quote amid a cell. Ours double it, so the neighbor of one of them is another quote.
_STRAY_QUOTE = re.compile(rb'"(?<![,\r\n"]")[^",\r\n]')


class UnusualError(Exception):
    """The rows that follow need the reader that explains mistakes."""


def whole_parts(
    path: str, names: Sequence[str], own: Sequence[str], carried: Sequence[str], *, raw: bool
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Parts of the rows in order: Arrow arrays of our own columns, and text of carried ones.

    names are the columns of the file; raw says that it is without the guard against formulas.
    Raises UnusualError before the first part that has anything
    out of the ordinary, such as a wrong value or a field that Arrow parses in another way.
    """
    import pyarrow.csv as pcsv

    _check_quotes(path)

    places = {name: f"{number}" for number, name in enumerate(names)}
    needed = list(dict.fromkeys([*own, *related(names)]))
    wanted = dict.fromkeys(places[name] for name in (*needed, *carried) if name in places)
    try:
        reader = pcsv.open_csv(
            pa.OSFile(os.fsencode(path)),
            pcsv.ReadOptions(
                use_threads=False,
                block_size=_BLOCK_BYTES,
                column_names=list(places.values()),
                skip_rows_after_names=1,
            ),
            pcsv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            pcsv.ConvertOptions(
                column_types=dict.fromkeys(wanted, pa.string()),
                include_columns=list(wanted),
                null_values=[],
            ),
        )
        for batch in reader:
            cells = {name: batch.column(place) for name, place in places.items() if place in wanted}
            arrays = {
                name: _typed(name, cells.get(name), batch.num_rows, raw=raw) for name in needed
            }
            if contradiction(arrays, names) is not None:
                raise ValueError
            yield arrays, {name: _text(cells[name], raw=raw) for name in carried}
    except (*CONVERSION_ERRORS, OSError) as error:
        raise UnusualError from error


def _check_quotes(path: str) -> None:
    """Raises UnusualError for quotes that break the rules.

    Arrow takes the rest of the file, however many rows, for the cell of a quote that is not closed,
    and reads on in a cell after its closing quote.
    """
    count, end = 0, b""
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                count += block.count(b'"')
                if _STRAY_QUOTE.search(end + block):
                    raise UnusualError
                end = (end + block)[-2:]
    except OSError as error:
        raise UnusualError from error
    if count % 2:
        raise UnusualError


def _typed(name: str, cells: Any, count: int, *, raw: bool) -> Any:
    """One of our own columns. Raises one of CONVERSION_ERRORS for what it cannot hold."""
    kind = own_type(name)
    if cells is None:
        return pa.nulls(count, kind)
    if kind == pa.string():
        array = _text(cells, raw=raw)
    else:
        array = _null_where_empty(cells)
        if kind == pa.binary() and array.null_count < len(array):
            texts = array.to_pylist()
            array = pa.array([None if t is None else base64.b64decode(t, validate=True)
                              for t in texts], kind)  # fmt: skip
        array = array.cast(kind)
    if first_invalid(name, array) is not None:
        raise ValueError(name)
    return array


def _text(cells: Any, *, raw: bool) -> Any:
    """Cells without the guard against formulas; null where they are empty."""
    if not raw and _has_apostrophe(cells):
        guarded = pc.match_substring_regex(cells, _GUARDED)
        plain = [unguarded(cell) for cell in cells.filter(guarded).to_pylist()]
        cells = pc.replace_with_mask(cells, guarded, pa.array(plain, pa.string()))
    return _null_where_empty(cells)


def _has_apostrophe(cells: Any) -> bool:
    data = cells.buffers()[2]
    return data is not None and bool((np.frombuffer(data, np.uint8) == ord("'")).any())


def _null_where_empty(cells: Any) -> Any:
    empty = pc.equal(pc.binary_length(cells), 0)
    return pc.if_else(empty, pa.scalar(None, pa.string()), cells)
