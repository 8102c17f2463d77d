"""Members of a .tar, compressed or not, in one pass that also works on a stream."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import importlib
import io
import lzma
import re
import tarfile
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import Any, BinaryIO, cast

from moderate.errors import InputError
from moderate.installing import how_to_install
from moderate.sources.members import (
    ArchiveLimits,
    Budget,
    Member,
    archive_limit,
    broken,
    unreadable,
)
from moderate.sources.unpacking import Unpacking
from moderate.tables.gzip_text import CountedFile
from moderate.text import path_text, printable
from moderate.types import SkipReason

_READ_BYTES = 1 << 18
_MAX_HEADER_BYTES = 1 << 20  # of one member; PAX headers hold ACLs, long names, maps of holes
_MAX_XZ_MEMORY = 256 << 20  # xz -9 needs 65 MiB
_MAX_ZSTD_WINDOW = 128 << 20  # what the zstd command takes without being asked
# Before 3.12.6 and its like, tarfile's search through a PAX header is quadratic in a run of digits.
_LONG_NUMBER = re.compile(rb"\d{256}")
_RECORD_LENGTH = re.compile(rb"(\d{1,20}) ")  # of a PAX record, all of it
_MAX_EXTENDED = 16  # headers before that of a member; four kinds of them are in use, once each

_MAX_CHARSETS = 16  # once is enough
_TYPE_AT = 156  # where a header says what it is


class _Part(Enum):
    """What tarfile reads next of a member's header."""

    HEADER = auto()
    PAX = auto()
    LONG_NAME = auto()
    SPARSE_MAP = auto()


_EXTENDED = {
    **dict.fromkeys((tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE), _Part.PAX),
    **dict.fromkeys((tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK), _Part.LONG_NAME),
}


def tar_members(file: BinaryIO, name: bytes, limits: ArchiveLimits) -> Iterator[Member]:
    """Every member of a tar archive but folders; the first bytes tell the compression.

    gzip, bzip2, xz and (with Python 3.14 or the package `zstandard`) zstd. Raises FetchError where
    the archive cannot be read on, InputError for zstd without a decoder.
    """
    raw = CountedFile(file)
    budget = Budget(limits, lambda: raw.count)
    try:
        stream, packed = _unpacked(io.BufferedReader(raw, _READ_BYTES), name)
        reader = _Reader(stream, budget, can_seek=not packed and raw.seekable())
        tar = tarfile.TarFile(
            fileobj=cast("Any", reader), encoding="utf-8", errors="surrogateescape"
        )
        reader.in_header(False)
        info = tar.next()
        while info is not None:
            tar.members.clear()  # type: ignore[attr-defined]
            tar.pax_headers = {}  # global headers are kept, and copied, for every member
            if not info.isdir():
                yield _TarMember(tar, info, reader)
            info = _next_header(tar, reader)
        _check_rest(reader)
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - untrusted bytes can make it raise anything
        raise unreadable(error, "the archive") from None


class _TarMember(Member):
    """A member at which the stream stands."""

    def __init__(self, tar: tarfile.TarFile, info: tarfile.TarInfo, reader: _Reader) -> None:
        self.name = info.name.encode("utf-8", "surrogateescape")
        self.size = info.size
        self.skip = None
        if info.issym() or info.islnk():
            self.skip = SkipReason.SYMLINK
        elif not info.isreg():
            self.skip = SkipReason.NOT_REGULAR
        self._tar = tar
        self._info = info
        self._reader = reader
        self._stream: Any = None

    def read(self, count: int) -> bytes:
        """See `Member`."""
        try:
            if self._stream is None:
                self._stream = self._tar.extractfile(self._info)
            data: bytes = self._stream.read(count)
        except Exception as error:  # noqa: BLE001 - untrusted bytes can make it raise anything
            raise unreadable(error, "the member") from None
        if self._info.issparse():
            self._reader.budget.spend(len(data))  # holes are not read from anywhere
        return data


class _Reader:
    """What tarfile reads from: forward only, every byte counted, headers bounded."""

    def __init__(self, stream: BinaryIO, budget: Budget, *, can_seek: bool) -> None:
        self.budget = budget
        self._stream = stream
        self._can_seek = can_seek
        self._position = 0
        self._header_left: int | None = _MAX_HEADER_BYTES
        self._extended = 0
        self._expected = _Part.HEADER

    def in_header(self, inside: bool) -> None:
        """Say whether a header is read from here on, or a member's bytes."""
        self._header_left = _MAX_HEADER_BYTES if inside else None
        self._extended = 0
        self._expected = _Part.HEADER

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer only at the end."""
        if self._header_left is not None:
            self._header_left -= size
            if self._header_left < 0:
                raise archive_limit("a member's header is too large")
        data = b"".join(self._pieces(size))
        if self._header_left is not None:
            self._check_header(data)
        return data

    def _pieces(self, size: int) -> Iterator[bytes]:
        """The next `size` bytes, counted as they are read; fewer only at the end."""
        while size > 0:
            piece = self._stream.read(min(size, _READ_BYTES))
            if not piece:
                break
            self.budget.spend(len(piece))
            self._position += len(piece)
            size -= len(piece)
            yield piece

    def _check_header(self, data: bytes) -> None:
        """Refuse what would cost tarfile much more than it costs to read.

        In PAX records it looks for a `=` and for a line's end in all that follows, and it copies
        all global records for every header: each is quadratic.
        """
        if _LONG_NUMBER.search(data) or (self._expected is _Part.PAX and not _is_pax(data)):
            raise broken("the archive cannot be read: a header is damaged")
        if self._expected is not _Part.HEADER:
            if self._expected in (_Part.PAX, _Part.LONG_NAME):
                self._expected = _Part.HEADER
            return
        kind = data[_TYPE_AT : _TYPE_AT + 1]
        self._expected = _EXTENDED.get(kind, _Part.SPARSE_MAP)
        if kind in _EXTENDED:
            self._extended += 1
            if self._extended > _MAX_EXTENDED:
                raise archive_limit(f"a member has more than {_MAX_EXTENDED} headers")

    def seek(self, position: int) -> int:
        """Skip to `position`."""
        ahead = position - self._position
        if ahead < 0:
            raise tarfile.StreamError("a header points backwards")
        if self._can_seek and ahead > _READ_BYTES:
            self._stream.seek(ahead, io.SEEK_CUR)
            self._position = position
            return position
        for _ in self._pieces(ahead):
            pass
        return self._position

    def tell(self) -> int:
        """How far it has come."""
        return self._position


def _is_pax(data: bytes) -> bool:
    """Whether each record has its `=` within the length that it says."""
    start = 0
    while match := _RECORD_LENGTH.match(data, start):
        end = start + int(match[1])
        if data.find(b"=", match.end(), end) < 0:
            return False
        start = end
    return data.count(b"hdrcharset=") <= _MAX_CHARSETS


def _next_header(tar: tarfile.TarFile, reader: _Reader) -> tarfile.TarInfo | None:
    """The next member; None at the mark that ends an archive.

    TarFile.next takes a damaged header, and a file that was cut off, for the end.
    """
    end = tar.offset
    reader.in_header(False)
    if end > reader.tell():
        reader.seek(end - 1)
        if not reader.read(1):
            raise broken("the archive ends in the middle of a member")
    reader.in_header(True)
    try:
        return tarfile.TarInfo.fromtarfile(tar)
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        return None
    except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
        raise broken("the archive ends without its end mark, as if it had been cut off") from None
    finally:
        reader.in_header(False)


def _check_rest(reader: _Reader) -> None:
    """Read to the end, where a compressed file's checksum is, and miss no second archive."""
    reader.in_header(False)
    looked = False
    while block := reader.read(_READ_BYTES):
        rest = block.lstrip(b"\0")
        if not rest or looked:
            continue
        looked = True
        start = (len(block) - len(rest)) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
        try:
            tarfile.TarInfo.frombuf(
                block[start : start + tarfile.BLOCKSIZE], "utf-8", "surrogateescape"
            )
        except (tarfile.HeaderError, ValueError):
            continue  # tapes were padded with arbitrary memory
        raise broken("a second archive follows the first one's end mark; it was not read")


def _unpacked(file: io.BufferedReader, name: bytes) -> tuple[BinaryIO, bool]:
    """The tar stream in `file`, and whether that was compressed."""
    magic = file.peek(6)[:6]
    if magic.startswith(b"\x1f\x8b"):
        return cast("BinaryIO", gzip.GzipFile(fileobj=file, mode="rb")), True
    decompressor: Callable[[], Any]
    if magic.startswith(b"BZh"):
        decompressor = bz2.BZ2Decompressor
    elif magic.startswith(b"\xfd7zXZ\x00"):

        def decompressor() -> lzma.LZMADecompressor:
            return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_XZ_MEMORY)

    elif magic.startswith(b"\x28\xb5\x2f\xfd"):
        return _unpacked_zstd(file, name), True
    else:
        return file, False
    return io.BufferedReader(Unpacking(file, decompressor), _READ_BYTES), True


def require_zstd(name: bytes) -> tuple[Any, bool]:
    """The module that reads zstd, and whether it is Python's own; raises InputError without one."""
    with contextlib.suppress(ImportError):
        return importlib.import_module("compression.zstd"), True  # Python 3.14 and newer
    with contextlib.suppress(ImportError):
        return importlib.import_module("zstandard"), False
    raise InputError(
        f"{printable(path_text(name))} is compressed with zstd, which this Python cannot read; "
        f"{how_to_install('zstd')}"
    )


def _unpacked_zstd(file: io.BufferedReader, name: bytes) -> BinaryIO:
    zstd, is_own = require_zstd(name)
    if is_own:
        return io.BufferedReader(Unpacking(file, zstd.ZstdDecompressor), _READ_BYTES)
    decompressor = zstd.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW)
    return cast("BinaryIO", decompressor.stream_reader(file, _READ_BYTES, read_across_frames=True))
