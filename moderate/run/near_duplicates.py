"""Near duplicates among the rows of a run: for each, the first earlier row that looks like it."""

from __future__ import annotations

import tempfile
from array import array
from dataclasses import replace
from typing import Any

from moderate.errors import RunError
from moderate.hamming import INDEXED_DISTANCE, HammingIndex
from moderate.policy.perceptual import QUALITY
from moderate.run.known_rows import KnownRows
from moderate.system_limits import with_limit
from moderate.text import path_text
from moderate.types import PdqHash, Row

_IN_MEMORY = 8 << 20  # bytes of paths; beyond, they are in a temporary file


class NearDuplicates:
    """Takes the rows of a run in order.

    It takes some 110 bytes of memory per row, and the paths in a nameless temporary file. Raises
    RunError where there is no room for that.
    """

    def __init__(self) -> None:
        self._index = HammingIndex()
        self._paths = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115
        self._ends = array("q", [0])

    def close(self) -> None:
        """Forget everything."""
        self._paths.close()

    def first(self, path: bytes, hashed: PdqHash | None) -> bytes | None:
        """The path of the first earlier row within 31 bits of this one; None for none.

        A picture of low quality is like no other, and no other like it.
        """
        if hashed is None or hashed.quality < QUALITY:
            return None
        found = self._index.first(hashed.bits, INDEXED_DISTANCE)
        try:
            before = None if found is None else self._path(found)
            self._paths.seek(self._ends[-1])
            self._paths.write(path)
        except OSError as error:
            raise RunError(
                f"the temporary file of --near-duplicates: {with_limit(error)}"
            ) from error
        self._ends.append(self._ends[-1] + len(path))
        self._index.add(hashed.bits)
        return before

    def compared(self, row: Row) -> Row:
        """The row with a cell more: the path of `first` as results have it."""
        first = self.first(row.ref.display, row.facts.pdq)
        cell = None if first is None else path_text(first)
        return replace(row, ref=replace(row.ref, carried=(*row.ref.carried, cell)))

    def column(self, known: KnownRows) -> Any:
        """The same of many rows, as an Arrow array."""
        import pyarrow as pa

        firsts = [
            self.first(ref.display, hashed)
            for ref, hashed in zip(known.refs, known.contents.hashes, strict=True)
        ]
        return pa.array([None if each is None else path_text(each) for each in firsts], pa.string())

    def _path(self, number: int) -> bytes:
        start, end = self._ends[number], self._ends[number + 1]
        self._paths.seek(start)
        return self._paths.read(end - start)
