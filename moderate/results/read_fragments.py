"""Results that a scan on Ray wrote, a folder of Parquet files in the order of the input.

The manifest says which files these are and what is in them, and the marker is of that manifest: a
file that is missing, was changed or was put there later does not go unnoticed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from moderate.errors import InputError
from moderate.regular import read_regular
from moderate.results.read_format import Chunk, ResultsFile, without_surrogates
from moderate.results.read_parquet import ParquetResults
from moderate.tables.lines import file_name
from moderate.tables.parquet import ParquetSeries

MANIFEST = "_manifest.jsonl"
"""A line of JSON per fragment, in the order of the input."""

SUCCESS = "_SUCCESS"
"""JSON: how many rows and fragments there are, the digest of the manifest, the audit facts."""

_MAX_MARKER_BYTES = 16 << 20
_MAX_MANIFEST_BYTES = 1 << 30  # of five million fragments
_MAX_FRAGMENT_BYTES = 1 << 30


class _Entry(NamedTuple):
    """A line of the manifest: a file and its SHA-256 (hex)."""

    file: str
    sha256: str


def is_fragment_folder(path: str) -> bool:
    """Whether a folder holds fragments, complete or not."""
    if not os.path.isdir(path):
        return False
    return os.path.isfile(os.path.join(path, SUCCESS)) or any(
        name.startswith("part-") and name.endswith(".parquet") for name in os.listdir(path)
    )


class FragmentResults(ResultsFile):
    """The fragments of a folder as one file of results. Raises InputError.

    A folder without the marker is refused: rows would be missing, or be of two runs. So is one
    whose manifest is not the marker's, and a fragment that is not the manifest's.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._facts, self._entries = _marked(path)
        if not self._entries:
            raise InputError(f"{file_name(path)} has no rows")
        data = self._data(self._entries[0])
        with ParquetSeries(len(data)) as series:
            first = self._open(self._entries[0], data, series)[0]
        self.schema = first.schema
        self.names = first.names

    def facts(self) -> dict[str, str]:
        """See `ResultsFile`. Those of the end of the run, as the marker has them."""
        return dict(self._facts)

    @property
    def is_as_written(self) -> bool:
        """Whether all files are as a run wrote them. Reads all of them; raises where one is not."""
        for entry in self._entries:
            self._data(entry)
        return True

    def chunks(self) -> Iterator[Chunk]:
        """See `ResultsFile`. One process reads all fragments: there may be very many."""
        first = 1
        with ParquetSeries(max(map(self._size, self._entries))) as series:
            for entry in self._entries:
                file, reader = self._open(entry, self._data(entry), series)
                if file.names != self.names:
                    raise InputError(
                        f"{file_name(file.path)} has other columns than the files before"
                    )
                for chunk in file.chunks_of(reader, first):
                    yield chunk
                    first += chunk.count

    def carried_column(self, name: str, pieces: Sequence[Any]) -> Any:
        """See `ResultsFile`."""
        return pa.chunked_array(pieces, self.schema.field(name).type)

    def _open(
        self, entry: _Entry, data: bytes, series: ParquetSeries
    ) -> tuple[ParquetResults, Any]:
        path = os.path.join(self.path, entry.file)
        reader = series.open(file_name(path), data)
        return ParquetResults.of_reader(path, reader, len(data)), reader

    def _size(self, entry: _Entry) -> int:
        try:
            return os.stat(os.path.join(self.path, entry.file)).st_size
        except OSError:
            return 0  # reading it says what is wrong

    def _data(self, entry: _Entry) -> bytes:
        """The bytes of a fragment, which are those that the run wrote. Raises InputError."""
        path = os.path.join(self.path, entry.file)
        try:
            data = read_regular(path, _MAX_FRAGMENT_BYTES)
        except OSError as error:
            raise InputError(f"cannot read {file_name(path)}: {error.strerror}") from None
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise InputError(
                f"{file_name(path)} is not what {MANIFEST} has: it was changed or damaged; "
                "the same scan again mends it"
            )
        return data


def _marked(path: str) -> tuple[Mapping[str, str], Sequence[_Entry]]:
    """The audit facts of a complete folder, and its fragments in order. Raises InputError."""
    marker, manifest = os.path.join(path, SUCCESS), os.path.join(path, MANIFEST)
    if not os.path.isfile(marker):
        raise InputError(
            f"{file_name(path)} is not complete: the scan that writes it has not come to its "
            "end; run it again"
        )
    try:
        text = json.loads(read_regular(marker, _MAX_MARKER_BYTES))
        digest = str(text["manifest_sha256"])
        facts = {str(key): without_surrogates(str(value)) for key, value in text["facts"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{file_name(marker)} is not what a scan on Ray writes") from None
    try:
        data = read_regular(manifest, _MAX_MANIFEST_BYTES)
    except OSError as error:
        raise InputError(f"cannot read {file_name(manifest)}: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise InputError(
            f"{file_name(manifest)} is not the one of {SUCCESS}: it was changed, or is of another "
            "run; run the scan again"
        )
    try:
        entries = [_entry(line) for line in data.splitlines()]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{file_name(manifest)} is not what a scan on Ray writes") from None
    return facts, entries


def _entry(line: bytes) -> _Entry:
    """A line of a manifest. Raises ValueError, KeyError or TypeError for what none has."""
    fields = json.loads(line)
    name, digest = fields["file"], fields["sha256"]
    is_ours = isinstance(name, str) and name.startswith("part-") and name.endswith(".parquet")
    if not is_ours or "/" in name or not isinstance(digest, str):
        raise ValueError("no name of a fragment")
    return _Entry(name, digest)
