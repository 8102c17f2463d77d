"""Walks over the structure of files: segments, chunks, blocks, boxes and directory entries.

Plain reading of bytes, without a decoder. Time is bounded for any bytes: each part that is walked
costs a step, and a file has a limited number of them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

LEAST_PICTURE_BYTES = 64
"""No picture that shows anything is smaller."""

# Segments, chunks, blocks and boxes walked in one file. A GIF has a block for every 256 bytes.
_LEAST_STEPS, _BYTES_PER_STEP = 100_000, 128
_MOST_BOXES_AT_ONCE = 1_000
_NEXT_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_SOI, _EOI = 0xD8, 0xD9
_BOX_KIND = re.compile(rb"[A-Za-z0-9 _\xa9.-]{4}")


class OutOfStepsError(Exception):
    """The file has more parts than are walked."""


@dataclass(slots=True)
class BoundedBytes:
    """A whole file, with a limit on how many steps may be spent on walking it.

    steps is how many are left; a longer file has more.
    """

    data: bytes
    steps: int = field(init=False)
    reached: int = 0
    """Everything before this byte has been walked."""

    def __post_init__(self) -> None:
        self.steps = _LEAST_STEPS + len(self.data) // _BYTES_PER_STEP

    def step(self) -> None:
        """Count a step. Raises OutOfStepsError."""
        self.steps -= 1
        if self.steps < 0:
            raise OutOfStepsError


def jpeg_segments(file: BoundedBytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of the content of each segment of a JPEG, up to its end marker.

    The last one is the end marker. In a picture without one, the last stands for it: at the next
    start marker, or at the end of the data. Source: ITU-T T.81, B.1; stuffed zeros, fill bytes and
    restart markers are passed over, as libjpeg does.
    """
    data, position = file.data, start + 2
    while match := _NEXT_MARKER.search(data, position, end):
        file.step()
        at = match.start()
        marker = data[at + 1]
        if marker in (_EOI, _SOI):
            after = at + 2 if marker == _EOI else at
            yield marker, after, after
            return
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        position = at + 2 + max(length, 2)
        if position > end:
            break
        yield marker, at + 4, position
    yield _SOI, end, end


def png_chunks(file: BoundedBytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start of the content and end, checksum included, of each chunk."""
    position = start + 8
    while position + 12 <= end:
        file.step()
        length, kind = struct.unpack_from(">I4s", file.data, position)
        after = position + 12 + length
        if after > end:
            return
        yield kind, position + 8, after
        if kind == b"IEND":
            return
        position = after


def gif_end(file: BoundedBytes, start: int) -> int:
    """Where the GIF ends: after its trailer, or at the first byte that does not belong to a GIF.

    Raises IndexError where its data ends early.
    """
    data = file.data
    position = start + 13 + _colour_table_bytes(data[start + 10])
    while True:
        file.step()
        block = data[position]
        if block == 0x2C:
            position += 11 + _colour_table_bytes(data[position + 9])
        elif block == 0x21:
            position += 2
        else:
            return position + 1 if block == 0x3B else position
        while length := data[position]:
            file.step()
            position += 1 + length
            file.reached = position
        position += 1


def _colour_table_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def boxes(file: BoundedBytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start of the content and end of each box, up to the first bytes that are not a box."""
    data, position = file.data, start
    for _ in range(_MOST_BOXES_AT_ONCE):
        file.step()
        size, kind = (
            int.from_bytes(data[position : position + 4], "big"),
            data[position + 4 : position + 8],
        )
        begin = position + 8
        if size == 1:
            size, begin = int.from_bytes(data[begin : begin + 8], "big"), begin + 8
        elif size == 0:
            size = end - position
        after = position + size
        if len(kind) < 4 or after < begin or after > end or not _BOX_KIND.fullmatch(kind):
            return
        yield kind, begin, after
        position = after


def directory_entries(
    data: bytes, start: int, end: int, order: str
) -> Iterator[tuple[int, int, int, int]]:
    """Tag, type, count and value (or its offset) of each entry of a TIFF directory.

    order is the byte order as `struct` writes it, `<` or `>`. Raises struct.error.
    """
    if start + 2 > end:
        return
    (count,) = struct.unpack_from(f"{order}H", data, start)
    for at in range(start + 2, min(start + 2 + 12 * min(count, 1000), end - 11), 12):
        tag, kind, length, value = struct.unpack_from(f"{order}HHII", data, at)
        if kind == 3 and length == 1:
            (value,) = struct.unpack_from(f"{order}H", data, at + 8)
        yield tag, kind, length, value
