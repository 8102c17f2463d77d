"""Lists and tables that are compressed with gzip, unpacked as a stream within a limit."""

from __future__ import annotations

import gzip
import io
import zlib
from typing import Any, BinaryIO, cast

from moderate.errors import InputError
from moderate.text import one_line

SUFFIX = b".gz"
MAGIC = b"\x1f\x8b"

MAX_RATIO = 200
"""How many times its size a file may unpack to, once that is over RATIO_FROM_BYTES."""

RATIO_FROM_BYTES = 256 << 20


class CountedFile(io.RawIOBase):
    """A file that knows how many bytes were read of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.count = 0

    def readable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def seekable(self) -> bool:
        """See `io.RawIOBase`."""
        return self._file.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See `io.RawIOBase`."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """See `io.RawIOBase`."""
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        """See `io.RawIOBase`."""
        view = memoryview(buffer).cast("B")
        data = self._file.read(len(view))
        view[: len(data)] = data
        self.count += len(data)
        return len(data)


class GzipReader:
    """Unpacks a file of one or more gzip members as it is read; takes over nothing.

    No more is unpacked than is requested, so that memory does not depend on what the bytes unpack
    to. Raises InputError for bytes that are not gzip, that end too early, and for a bomb.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        """file is read from where it is; name is how messages show it."""
        self._name = name
        self._packed = CountedFile(file)
        self._stream = gzip.GzipFile(fileobj=cast("Any", self._packed), mode="rb")
        self._unpacked = 0

    def read1(self, count: int) -> bytes:
        """At most `count` bytes, as soon as there are any; none at the end."""
        try:
            data = self._stream.read1(count)
        except EOFError:
            raise self._cut_off() from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{self._name} is not readable gzip: {one_line(str(error))}") from None
        if not self._packed.count:
            raise self._cut_off()  # even nothing at all takes some bytes
        self._unpacked += len(data)
        allowed = max(RATIO_FROM_BYTES, MAX_RATIO * self._packed.count)
        if self._unpacked > allowed:
            raise InputError(
                f"{self._name} unpacks to more than {MAX_RATIO} times its size, as a compression "
                "bomb does; if it is sound, unpack it first"
            )
        return data

    def _cut_off(self) -> InputError:
        return InputError(f"{self._name} is cut off: its gzip data ends too early; fetch it again")
