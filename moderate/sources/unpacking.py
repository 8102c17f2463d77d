"""Decompression that never produces more than is requested, whatever the bytes unpack to."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

_READ_BYTES = 1 << 16


class Unpacking(io.RawIOBase):
    """What a decompressor with the interface of bz2's and lzma's makes of a file, in streams.

    Raises EOFError where the file ends before a stream does, and what the decompressor raises.
    """

    def __init__(self, file: Any, decompressor: Callable[[], Any]) -> None:
        self._file = file
        self._new = decompressor
        self._decompressor = decompressor()

    def readable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def readinto(self, buffer: Any) -> int:
        """See `io.RawIOBase`."""
        view = memoryview(buffer).cast("B")
        data = b""
        while not data:
            if self._decompressor.eof:
                # Another stream may follow, after the zeros that xz pads with.
                packed = self._decompressor.unused_data.lstrip(b"\0")
                while not packed and (more := self._file.read(_READ_BYTES)):
                    packed = more.lstrip(b"\0")
                if not packed:
                    return 0
                self._decompressor = self._new()
            elif self._decompressor.needs_input:
                packed = self._file.read(_READ_BYTES)
                if not packed:
                    raise EOFError("it ends too early")
            else:
                packed = b""
            data = self._decompressor.decompress(packed, len(view))
        view[: len(data)] = data
        return len(data)
