"""Results as a folder of Parquet files, partitioned as Hive has it: `decision=block/date=.../`."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moderate.errors import OutputError, UsageError
from moderate.results.atomic import output_error
from moderate.results.atomic_folder import AtomicFolder
from moderate.results.folders import NULL_VALUE, PART, part_mark, why_not_ours
from moderate.results.pages import PAGES, HashedFile
from moderate.results.parquet_writer import REFUSED, ROW_GROUP_ROWS, TableWriter
from moderate.results.partition_columns import DATE
from moderate.text import printable

ROWS_PER_FILE = 500_000
"""Most rows of a file; ours take some 100 bytes each."""

MOST_WAITING = 200_000
"""Rows of all partitions that wait in memory for a row group to be full."""

MOST_PARTITIONS = 10_000
MOST_OPEN = 64
"""Files that are written at once. One more, and the file that was written to least lately ends."""

_DATE_LENGTH = len("2026-11-26")


class _PartFile:
    """One Parquet file of a partition."""

    def __init__(self, path: str, schema: Any) -> None:
        self.rows = 0
        self._path = path
        self._file = open(path, "xb")  # noqa: SIM115 - see close
        self._hashed = HashedFile(self._file)
        self._writer = pq.ParquetWriter(self._hashed, schema, compression="zstd")

    def write(self, table: Any) -> None:
        self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        self.rows += table.num_rows

    def close(self, metadata: dict[str, str]) -> str:
        """Bring it to the disk. The SHA-256 (hex) of the whole."""
        self._writer.add_key_value_metadata({**metadata, PAGES: self._hashed.hexdigest()})
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._hashed.hexdigest()

    def discard(self) -> None:
        with contextlib.suppress(OSError, ValueError, MemoryError, pa.ArrowException):
            self._writer.close()
        with contextlib.suppress(OSError):
            self._file.close()


@dataclass
class _Partition:
    """Rows that have the same values in the columns that the folder is partitioned by."""

    folder: str
    tables: list[Any] = field(default_factory=list)
    waiting: int = 0
    files: int = 0
    file: _PartFile | None = None


class PartitionedWriter(TableWriter):
    """Rows to a folder, in whose files the columns of its subfolders' names are missing.

    That is what readers of such folders expect: they take these columns from the names. `date` is
    the UTC date of `scored_at`, and that of the start of the run for rows without scores. Files end
    at ROWS_PER_FILE rows. Each has the audit facts in its metadata, those of the end of the run
    only if it was not full before.
    """

    def __init__(self, target: str, by: Sequence[str]) -> None:
        super().__init__(target)
        self._by = tuple(by)
        self._started: str | None = None
        self._partitions: dict[tuple[str | None, ...], _Partition] = {}
        self._open: dict[str, _Partition] = {}  # the one that was written to last at the end
        self._waiting = 0
        self._digests: dict[str, str] = {}
        self._sealed = False
        self._folder = AtomicFolder(target)

    def begin(self, audit: dict[str, str]) -> None:
        """See `TableWriter`. Raises UsageError for a carried column that is called `date`, too."""
        if DATE in self._by and DATE in self._carried:
            raise UsageError(
                f"--partition-by {DATE}: a carried column has that name; give it another, as in "
                f"--keep original_{DATE}={DATE}"
            )
        self._started = audit.get("started", "")[:_DATE_LENGTH] or None
        kept = [each for each in self._schema if each.name not in self._by]
        self._file_schema = pa.schema(kept, metadata=self._schema.metadata)

    def add(self, table: Any) -> None:
        """See `TableWriter`."""
        for values, rows in self._split(table):
            partition = self._partition(values)
            partition.tables.append(rows.select(self._file_schema.names))
            partition.waiting += rows.num_rows
            self._waiting += rows.num_rows
            if partition.waiting >= ROW_GROUP_ROWS:
                self._write(partition)
        while self._waiting > MOST_WAITING:
            self._write(max(self._partitions.values(), key=lambda each: each.waiting))

    def _split(self, table: Any) -> list[tuple[tuple[str | None, ...], Any]]:
        """The rows of each combination of values, in order."""
        codes = np.zeros(table.num_rows, np.int64)
        values: list[list[str | None]] = []
        for name in self._by:
            encoded = self._values(table, name).dictionary_encode()
            known = [None, *encoded.dictionary.to_pylist()]
            indices = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
            codes = codes * len(known) + indices + 1
            values.append(known)
        parts = []
        for code in np.unique(codes).tolist():
            chosen: list[str | None] = []
            rest = code
            for known in reversed(values):
                rest, place = divmod(rest, len(known))
                chosen.append(known[place] or None)
            rows = table.take(pa.array(np.flatnonzero(codes == code)))
            parts.append((tuple(reversed(chosen)), rows))
        return parts

    def _values(self, table: Any, name: str) -> Any:
        if name != DATE:
            column = table.column(name)
        else:
            column = pc.utf8_slice_codeunits(table.column("scored_at"), 0, _DATE_LENGTH)
            if self._started:
                column = pc.fill_null(column, self._started)
        combined = column.combine_chunks()
        return pa.concat_arrays(combined.chunks) if hasattr(combined, "chunks") else combined

    def _partition(self, values: tuple[str | None, ...]) -> _Partition:
        if values not in self._partitions:
            if len(self._partitions) == MOST_PARTITIONS:
                raise OutputError(
                    f"cannot write {printable(self._target)}: more than {MOST_PARTITIONS} "
                    "partitions; name fewer columns in --partition-by"
                )
            names = [
                f"{name}={NULL_VALUE if value is None else quote(value, safe=' ')}"
                for name, value in zip(self._by, values, strict=True)
            ]
            self._partitions[values] = _Partition("/".join(names))
        return self._partitions[values]

    def _write(self, partition: _Partition) -> None:
        """Write what waits of a partition."""
        table = pa.concat_tables(partition.tables)
        self._waiting -= partition.waiting
        partition.tables, partition.waiting = [], 0
        start = 0
        try:
            while start < table.num_rows:
                file = self._opened(partition)
                rows = table.slice(start, ROWS_PER_FILE - file.rows)
                file.write(rows)
                start += rows.num_rows
                if file.rows == ROWS_PER_FILE:
                    self._close(partition)
        except OSError as error:
            raise output_error(self._target, error) from error
        except REFUSED as error:
            raise self.refused(error) from error

    def _opened(self, partition: _Partition) -> _PartFile:
        if partition.file is None:
            if len(self._open) == MOST_OPEN:
                self._close(next(iter(self._open.values())))
            name = self._name(partition)
            partition.file = _PartFile(self._folder.create(name), self._file_schema)
        else:
            del self._open[partition.folder]
        self._open[partition.folder] = partition
        return partition.file

    def _name(self, partition: _Partition) -> str:
        return f"{partition.folder}/part-{partition.files:04}.parquet"

    def _close(self, partition: _Partition, facts: Mapping[str, str] | None = None) -> None:
        assert partition.file is not None
        name = self._name(partition)
        metadata = {**(facts or {}), "partition_by": ",".join(self._by), PART: part_mark(name)}
        self._digests[name] = partition.file.close(metadata)
        partition.files += 1
        partition.file = None
        del self._open[partition.folder]

    def seal(self, facts: dict[str, str]) -> None:
        """See `ResultWriter`."""
        if self._sealed:
            return
        self._sealed = True
        self._take_rows()
        for partition in self._partitions.values():
            if partition.waiting:
                self._write(partition)
        try:
            if not self._partitions:  # a folder without a file has no columns
                self._opened(self._partition((None,) * len(self._by)))
            for partition in list(self._open.values()):
                self._close(partition, facts)
            self._folder.seal()
        except OSError as error:
            self.discard()
            raise output_error(self._target, error) from error

    def commit(self, facts: dict[str, str]) -> dict[str, str]:
        """See `ResultWriter`. The digest is that of the lines of `sha256sum`, sorted."""
        self.seal(facts)
        # Hours after the target was checked. What is put there meanwhile is not to be lost.
        if os.path.isdir(self._folder.path) and (reason := why_not_ours(self._folder.path)):
            raise OutputError(f"cannot write {printable(self._target)}: it {reason}")
        self._folder.commit()
        self._folder.discard()
        lines = [f"{digest}  {name}\n" for name, digest in sorted(self._digests.items())]
        return {self._folder.path: hashlib.sha256("".join(lines).encode()).hexdigest()}

    def discard(self) -> None:
        """See `ResultWriter`."""
        for partition in self._open.values():
            if partition.file is not None:
                partition.file.discard()
        self._open.clear()
        self._folder.discard()
