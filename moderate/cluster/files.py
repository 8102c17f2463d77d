"""The folder that workers write rows into: a Parquet file per fragment, a manifest, a marker.

Each of its files appears whole or not at all. The folder as a whole is complete where SUCCESS is
there, which is removed before anything else changes and written after everything else.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from moderate.errors import OutputError
from moderate.fetch.local import FetchError
from moderate.locks import unlock
from moderate.results.atomic import lock_part, open_whole, output_error, write_atomic
from moderate.results.folders import PART, part_mark
from moderate.results.pages import PAGES, HashedFile
from moderate.results.read_fragments import MANIFEST, SUCCESS
from moderate.results.remote import is_remote, shown_target
from moderate.text import printable

_NAME = re.compile(r"part-\d{6,}-[0-9a-f]{16}\.parquet")
_FOOTER_END = 8  # bytes: the length of the footer, and Parquet's magic number
_MAGIC = b"PAR1"


@dataclass(frozen=True, slots=True)
class FragmentFile:
    """A line of the manifest: a file of rows, where its rows are in the run, what it is made of.

    inputs counts the inputs of the fragment, those without a row included. An empty name is that of
    a fragment without rows, which has no file.
    """

    file: str
    first_row: int
    rows: int
    inputs: int
    sha256: str


@dataclass(frozen=True, slots=True)
class FragmentFolder:
    """A folder of fragments, local or in an object store. target ends with a slash."""

    target: str

    def path(self, name: str) -> str:
        """The path or URI of a file in the folder."""
        return f"{self.target}{name}"

    def write(self, name: str, table: Any) -> str:
        """Write the rows of a fragment, marked as ours. Their SHA-256 (hex). Raises OutputError."""
        return write_atomic(self.path(name), _parquet(name, table))

    def read(self, name: str) -> tuple[Any, str] | None:
        """The rows of a fragment as an Arrow table, and the file's SHA-256 (hex).

        None where there are none that are whole, and as they were written.
        """
        data = self._bytes(name)
        if data is None or not _is_as_written(data):
            return None
        try:
            return pq.read_table(pa.BufferReader(data)), hashlib.sha256(data).hexdigest()
        except (pa.ArrowException, OSError, ValueError):
            return None

    def names(self) -> list[str]:
        """The names of all files in the folder. Raises OutputError."""
        if not is_remote(self.target):
            try:
                return sorted(os.listdir(self.target))
            except OSError as error:
                raise output_error(self.target, error) from error
        from pyarrow.fs import FileSelector

        with _store_errors(self.target):
            files, path = _store(self.target)
            selector = FileSelector(path.rstrip("/"), allow_not_found=True)
            return sorted(found.base_name for found in files.get_file_info(selector))

    def check(self) -> None:
        """Create the folder, and refuse one that holds anything but fragments. Raises OutputError.

        Files that start with a dot are those that workers have not finished.
        """
        if not is_remote(self.target):
            try:
                os.makedirs(self.target, exist_ok=True)
            except OSError as error:
                raise output_error(self.target, error) from error
        known = (MANIFEST, SUCCESS)
        for name in self.names():
            if not (name in known or name.startswith(".") or _NAME.fullmatch(name)):
                raise OutputError(
                    f"{shown_target(self.target)} exists and holds what no scan on Ray wrote "
                    f"there: {printable(name)}; name another folder"
                )

    def remove(self, names: Sequence[str]) -> None:
        """Remove files, those that are there. Raises OutputError."""
        for name in names:
            if not is_remote(self.target):
                try:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(self.path(name))
                except OSError as error:
                    raise output_error(self.target, error) from error
                continue
            with _store_errors(self.target):
                files, path = _store(self.path(name))
                with contextlib.suppress(FileNotFoundError):
                    files.delete_file(path)

    def remove_all_but(self, kept: set[str]) -> None:
        """Remove fragments that are none of these, and what killed workers left unfinished."""
        stale = [
            name
            for name in self.names()
            if (_NAME.fullmatch(name) and name not in kept)
            or (name.startswith(".part-") and not is_remote(self.target))
        ]
        self.remove(stale)

    @contextlib.contextmanager
    def locked(self) -> Any:
        """One run at a time writes the folder, where it is on a disk. Raises OutputError."""
        if is_remote(self.target):
            yield
            return
        descriptor = os.open(self.target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                lock_part(descriptor, self.target)
            except BlockingIOError as error:
                raise OutputError(
                    f"{printable(self.target)}: another run is writing it; "
                    "wait for that to end, or name another --out"
                ) from error
            yield
        finally:
            unlock(descriptor)

    def _bytes(self, name: str) -> bytes | None:
        if not is_remote(self.target):
            try:
                with open(self.path(name), "rb") as file:
                    return file.read()
            except OSError:
                return None
        try:
            files, path = _store(self.path(name))
            with files.open_input_file(path) as file:
                data: bytes = file.read()
                return data
        except (OSError, ValueError, FetchError):
            return None


class Manifest:
    """The manifest of a run, written as its fragments are settled, in their order.

    Neither it nor the marker stands under its name before `commit`.
    """

    def __init__(self, folder: FragmentFolder) -> None:
        self._folder = folder
        self._file = open_whole(folder.path(MANIFEST))
        self._sealed = ""
        self.names: set[str] = set()
        self.rows = self.fragments = 0

    def add(self, entry: FragmentFile) -> None:
        """Add the line of a fragment. Raises OutputError."""
        self.rows += entry.rows
        if not entry.file:
            return
        self.fragments += 1
        self.names.add(entry.file)
        try:
            self._file.file.write(json.dumps(asdict(entry)).encode() + b"\n")
        except OSError as error:
            raise output_error(self._folder.target, error) from error

    def seal(self) -> None:
        """Bring it to the disk. Raises OutputError."""
        self._sealed = self._file.seal()

    def commit(self, facts: Mapping[str, str]) -> str:
        """Remove what is of no use any more, then write the manifest, and the marker last.

        The SHA-256 (hex) of the manifest. Raises OutputError.
        """
        self._folder.remove_all_but(self.names)
        digest = self._file.commit()
        marker = {
            "rows": self.rows,
            "fragments": self.fragments,
            "manifest_sha256": digest,
            "facts": dict(facts),
        }
        text = json.dumps(marker, indent=2) + "\n"
        write_atomic(self._folder.path(SUCCESS), text.encode())
        return digest

    def discard(self) -> None:
        """Leave no part of it behind. Does nothing after `commit`; never raises."""
        self._file.discard()


def _parquet(name: str, table: Any) -> bytes:
    """A Parquet file that says which file of a folder it is, and what its pages were."""
    buffer = io.BytesIO()
    hashed = HashedFile(buffer)
    writer = pq.ParquetWriter(hashed, table.schema, compression="zstd")
    writer.write_table(table)
    writer.add_key_value_metadata({PART: part_mark(name), PAGES: hashed.hexdigest()})
    writer.close()
    return buffer.getvalue()


def _is_as_written(data: bytes) -> bool:
    """Whether the pages of a Parquet file are those that its metadata has the digest of."""
    end = len(data) - _FOOTER_END
    pages = end - int.from_bytes(data[end : end + 4], "little") if end > 0 else -1
    if pages < 0 or not data.endswith(_MAGIC):
        return False
    return hashlib.sha256(data[:pages]).hexdigest().encode() in data[pages:]


def _store(uri: str) -> tuple[Any, str]:
    from moderate.fetch.store import open_store

    return open_store(uri)


@contextlib.contextmanager
def _store_errors(target: str) -> Any:
    """Errors of a store, which may show credentials, as the line that a user reads."""
    from moderate.fetch.store import store_error

    try:
        yield
    except FetchError as error:
        raise OutputError(f"cannot write {shown_target(target)}: {error.error.message}") from None
    except (OSError, ValueError) as error:
        message = store_error(error).message
        raise OutputError(f"cannot write {shown_target(target)}: {message}") from None
