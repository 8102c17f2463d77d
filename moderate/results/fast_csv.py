"""Columns of a CSV results file, several times as fast as by the reader that explains mistakes."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from moderate.results.read import (
    _REFUSED,
    _TOGETHER,
    Results,
    _first_wrong,
    _own_type,
    _unguarded,
    contradiction,
)

_BLOCK_BYTES = 8 << 20
_GUARDED = "^'"


class Unusual(Exception):  # noqa: N818 - not a mistake
    """What follows has to be read with more care."""


def whole_parts(
    results: Results, own: Sequence[str], carried: Sequence[str]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Parts of the rows in order: Arrow arrays of our own columns, and text of carried ones.

    Raises Unusual before the first part that holds anything out of the ordinary: `Results` says
    what is wrong with it, or reads it where nothing is.
    """
    import pyarrow.csv as pcsv

    names = results._file.names
    places = {name: f"{number}" for number, name in enumerate(names)}
    needed = list(dict.fromkeys([*own, *_TOGETHER]))
    wanted = dict.fromkeys(places[name] for name in (*needed, *carried) if name in places)
    try:
        reader = pcsv.open_csv(
            pa.OSFile(os.fsencode(results.path)),
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
            found = {name: batch.column(place) for name, place in places.items() if place in wanted}
            ours = {name: _typed(name, found.get(name), batch.num_rows) for name in needed}
            if contradiction(ours, places) is not None:
                raise ValueError
            theirs = {name: _text(found[name]) for name in carried}
            yield ours, theirs
    except (*_REFUSED, OSError) as error:
        raise Unusual from error


def _typed(name: str, cells: Any, count: int) -> Any:
    """A column of ours; raises one of _REFUSED for what it cannot hold."""
    kind = _own_type(name)
    if cells is None:
        return pa.nulls(count, kind)
    if kind == pa.string():
        array = _text(cells)
    else:
        array = _null_where_empty(cells)
        if kind == pa.binary() and array.null_count < len(array):
            texts = array.to_pylist()
            array = pa.array([None if t is None else base64.b64decode(t, validate=True)
                              for t in texts], kind)  # fmt: skip
        array = array.cast(kind)
    if _first_wrong(name, array) is not None:
        raise ValueError(name)
    return array


def _text(cells: Any) -> Any:
    """Cells without the guard against formulas; null where they are empty."""
    guarded = pc.match_substring_regex(cells, _GUARDED) if _has_apostrophe(cells) else None
    if guarded is not None:
        plain = [_unguarded(cell) for cell in cells.filter(guarded).to_pylist()]
        cells = pc.replace_with_mask(cells, guarded, pa.array(plain, pa.string()))
    return _null_where_empty(cells)


def _has_apostrophe(cells: Any) -> bool:
    data = cells.buffers()[2]
    return data is not None and bool((np.frombuffer(data, np.uint8) == ord("'")).any())


def _null_where_empty(cells: Any) -> Any:
    empty = pc.equal(pc.binary_length(cells), 0)
    return pc.if_else(empty, pa.scalar(None, pa.string()), cells)
