"""Members of a .zip, in the order of its directory, which is read piece by piece.

`zipfile` keeps the whole directory in memory, and one bad entry costs it all the others. So it is
fed a piece of the directory at a time: the same archive, as if it had no other members.
"""

from __future__ import annotations

import bz2
import copy
import io
import stat
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from moderate.errors import InputError
from moderate.fetch.local import FetchError
from moderate.sources.members import (
    ArchiveLimits,
    Budget,
    Member,
    archive_limit,
    broken,
    unreadable,
)
from moderate.sources.unpacking import Unpacking
from moderate.text import path_text, printable
from moderate.types import SkipReason

# Layouts and sizes from PKWARE's APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12 and 4.3.14 to 4.3.16.
_LOCAL_BYTES = 30
_ENTRY_BYTES = 46
_ENTRY_LENGTHS = struct.Struct("<3H")  # of name, extra field and comment, at byte 28
_FIELD = struct.Struct("<2H")  # of an extra field: what it is, and how many bytes follow
_FIELDS_IN_USE = frozenset({0x0001, 0x7075})  # sizes over 4 GiB, and the name in Unicode
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_MAX_COMMENT = 0xFFFF
_PIECE_BYTES = 1 << 18  # more than the longest entry: 46 bytes and three fields of 65,535

_ENCRYPTED = 0x1
_UTF8 = 0x800
# zipfile bounds what comes out of deflate, of other methods only what goes in: 4 KiB of LZMA can
# give 28 MB, and 40 bytes of bzip2 as much.
_BOUNDED = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2})
_SMALL_READ = 512


def zip_members(file: BinaryIO, name: bytes, limits: ArchiveLimits) -> Iterator[Member]:
    """Every member of a zip archive; folders, which have no bytes, are left out.

    Raises FetchError where the archive cannot be read on, InputError if `file` cannot seek.
    """
    if not file.seekable():
        raise InputError(
            f"{printable(path_text(name))}: a .zip can only be read from a file, not from a stream"
        )
    try:
        directory = _find_directory(file)
        yield from _entries(file, directory, Budget(limits, lambda: directory.archive_bytes))
    except OSError as error:
        raise unreadable(error, "the archive") from None


@dataclass(frozen=True, slots=True)
class _Directory:
    """Where the central directory lies; `shift` is how much was put in front of the archive.

    count is the number of entries it promises, modulo `modulus`.
    """

    start: int
    length: int
    count: int
    modulus: int
    shift: int
    archive_bytes: int


class _ZipMember(Member):
    """A member that zipfile can find; opened when it is first read."""

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, budget: Budget) -> None:
        self.name = _raw_name(info)
        self.size = info.file_size
        is_link = stat.S_ISLNK(info.external_attr >> 16)
        self.skip = SkipReason.SYMLINK if is_link else None
        self._archive = archive
        self._info = info
        self._budget = budget
        self._stream: Any = None
        self._came = 0

    def read(self, count: int) -> bytes:
        """See `Member`."""
        try:
            if self._stream is None:
                self._stream = self._open()
            data = self._read(count)
        except Exception as error:  # noqa: BLE001 - untrusted bytes can make it raise anything
            raise unreadable(error, "the member") from None
        return data

    def _open(self) -> Any:
        info = self._info
        if info.flag_bits & _ENCRYPTED:
            raise broken("the member is encrypted; unpack the archive with its password first")
        if info.compress_type == zipfile.ZIP_BZIP2:
            packed = copy.copy(info)
            packed.compress_type, packed.file_size = zipfile.ZIP_STORED, info.compress_size
            del packed.CRC  # of what it unpacks to; bzip2 has sums of its own
            return io.BufferedReader(Unpacking(self._archive.open(packed), bz2.BZ2Decompressor))
        stream: Any = self._archive.open(info)
        if info.compress_type not in _BOUNDED:
            stream.MIN_READ_SIZE = _SMALL_READ
        return stream

    def _read(self, count: int) -> bytes:
        step = count if self._info.compress_type in _BOUNDED else _SMALL_READ
        pieces = []
        while count > 0:
            piece: bytes = self._stream.read(min(step, count))
            if not piece:
                break
            self._budget.spend(len(piece))
            self._came += len(piece)
            if self._came > self.size:
                raise broken("the member unpacks to more than it claims")
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)


class _BadMember(Member):
    """A member whose entry in the directory is broken."""

    def __init__(self, name: bytes, error: FetchError) -> None:
        self.name = name
        self.size = 0
        self.skip = None
        self._error = error

    def read(self, count: int) -> bytes:
        """See `Member`."""
        raise self._error


class _Excerpt(io.RawIOBase):
    """The archive up to its directory, followed by a directory of these entries alone."""

    def __init__(self, file: BinaryIO, directory: _Directory, entries: list[bytes]) -> None:
        self._file = file
        self._shift = directory.shift
        self._start = directory.start - directory.shift
        self._tail = _directory_bytes(self._start, entries)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = (0, self._position, self._start + len(self._tail))[whence]
        self._position = max(base + offset, 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        if self._position < self._start:
            self._file.seek(self._position + self._shift)
            data = self._file.read(min(len(view), self._start - self._position))
        else:
            data = self._tail[self._position - self._start :][: len(view)]
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


def _find_directory(file: BinaryIO) -> _Directory:
    """From the end of central directory record, and from its zip64 form where there is one."""
    size = file.seek(0, io.SEEK_END)
    tail_start = max(size - _END.size - _MAX_COMMENT, 0)
    file.seek(tail_start)
    tail = file.read(size - tail_start)
    end_index = len(tail) - _END.size
    # It ends the file with a comment of the length it says: one before is that of a zip inside.
    while end_index >= 0 and not _is_end(tail, end_index):
        end_index = tail.rfind(b"PK\x05\x06", 0, end_index + 3)
    if end_index < 0:
        raise broken("the archive does not end with its directory, as if it had been cut off")
    end = tail_start + end_index
    _, disk, _, _, count, length, offset, _ = _END.unpack_from(tail, end_index)
    modulus = 1 << 16
    before = max(end - _LOCATOR_64.size - _END_64.size, 0)
    file.seek(before)
    record = file.read(end - before)
    if len(record) == _END_64.size + _LOCATOR_64.size and record[_END_64.size :].startswith(
        b"PK\x06\x07"
    ):
        if not record.startswith(b"PK\x06\x06"):
            raise broken("the archive's zip64 directory cannot be found")
        _, _, _, _, disk, _, _, count, length, offset = _END_64.unpack_from(record)
        end, modulus = before, 1 << 64
    start = end - length
    if disk not in (0, 0xFFFF) or start < 0 or start < offset:
        raise broken("the archive's directory is not where it should be (or on another disk)")
    file.seek(0)
    if start > offset and file.read(4) == b"PK\x03\x04":
        raise broken("the archive is two in a row, or what was cut off behind a zip inside it")
    return _Directory(start, length, count, modulus, start - offset, size)


def _is_end(tail: bytes, at: int) -> bool:
    if tail[at : at + 4] != b"PK\x05\x06" or at + _END.size > len(tail):
        return False
    return int(_END.unpack_from(tail, at)[-1]) == len(tail) - at - _END.size


def _entries(file: BinaryIO, directory: _Directory, budget: Budget) -> Iterator[Member]:
    position, end = directory.start, directory.start + directory.length
    seen = claimed = 0
    while position < end:
        file.seek(position)
        entries = _split(file.read(min(_PIECE_BYTES, end - position)))
        if not entries:
            raise broken("the archive's directory breaks off")
        position += sum(map(len, entries))
        seen += len(entries)
        for member, packed in _members(file, directory, entries, budget):
            claimed += packed
            if claimed > directory.archive_bytes:
                raise archive_limit("its members overlap, as in a bomb")
            if member is not None:
                yield member
    if seen % directory.modulus != directory.count:
        raise broken(f"the archive's directory promises {directory.count} members and has {seen}")


def _split(piece: bytes) -> list[bytes]:
    """The whole entries at the start of a piece of the directory."""
    entries = []
    start = 0
    while piece[start : start + 4] == b"PK\x01\x02" and start + _ENTRY_BYTES <= len(piece):
        end = start + _ENTRY_BYTES + sum(_ENTRY_LENGTHS.unpack_from(piece, start + 28))
        if end > len(piece):
            break
        entries.append(piece[start:end])
        start = end
    return entries


def _plain(entry: bytes) -> bytes:
    """An entry with no more extra fields than zipfile looks at, and without its comment.

    zipfile copies what is left of them for each one: quadratic in 64 KiB of fields without content.
    """
    name_bytes, extra_bytes, _ = _ENTRY_LENGTHS.unpack_from(entry, 28)
    extra_start = _ENTRY_BYTES + name_bytes
    extra = entry[extra_start : extra_start + extra_bytes]
    kept: dict[int, bytes] = {}
    start = 0
    while start + _FIELD.size <= len(extra):
        kind, length = _FIELD.unpack_from(extra, start)
        end = start + _FIELD.size + length
        if kind in _FIELDS_IN_USE or end > len(extra):  # zipfile says what is wrong with the last
            kept.setdefault(kind, extra[start:end])
        start = end
    fields = b"".join(kept.values())
    lengths = _ENTRY_LENGTHS.pack(name_bytes, len(fields), 0)
    return b"".join((entry[:28], lengths, entry[34:extra_start], fields))


def _members(
    file: BinaryIO, directory: _Directory, entries: list[bytes], budget: Budget
) -> Iterator[tuple[Member | None, int]]:
    """Each entry's member, None for a folder, with the bytes that it takes up in the archive."""
    plain = [_plain(entry) for entry in entries]
    try:
        archive = zipfile.ZipFile(io.BufferedReader(_Excerpt(file, directory, plain)))
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise
        if len(entries) == 1:
            name_end = _ENTRY_BYTES + _ENTRY_LENGTHS.unpack_from(entries[0], 28)[0]
            problem = unreadable(error, "the member's entry in the directory")
            yield _BadMember(entries[0][_ENTRY_BYTES:name_end], problem), 0
            return
        for entry in entries:  # so that only the bad one is lost
            yield from _members(file, directory, [entry], budget)
        return
    with archive:
        for info in archive.infolist():
            name = _raw_name(info)
            packed = _LOCAL_BYTES + len(name) + info.compress_size
            if info.header_offset < 0 or info.header_offset + directory.shift + packed > (
                directory.start
            ):
                yield _BadMember(name, broken("the member does not lie within the archive")), 0
            elif name.endswith(b"/") and not info.file_size:
                yield None, packed
            else:
                yield _ZipMember(archive, info, budget), packed


def _raw_name(info: zipfile.ZipInfo) -> bytes:
    # zipfile cuts `filename` off at a NUL; orig_filename is as it was stored.
    return info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8 else "cp437")


def _directory_bytes(start: int, entries: list[bytes]) -> bytes:
    """A central directory of `entries` at `start`, with what has to follow it."""
    body = b"".join(entries)
    count, end = len(entries), start + len(body)
    if start < 0xFFFFFFFF:
        return body + _END.pack(b"PK\x05\x06", 0, 0, count, count, len(body), start, 0)
    return b"".join(
        (
            body,
            _END_64.pack(b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, len(body), start),
            _LOCATOR_64.pack(b"PK\x06\x07", 0, end, 1),
            _END.pack(b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0),
        )
    )
