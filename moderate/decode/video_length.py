"""How long a video is by what its container declares, from a few headers and without a decoder.

Each container costs bounded time and memory, whatever the file claims. The answer is for estimates:
a file may declare anything.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO, TypeVar

from moderate.decode.video import LEAST_EVERY, VideoOptions

T = TypeVar("T")

_MOST_PARTS = 1000  # boxes, elements or chunks that are walked on one level
_MOST_BYTES = 1 << 16  # of a header that is read
_MOST_SECONDS = 1e9

_SEGMENT, _INFO, _TIMESTAMP_SCALE, _DURATION = 0x18538067, 0x1549A966, 0x2AD7B1, 0x4489
_NANOSECONDS = 1_000_000  # of a tick of Matroska, where the file does not say


def declared_seconds(file: BinaryIO, kind: str) -> float | None:
    """The duration that a video declares, in seconds; None where it declares none.

    kind is as `moderate.decode.video.video_kind` gives it. Moves the file's position. Raises
    OSError.
    """
    read = _READERS.get(kind)
    if read is None:
        return None
    try:
        seconds = read(file)
    except (struct.error, IndexError, OverflowError, ValueError):
        return None
    if seconds is None or not math.isfinite(seconds) or not 0 < seconds < _MOST_SECONDS:
        return None
    return seconds


def frame_count(seconds: float, options: VideoOptions) -> int:
    """About how many frames of a video of that length are scored."""
    every = options.every
    if options.min_frames > 1:
        every = min(every, max(LEAST_EVERY, seconds / options.min_frames))
    return min(max(1, math.ceil(seconds / every)), options.max_frames)


def _size(file: BinaryIO) -> int:
    return file.seek(0, os.SEEK_END)


def _first(parts: Iterator[tuple[T, int, int]], name: T) -> tuple[int, int] | None:
    """Start and end of the first part of that name."""
    return next(((start, end) for each, start, end in parts if each == name), None)


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end of the content of each box (ISO/IEC 14496-12, 4.2)."""
    for _ in range(_MOST_PARTS):
        file.seek(start)
        header = file.read(16)
        if start + 8 > end or len(header) < 8:
            return
        length, content = int.from_bytes(header[:4], "big"), start + 8
        if length == 1:
            length, content = int.from_bytes(header[8:16], "big"), start + 16
        after = start + length if length else end
        if after < content or after > end:
            return
        yield header[4:8], content, after
        start = after


def _of_mp4(file: BinaryIO) -> float | None:
    """From the movie header; of a file in fragments, from the extended one."""
    movie = _first(_boxes(file, 0, _size(file)), b"moov")
    if movie is None:
        return None
    scale = ticks = 0
    for name, first, after in _boxes(file, *movie):
        if name == b"mvhd":
            scale, ticks = _movie_header(file, first)
        elif name == b"mvex" and not ticks:
            for inner, content, _ in _boxes(file, first, after):
                if inner == b"mehd":
                    file.seek(content)
                    data = file.read(12)
                    ticks = int.from_bytes(data[4:12] if data[0] else data[4:8], "big")
    return ticks / scale if scale and ticks else None


def _movie_header(file: BinaryIO, start: int) -> tuple[int, int]:
    """The ticks of a second and of the movie; 0 where that is not known."""
    file.seek(start)
    data = file.read(32)
    layout, place = (">IQ", 20) if data[0] else (">II", 12)
    scale, ticks = struct.unpack_from(layout, data, place)
    unknown = (1 << 64) - 1 if data[0] else (1 << 32) - 1
    return scale, 0 if ticks == unknown else ticks


def _number(data: bytes, place: int, *, keep_marker: bool) -> tuple[int, int]:
    """A number of EBML (RFC 8794, 4) and where it ends; an unknown size has all its bits set."""
    length = 9 - data[place].bit_length()
    value = int.from_bytes(data[place : place + length], "big")
    if length > 8 or place + length > len(data):
        raise ValueError("no number of EBML")
    return value if keep_marker else value & ((1 << 7 * length) - 1), place + length


def _elements(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Id, start and end of the content of each element of EBML."""
    for _ in range(_MOST_PARTS):
        file.seek(start)
        header = file.read(12)
        if start >= end or len(header) < 2:
            return
        name, place = _number(header, 0, keep_marker=True)
        size, content = _number(header, place, keep_marker=False)
        is_unknown = size == (1 << 7 * (content - place)) - 1
        first = start + content
        after = end if is_unknown else first + size
        if after > end:
            return
        yield name, first, after
        start = after


def _of_matroska(file: BinaryIO) -> float | None:
    """From the information on the segment (RFC 9559, 5.1.2)."""
    segment = _first(_elements(file, 0, _size(file)), _SEGMENT)
    info = _first(_elements(file, *segment), _INFO) if segment else None
    if info is None:
        return None
    scale = _NANOSECONDS
    ticks: float | None = None
    for name, first, after in _elements(file, *info):
        if name not in (_TIMESTAMP_SCALE, _DURATION) or not 1 <= after - first <= 8:
            continue
        file.seek(first)
        data = file.read(after - first)
        if name == _TIMESTAMP_SCALE:
            scale = int.from_bytes(data, "big")
        else:
            (ticks,) = struct.unpack(">f" if len(data) == 4 else ">d", data)
    return None if ticks is None else ticks * scale / 1e9


def _of_avi(file: BinaryIO) -> float | None:
    """From the main header; None for a file of several parts, of which it counts the first."""
    whole = _size(file)
    file.seek(0)
    data = file.read(_MOST_BYTES)
    if int.from_bytes(data[4:8], "little") + 16 < whole:
        return None
    place = data.find(b"avih")
    if place < 0:
        return None
    microseconds, frames = struct.unpack_from("<I12xI", data, place + 8)
    return float(frames * microseconds / 1e6)


_READERS: dict[str, Callable[[BinaryIO], float | None]] = {
    **dict.fromkeys(("mp4", "quicktime", "3gp"), _of_mp4),
    "matroska": _of_matroska,
    "avi": _of_avi,
}
