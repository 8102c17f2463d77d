"""Results files of this tool, read back: audit facts, and rows with typed values or as a table."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from moderate.arrow import python_value, python_values
from moderate.errors import InputError, UsageError
from moderate.own_categories import own_names
from moderate.regular import read_regular
from moderate.results.atomic import part_path
from moderate.results.fast_csv import UnusualError, whole_parts
from moderate.results.read_format import (
    CHUNK_ROWS,
    Chunk,
    ResultsFile,
    carried_names,
    own_type,
    scored_names,
    without_surrogates,
)
from moderate.results.read_fragments import MANIFEST, FragmentResults, is_fragment_folder
from moderate.results.read_parquet import ParquetResults
from moderate.results.read_text import CsvResults, JsonlResults
from moderate.results.remote import is_remote, receive, shown_target, target_name
from moderate.results.schema import in_order, own_columns
from moderate.results.targets import SUFFIXES
from moderate.results.text_writers import metadata_path
from moderate.scratch import scratch_folder
from moderate.tables.lines import file_name, unreadable
from moderate.text import first_repeated, one_line
from moderate.types import CATEGORIES

MAX_FACTS_BYTES = 16 << 20

_REQUIRED = ("path", "status", "decision")
_FORMATS: dict[str, type[ResultsFile]] = {
    ".jsonl": JsonlResults,
    ".parquet": ParquetResults,
}
_PARQUET = (ParquetResults, FragmentResults)

Part = tuple[dict[str, Any], dict[str, Any]]
"""Columns of consecutive rows: our own as Arrow arrays, carried ones as arrays or lists."""


@dataclass(frozen=True)
class Results:
    """A results file whose rows are read, anew each time, when they are asked for.

    facts are the audit facts, empty where the file beside a CSV or JSONL file is missing. carried
    are the columns carried from a manifest. name is what messages call the file, which is not its
    path where that is a copy of an object. Reading raises InputError, with the line or row, for
    what no run of this tool wrote: a truncated row, a score outside 0..1, an unknown decision.
    """

    path: str
    facts: Mapping[str, str]
    carried: tuple[str, ...]
    _file: ResultsFile
    name: str

    @cached_property
    def sha256(self) -> str:
        """The digest of the rows' file as it is now. Raises InputError."""
        return _digest(self.path)

    @cached_property
    def mismatch(self) -> bool:
        """Whether the file is not the one that the facts beside it describe, by its digest."""
        recorded = self.facts.get("sha256")
        return recorded is not None and recorded != self.sha256

    @property
    def is_as_written(self) -> bool:
        """Whether the file is known to be, byte for byte, what this tool wrote. Reads all of it."""
        if isinstance(self._file, _PARQUET):
            return self._file.is_as_written
        return "sha256" in self.facts and not self.mismatch

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of a row, in order."""
        return tuple(in_order(self.own, self.carried))

    @property
    def own(self) -> list[str]:
        """Our own columns: those that every file has, and those of own categories and labels."""
        return [column.name for column in own_columns(self.labels)]

    @property
    def labels(self) -> tuple[str, ...]:
        """The own categories and the labels, as MODEL/LABEL, whose scores the rows have."""
        return scored_names(self._file.names)

    @property
    def own_categories(self) -> tuple[str, ...]:
        """The own categories whose scores the rows have."""
        return own_names(self.labels)

    @property
    def categories(self) -> tuple[str, ...]:
        """The five categories and the own ones."""
        return (*CATEGORIES, *self.own_categories)

    @property
    def schema(self) -> Any:
        """The Arrow schema of Parquet files; None of other formats."""
        return self._file.schema if isinstance(self._file, _PARQUET) else None

    def chunks(self) -> Iterator[Chunk]:
        """All rows in order, in chunks whose columns are converted on request."""
        return self._file.chunks()

    def parts(self, own: Sequence[str], carried: Sequence[str] = ()) -> Iterator[Part]:
        """Some columns of all rows in order, in parts; at least one of our own.

        One of our own columns that the file lacks is null. The fastest way to read columns: CSV
        goes through Arrow's parser as far as there is nothing unusual in it. Raises InputError.
        """
        done = 0
        if isinstance(self._file, CsvResults):
            try:
                for part in whole_parts(
                    self.path, self._file.names, own, carried, raw=self._file.raw
                ):
                    yield part
                    done += len(part[0][own[0]])
                return
            except UnusualError:
                pass  # the other reader reports the mistake, or reads on where there is none
        for chunk in self._file.chunks():
            skipped = max(done + 1 - chunk.first, 0)
            if skipped < chunk.count:
                arrays = dict(zip(own, chunk.arrays(own), strict=True))
                cells = {name: chunk.carried(name)[skipped:] for name in carried}
                yield {name: array[skipped:] for name, array in arrays.items()}, cells

    def rows(self) -> Iterator[dict[str, Any]]:
        """Each row as column name to value, in bounded memory.

        None stands for null, scores are floats that hold a float32, path_bytes are bytes. One of
        our own columns that an older file lacks is null. Carried values are as the format has them:
        text in CSV, which cannot tell empty text from null.
        """
        for chunk in self.chunks():
            yield from self._chunk_rows(chunk, range(chunk.count))

    def find(
        self, paths: Collection[str] = (), sha256: str | None = None, number: int | None = None
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """The rows of these paths, whose sha256 starts so, or of this number, with their numbers.

        Numbers count from 1. Of rows that do not match only path and sha256 are converted.
        """
        for chunk in self._file.chunks():
            if number is not None:
                index = number - chunk.first
                indices = [index] if 0 <= index < chunk.count else []
            else:
                texts, digests = chunk.columns(["path", "sha256"])
                matches = pc.is_in(texts, pa.array(list(paths), pa.string()))
                if sha256:
                    by_digest = pc.starts_with(digests, sha256)
                    matches = pc.or_(matches, pc.fill_null(by_digest, False))
                indices = pc.indices_nonzero(matches).to_pylist()
            if indices:
                rows = self._chunk_rows(chunk, indices)
                yield from zip((chunk.first + index for index in indices), rows, strict=True)
            if number is not None and number < chunk.first + chunk.count:
                return

    def column(self, name: str) -> Iterator[pa.Array]:
        """One of our own columns, in pieces."""
        for chunk in self._file.chunks():
            yield chunk.columns([name])[0]

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows, or these columns of them, with the types of the schema, in memory.

        Carried columns have their own types in Parquet, are strings in CSV, and in JSONL have a
        type that holds all values, or else are strings of JSON. Raises InputError.
        """
        names = list(self.columns if columns is None else columns)
        known = set(self.columns)
        if unknown := [name for name in names if name not in known]:
            raise InputError(f"{file_name(self.path)} has no column {one_line(unknown[0], 60)!r}")
        own = [name for name in names if name not in self.carried]
        parts: dict[str, list[Any]] = {name: [] for name in names}
        for chunk in self._file.chunks():
            for name, array in zip(own, chunk.arrays(own), strict=True):
                parts[name].append(array)
            for name in names:
                if name in self.carried:
                    parts[name].append(chunk.carried(name))
        return pa.table(
            {
                name: pa.chunked_array(pieces, own_type(name))
                if name in own
                else self._file.carried_column(name, pieces)
                for name, pieces in parts.items()
            }
        )

    def _chunk_rows(self, chunk: Chunk, indices: Sequence[int]) -> Iterator[dict[str, Any]]:
        names = self.columns
        arrays = chunk.arrays(self.own)
        carried = [chunk.carried(name) for name in self.carried]
        for start in range(0, len(indices), CHUNK_ROWS):
            some = indices[start : start + CHUNK_ROWS]
            own_cells = [_take(array, some).to_pylist() for array in arrays]
            carried_cells = [python_values(_take(values, some)) for values in carried]
            for cells in zip(*in_order(own_cells, carried_cells), strict=True):
                yield dict(zip(names, cells, strict=True))


@contextlib.contextmanager
def open_results(name: str) -> Iterator[Results]:
    """`read_results`, also of an object in a store, of which there is a copy in the meantime."""
    if not is_remote(name):
        yield read_results(name)
        return
    suffix = _suffix(name)
    with scratch_folder("results") as folder:
        path = str(folder / f"results{suffix}")
        try:
            receive(name, path)
        except FileNotFoundError:
            raise InputError(f"cannot read {shown_target(name)}: there is no such object") from None
        if suffix != ".parquet":
            with contextlib.suppress(FileNotFoundError):
                receive(metadata_path(name), metadata_path(path))
        yield replace(read_results(path), name=shown_target(name))


def read_results(path: str) -> Results:
    """Open a .csv, .parquet or .jsonl file, or a folder of fragments, and read its audit facts.

    Raises UsageError for another suffix, InputError for what cannot be read or is not results.
    """
    if is_remote(path):
        raise UsageError(f"{shown_target(path)}: results are read from local files; fetch it first")
    if is_fragment_folder(path):
        folder = FragmentResults(path)
        _check_columns(path, folder.names)
        carried = carried_names(folder.names)
        return Results(path, folder.facts(), carried, folder, path)
    suffix = _suffix(path)
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise unreadable(file_name(path), error) from None
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"cannot read {file_name(path)}: not a regular file")
    facts = {} if suffix == ".parquet" else _facts_beside(path)
    # A run without images writes JSON Lines without a line; no other results are ever empty.
    if not status.st_size and not (suffix == ".jsonl" and facts):
        raise InputError(f"{file_name(path)} is empty: it is not a results file")
    raw = facts.get("csv") == "raw"
    file = CsvResults(path, raw=raw) if suffix == ".csv" else _FORMATS[suffix](path)
    if file.names or status.st_size:
        _check_columns(path, file.names)
    carried = carried_names(file.names)
    return Results(path, facts or file.facts(), carried, file, path)


def _suffix(path: str) -> str:
    """The suffix that decides the format. Raises UsageError."""
    name = target_name(path).lower()
    suffix = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)
    if suffix is None:
        shown = shown_target(path) if is_remote(path) else file_name(path)
        raise UsageError(
            f"{shown} is not a results file: the suffix is one of {', '.join(SUFFIXES)}"
        )
    return suffix


def facts_in(beside: str) -> dict[str, str]:
    """The audit facts in a file beside results; none where there is no such file.

    Raises InputError for a file that holds no audit facts.
    """
    if not os.path.exists(beside):
        return {}
    try:
        data = read_regular(beside, MAX_FACTS_BYTES)
    except OSError as error:
        raise InputError(f"cannot read {file_name(beside)}: {error.strerror}") from None
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        raise InputError(f"{file_name(beside)} holds no audit facts: it is not a JSON object")
    return {
        without_surrogates(key): without_surrogates(
            value if isinstance(value, str) else json.dumps(value)
        )
        for key, value in facts.items()
    }


def _facts_beside(path: str) -> dict[str, str]:
    """The audit facts of a text file, also where a kill came before they had their name."""
    beside = metadata_path(path)
    facts = facts_in(beside)
    unfinished = part_path(beside)
    if not facts and os.path.islink(path):  # where earlier versions put the facts of a link
        facts = facts_in(f"{path}.meta.json")
    try:
        # In a shared folder, anybody can lay a file of this name.
        is_ours = os.lstat(unfinished).st_uid in (os.stat(path).st_uid, os.geteuid())
    except OSError:
        return facts
    digest = _digest(path)
    if is_ours and facts.get("sha256") != digest:
        with contextlib.suppress(InputError):
            pending = facts_in(unfinished)
            if pending.get("sha256") == digest:
                return pending
    return facts


def _digest(path: str) -> str:
    if os.path.isdir(path):
        path = os.path.join(path, MANIFEST)  # which has the digests of the folder's files
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(file_name(path), error) from None


def _check_columns(path: str, names: Sequence[str]) -> None:
    if missing := [name for name in _REQUIRED if name not in names]:
        raise InputError(
            f"{file_name(path)} is not a results file of this tool: it has no column {missing[0]}"
        )
    if (repeated := first_repeated(names)) is not None:
        raise InputError(f"{file_name(path)} has two columns {one_line(repeated, 60)!r}")


def _take(values: Any, indices: Sequence[int]) -> Any:
    if isinstance(indices, range):
        return values[indices.start : indices.stop]
    if isinstance(values, list):
        return [values[index] for index in indices]
    try:
        return values.take(pa.array(indices, pa.int64()))
    except pa.ArrowNotImplementedError:  # of some types, such as string_view
        return [python_value(values[index]) for index in indices]
