"""Rows of several shares in the order of one run: sorted runs on the disk, merged as they come."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moderate.analysis.shards import Shard
from moderate.arrow import python_values
from moderate.errors import InputError, OutputError
from moderate.results.read_format import own_type
from moderate.results.schema import own_columns
from moderate.sources.subset import CONTENT, INPUT_NUMBER, NO_CONTENT, ROW_NUMBER
from moderate.types import Column

PLACE = "place"
"""The column of a row's key: its input's number, then its own among the rows of the input."""

CLAIM = "claim"
"""The column with the digest (32 bytes) of the content that a row is a copy by; null: of none."""

_CARRIED = "carried:"
_ROW_BITS = 24
_MOST_INPUTS = 1 << (63 - _ROW_BITS)

_DIGEST_BYTES = 32

_BATCH_ROWS = 2048
"""Rows of each run that are in memory at once."""

_SORTED_ROWS = 100_000
"""Rows that are sorted in memory, where they do not come in order."""

_MOST_RUNS = 64
"""Runs that are merged at once: more are first made fewer."""


def merged_rows(
    shards: Sequence[Shard], columns: Sequence[Column], labels: Sequence[str], folder: Path
) -> Iterator[pa.Table]:
    """The rows of all shares in the order of the input, in parts.

    A table has our own columns, those of `columns` as `carried_name` calls them, PLACE and CLAIM,
    and all rows of an input. Of JSON Lines, cells of carried columns are JSON. folder is for
    temporary files. Memory does not grow with the number of rows. Raises InputError where rows are
    missing or are there twice, OutputError where there is no room.
    """
    try:
        yield from _by_inputs(_merged(_runs(shards, columns, labels, folder), folder))
    except OSError as error:
        raise OutputError(
            f"cannot keep rows in a temporary file ({error.strerror or error}); is there room in "
            "TMPDIR?"
        ) from error


def carried_name(name: str) -> str:
    """What a carried column is called among others."""
    return _CARRIED + name


def _runs(
    shards: Sequence[Shard], columns: Sequence[Column], labels: Sequence[str], folder: Path
) -> list[Path]:
    """Files with the rows of each share, in the order of the input within each."""
    schema = pa.schema(
        [
            *((column.name, own_type(column.name)) for column in own_columns(labels)),
            *(
                (carried_name(c.name), c.type if shards[0].rows.form == "Parquet" else pa.string())
                for c in columns
            ),
            (PLACE, pa.int64()),
            (CLAIM, pa.binary()),
        ]
    )
    runs: list[Path] = []
    for shard in shards:
        count = 0
        tables = _tables(shard, columns, schema)
        for number, table in enumerate(_sorted(shard, tables)):
            path = folder / f"{shard.index}-{number}.arrow"
            count += _write(path, schema, table)
            runs.append(path)
        if count != shard.counts.rows:
            raise InputError(
                f"{shard.name} has {count:,} rows, and its audit facts say {shard.counts.rows:,}"
            )
    return runs


def _tables(shard: Shard, columns: Sequence[Column], schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of a share as they come, with their keys."""
    as_json = shard.rows.form == "JSON Lines"
    row = 1
    for own, carried in shard.rows.parts():
        arrays = [own[name] for name in schema.names if name in own]
        count = len(arrays[0])
        if not count:
            continue
        for column in columns:
            kind = schema.field(carried_name(column.name)).type
            cells = carried.get(column.name)
            if cells is None:
                arrays.append(pa.nulls(count, kind))
            elif as_json:
                arrays.append(pa.array([None if v is None else _json(v) for v in cells], kind))
            else:
                arrays.append(_cast(cells, kind))
        arrays.append(pa.array(_places(shard, carried, row)))
        arrays.append(_claims(shard, own["sha256"], carried[CONTENT]))
        yield pa.Table.from_arrays(arrays, schema=schema)
        row += count


def _json(value: Any) -> str:
    return json.dumps(value)


def _cast(cells: Any, kind: Any) -> Any:
    array = cells if isinstance(cells, pa.Array) else pa.array(cells, kind)
    return array if array.type == kind else array.cast(kind)


def _places(shard: Shard, carried: dict[str, Any], row: int) -> NDArray[np.int64]:
    """The keys of rows, of which the first has the number `row` in its file."""
    numbers = []
    for name, most in zip((INPUT_NUMBER, ROW_NUMBER), (_MOST_INPUTS, 1 << _ROW_BITS), strict=True):
        try:
            array = pa.array(python_values(carried[name]))
            array = array.cast(pa.int64())
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            array = pa.nulls(1, pa.int64())
        if array.null_count or pc.min(array).as_py() < 1 or pc.max(array).as_py() >= most:
            raise InputError(f"{shard.name}: from row {row} on, {name} is not a number of a row")
        numbers.append(array.to_numpy())
    places: NDArray[np.int64] = (numbers[0] << _ROW_BITS) | numbers[1]
    return places


def _claims(shard: Shard, digests: Any, contents: Any) -> Any:
    """The column CLAIM, of the digests of files and what rows say in their place."""
    texts = [
        digest if content is None else None if content == NO_CONTENT else content
        for digest, content in zip(digests.to_pylist(), python_values(contents), strict=True)
    ]
    try:
        claims = [None if text is None else bytes.fromhex(text) for text in texts]
    except (ValueError, TypeError):
        claims = [b""]
    if {len(claim) for claim in claims if claim is not None} - {_DIGEST_BYTES}:
        raise InputError(f"{shard.name}: sha256 or {CONTENT} is not a digest in every row")
    return pa.array(claims, pa.binary())


def _sorted(shard: Shard, tables: Iterator[pa.Table]) -> Iterator[Iterator[pa.Table]]:
    """Runs whose rows are in the order of the input: one of a file, more of a folder."""
    if shard.rows.ordered:
        yield _checked(shard, tables)
        return
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= _SORTED_ROWS:
            yield iter([_in_order(waiting)])
            waiting = []
    if waiting:
        yield iter([_in_order(waiting)])


def _checked(shard: Shard, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    last = 0
    for table in tables:
        places = np.concatenate([[last], table[PLACE].to_numpy()])
        if (np.diff(places) <= 0).any():
            raise InputError(f"{shard.name}: its rows are not in the order that a run gave them")
        last = int(places[-1])
        yield table


def _in_order(tables: Sequence[pa.Table]) -> pa.Table:
    table = pa.concat_tables(tables)
    order = np.argsort(table[PLACE].to_numpy(), kind="stable")
    return table.take(pa.array(order))


def _write(path: Path, schema: pa.Schema, tables: Iterator[pa.Table]) -> int:
    """Write a run; the number of its rows."""
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    count = 0
    # Only for this user: rows have names of files.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with (
        os.fdopen(descriptor, "wb") as file,
        pa.ipc.new_stream(file, schema, options=options) as writer,
    ):
        for table in tables:
            writer.write_table(table.combine_chunks(), max_chunksize=_BATCH_ROWS)
            count += len(table)
    return count


def _merged(runs: list[Path], folder: Path) -> Iterator[pa.Table]:
    number = 0
    while len(runs) > _MOST_RUNS:
        some, runs = runs[:_MOST_RUNS], runs[_MOST_RUNS:]
        path = folder / f"merged-{number}.arrow"
        number += 1
        with pa.OSFile(os.fsencode(some[0])) as file:
            schema = pa.ipc.open_stream(file).schema
        _write(path, schema, _merge_runs(some))
        for each in some:
            each.unlink()
        runs.append(path)
    yield from _merge_runs(runs)


def _by_inputs(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows, with all of an input in one table: a video has thousands at the most."""
    waiting: list[pa.Table] = []
    for table in tables:
        numbers = input_numbers(table[PLACE].to_numpy())
        last = int(np.searchsorted(numbers, numbers[-1]))
        if last or (waiting and _last_input(waiting[-1]) != numbers[-1]):
            yield pa.concat_tables([*waiting, table.slice(0, last)])
            waiting = []
        waiting.append(table.slice(last))
    if waiting:
        yield pa.concat_tables(waiting)


def _last_input(table: pa.Table) -> int:
    return int(input_numbers(table[PLACE].slice(len(table) - 1).to_numpy())[0])


class _Run:
    """The rows of a run, some of which are in memory."""

    def __init__(self, path: Path) -> None:
        self._file = pa.OSFile(os.fsencode(path))
        self._reader = pa.ipc.open_stream(self._file)
        self.rows: pa.Table | None = None
        self.places: NDArray[np.int64] = np.zeros(0, np.int64)
        self.fill()

    def fill(self) -> None:
        """Have rows in memory, unless there are none left."""
        while not len(self.places):
            try:
                batch = self._reader.read_next_batch()
            except StopIteration:
                self._file.close()
                self.rows = None
                return
            self.rows = pa.Table.from_batches([batch])
            self.places = self.rows[PLACE].to_numpy()

    def take(self, horizon: int) -> pa.Table:
        """The rows in memory up to that place."""
        assert self.rows is not None
        count = int(np.searchsorted(self.places, horizon, side="right"))
        taken = self.rows.slice(0, count)
        self.rows, self.places = self.rows.slice(count), self.places[count:]
        return taken


def _merge_runs(paths: Sequence[Path]) -> Iterator[pa.Table]:
    """All rows in order: up to the least of the last places in memory, no run has more to come."""
    runs = [run for run in map(_Run, paths) if run.rows is not None]
    while runs:
        horizon = min(int(run.places[-1]) for run in runs)
        yield _in_order([run.take(horizon) for run in runs])
        for run in runs:
            run.fill()
        runs = [run for run in runs if run.rows is not None]


def input_numbers(places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers of the inputs of rows with these keys."""
    return places >> _ROW_BITS
