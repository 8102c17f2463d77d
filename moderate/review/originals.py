"""The bytes of scanned images, found again by what the rows say of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from hashlib import sha256
from typing import Any
from urllib.parse import unquote_to_bytes

from moderate.decode.sniff import HEAD_BYTES
from moderate.fetch.fetcher import Fetcher
from moderate.fetch.local import FetchError, read_head
from moderate.sources.archive import ArchiveSource, is_archive, local_opener
from moderate.sources.entries import entry_ref
from moderate.types import ErrorCode, ImageError, ImageRef


class OriginalError(Exception):
    """Why an image cannot be shown, in words for a reviewer."""


class Originals:
    """Reads images again; not for several threads at once. `fetcher` is the caller's to close."""

    def __init__(self, fetcher: Fetcher, max_file_bytes: int) -> None:
        self._fetcher = fetcher
        self._max_file_bytes = max_file_bytes

    def read(self, row: Mapping[str, Any]) -> bytes:
        """The bytes that were scanned, and no others. Raises OriginalError."""
        digest = row.get("sha256")
        if digest is None:
            raise OriginalError("the results hold no digest, so that it could be another picture")
        path = row.get("path_bytes") or os.fsencode(row["path"])
        path = _from_here(path, row.get("uri") or "")
        try:
            data = self._member(path)
            if data is None:
                data = self._whole(path)
        except FetchError as error:
            raise OriginalError(error.error.message) from None
        if sha256(data).hexdigest() != digest:
            raise OriginalError("the file has changed since it was scanned")
        return data

    def _whole(self, path: bytes) -> bytes:
        if b"***" in path and b"://" in path:
            raise OriginalError("its URL was signed or held a password, which results do not keep")
        ref = entry_ref(path, max_file_bytes=self._max_file_bytes, exact=True)
        if ref.error:
            raise FetchError(ref.error)
        data = self._fetcher.fetch(ref)
        return data.result() if isinstance(data, Future) else data

    def _member(self, path: bytes) -> bytes | None:
        """The bytes of a member of an archive; None for what is none."""
        for archive, member in _splits(path):
            if not os.path.isfile(archive):
                continue
            if not is_archive(archive, read_head(archive, HEAD_BYTES)):
                raise OriginalError("it is part of another file: a frame, or embedded in it")
            source = ArchiveSource(ImageRef(archive).display, local_opener(archive))
            data = source.read_member(member, self._max_file_bytes)
            if data is None:
                missing = ImageError(ErrorCode.NOT_FOUND, "the archive has no such member any more")
                raise FetchError(missing)
            return data
        return None


def _from_here(path: bytes, uri: str) -> bytes:
    """The path itself; by its URI where it starts at the folder of the scan, and we are elsewhere.

    Whichever it is, the digest says whether it holds the scanned bytes.
    """
    outer = next((archive for archive, _ in _splits(path) if os.path.isfile(archive)), path)
    if os.path.isabs(path) or not uri.startswith("file:///") or os.path.lexists(outer):
        return path
    file, _, inside = uri.removeprefix("file://").partition("#")
    return unquote_to_bytes(f"{file}!/{inside}" if inside else file)


def _splits(path: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The ways to take a path apart into an archive and its member."""
    at = path.find(b"!/")
    while at >= 0:
        yield path[:at], path[at + 2 :]
        at = path.find(b"!/", at + 1)
