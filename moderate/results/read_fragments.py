"""Results that a scan on Ray wrote, a folder of Parquet files in the order of the input."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from moderate.errors import InputError
from moderate.regular import read_regular
from moderate.results.read_format import Chunk, ResultsFile, without_surrogates
from moderate.results.read_parquet import ParquetResults
from moderate.tables.lines import file_name

MANIFEST = "_manifest.jsonl"
"""A line of JSON per fragment, in the order of the input."""

SUCCESS = "_SUCCESS"
"""JSON: how many rows and fragments there are, the digest of the manifest, the audit facts."""

_MAX_MARKER_BYTES = 16 << 20


def is_fragment_folder(path: str) -> bool:
    """Whether a folder holds fragments, complete or not."""
    if not os.path.isdir(path):
        return False
    return os.path.isfile(os.path.join(path, SUCCESS)) or any(
        name.startswith("part-") and name.endswith(".parquet") for name in os.listdir(path)
    )


class FragmentResults(ResultsFile):
    """The fragments of a folder as one file of results. Raises InputError.

    A folder without the marker is refused: rows would be missing, or be of two runs.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        if not os.path.isfile(os.path.join(path, SUCCESS)):
            raise InputError(
                f"{file_name(path)} is not complete: the scan that writes it has not come to its "
                "end; run it again"
            )
        # The numbers in their names are those of the input's order.
        self._files = sorted(
            (name for name in os.listdir(path) if name.endswith(".parquet")),
            key=lambda name: (len(name), name),
        )
        if not self._files:
            raise InputError(f"{file_name(path)} has no rows")
        self._first = self._open(self._files[0])
        self.schema = self._first.schema
        self.names = self._first.names

    def facts(self) -> dict[str, str]:
        """See `ResultsFile`. Those of the end of the run, as the marker has them."""
        marker = os.path.join(self.path, SUCCESS)
        try:
            facts = json.loads(read_regular(marker, _MAX_MARKER_BYTES))["facts"]
            return {str(key): without_surrogates(str(value)) for key, value in facts.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(f"{file_name(marker)} is not what a scan on Ray writes") from None

    @property
    def is_as_written(self) -> bool:
        """Whether all files are as a run wrote them. Reads all of them."""
        return all(self._open(name).is_as_written for name in self._files)

    def chunks(self) -> Iterator[Chunk]:
        """See `ResultsFile`."""
        first = 1
        for name in self._files:
            file = self._open(name)
            if file.names != self.names:
                raise InputError(f"{file_name(file.path)} has other columns than the files before")
            for chunk in file.chunks():
                chunk.first = first
                first += chunk.count
                yield chunk

    def carried_column(self, name: str, pieces: Sequence[Any]) -> Any:
        """See `ResultsFile`."""
        return pa.chunked_array(pieces, self.schema.field(name).type)

    def _open(self, name: str) -> ParquetResults:
        return ParquetResults(os.path.join(self.path, name))
