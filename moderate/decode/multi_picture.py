"""The further pictures of a JPEG that its multi-picture index (MPF) lists.

Source: CIPA DC-007, Multi-Picture Format, 5.2. Gain maps of HDR photographs are such pictures.
"""

from __future__ import annotations

import struct

from moderate.decode.structures import directory_entries

MOST_PICTURES = 64
"""The most pictures of an index that are looked at."""

_ENTRIES = 0xB002  # the tag of the list of pictures
_MOST_TAGS = 64
_MOST_STARTS = 1000

Span = tuple[int, int]


def listed_pictures(data: bytes, start: int, end: int) -> tuple[Span, ...]:
    """Where the pictures after the first are, by an MPF index that lies from start to end.

    Each is (start, end) in bytes from the start of the file; (0, 0) stands for pictures that are
    not looked at. Empty where the index makes no sense. A picture that would begin after the end of
    the file is not there, and not listed.
    """
    index = data[start:end]
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(index[:4])
    if order is None:
        return ()
    try:
        entries = _entries(index, order)
    except struct.error:
        return ()
    spans = []
    for _, size, offset, _, _ in struct.iter_unpack(order + "3I2H", entries[: 16 * MOST_PICTURES]):
        first = start + offset
        if offset and first < len(data):
            spans.append((first, min(first + size, len(data)) if size else len(data)))
    if len(entries) > 16 * MOST_PICTURES:
        spans.append((0, 0))
    return tuple(spans)


def _entries(index: bytes, order: str) -> bytes:
    """The entries of 16 bytes each. Raises struct.error where the index ends early."""
    (position,) = struct.unpack_from(order + "I", index, 4)
    (count,) = struct.unpack_from(order + "H", index, position)
    for place in range(min(count, _MOST_TAGS)):
        tag, _, size, at = struct.unpack_from(order + "HHII", index, position + 2 + 12 * place)
        if tag == _ENTRIES and size > 4:
            entries = index[at : at + size]
            return entries[: len(entries) // 16 * 16]
    return b""


def listed_starts(data: bytes, base: int, end: int) -> frozenset[int]:
    """Where the listed pictures begin, by an MPF index between base and end.

    Pictures beyond MOST_PICTURES are included: the index says that they belong to the file, whether
    they are looked at or not. Raises struct.error.
    """
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(data[base : base + 4])
    if order is None:
        return frozenset()
    starts: set[int] = set()
    directory = base + struct.unpack_from(f"{order}I", data, base + 4)[0]
    for tag, _, count, value in directory_entries(data, directory, end, order):
        if tag == _ENTRIES:
            first, last = base + value, min(base + value + min(count, 16 * _MOST_STARTS), end)
            for entry in range(first, last - 15, 16):
                (offset,) = struct.unpack_from(f"{order}I", data, entry + 8)
                if offset:
                    starts.add(base + offset)
    return frozenset(starts)
