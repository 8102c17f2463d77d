"""A digest of the pages of a Parquet file, which tells a file that was written anew from ours.

Other programs keep the metadata of a file that they change, and so also what says that it is ours.
"""

from __future__ import annotations

import hashlib
from typing import Any, BinaryIO

PAGES = "pages_sha256"
"""Key in the file's metadata: the digest of all bytes before the footer, in hexadecimal."""

_MAGIC = b"PAR1"
_BLOCK = 1 << 20


class HashedFile:
    """A binary file opened for writing, which keeps a digest of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        """Write bytes; returns how many."""
        self._digest.update(data)
        return self._file.write(data)

    def hexdigest(self) -> str:
        """The digest of all bytes so far."""
        return self._digest.hexdigest()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def pages_digest(path: str) -> str | None:
    """The digest of all bytes before the footer; None for what is no Parquet file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        end = file.seek(0, 2) - 8
        file.seek(max(end, 0))
        tail = file.read(8)
        left = end - int.from_bytes(tail[:4], "little")
        if tail[4:] != _MAGIC or left < 0:
            return None
        file.seek(0)
        while left > 0:
            block = file.read(min(left, _BLOCK))
            if not block:
                return None
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()
