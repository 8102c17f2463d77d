"""Where files keep small copies of their picture: thumbnails of JFIF, EXIF and Photoshop."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from moderate.decode.structures import LEAST_PICTURE_BYTES, BoundedBytes, directory_entries

RGB_THUMBNAIL, PALETTE_THUMBNAIL = "rgb thumbnail", "palette thumbnail"
"""Kinds of uncompressed thumbnails, which only JFIF has."""


def segment_thumbnails(
    file: BoundedBytes, marker: int, begin: int, end: int
) -> Iterator[tuple[str, int, int]]:
    """Kind, start and end of each small copy of the picture in a segment of a JPEG, in order.

    They do not overlap. RGB_THUMBNAIL and PALETTE_THUMBNAIL begin with width and height, a byte
    each. Source: JPEG File Interchange Format 1.02.
    """
    data = file.data
    if marker == 0xE0 and data.startswith(b"JFXX\x00\x10", begin):
        yield "jpeg", begin + 6, end
    elif marker == 0xE0 and data.startswith(b"JFXX\x00\x11", begin) and end - begin > 8:
        yield PALETTE_THUMBNAIL, begin + 6, end
    elif marker == 0xE0 and data.startswith(b"JFXX\x00\x13", begin) and end - begin > 8:
        yield RGB_THUMBNAIL, begin + 6, end
    elif marker == 0xE0 and data.startswith(b"JFIF\x00", begin) and end - begin > 14:
        yield RGB_THUMBNAIL, begin + 12, end
    elif marker == 0xE1 and data.startswith(b"Exif\x00", begin):
        if place := exif_thumbnail(data, begin + 6, end):
            yield "jpeg", *place
    elif marker == 0xED and data.startswith(b"Photoshop 3.0\x00", begin):
        for place in _photoshop_thumbnails(file, begin + 14, end):
            yield "jpeg", *place


def exif_thumbnail(data: bytes, base: int, end: int) -> tuple[int, int] | None:
    """Where the JPEG thumbnail of an EXIF block begins and ends. Source: EXIF 2.32, 4.5.5.

    base is the position of its TIFF header, end that of its end.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[base : base + 2])
    try:
        if order is None:
            return None
        first = base + struct.unpack_from(f"{order}I", data, base + 4)[0]
        (count,) = struct.unpack_from(f"{order}H", data, first)
        (offset,) = struct.unpack_from(f"{order}I", data, first + 2 + 12 * count)
        if not offset:
            return None
        values = {
            tag: value for tag, _, _, value in directory_entries(data, base + offset, end, order)
        }
    except struct.error:
        return None
    start = base + values.get(0x0201, end)
    after = min(start + values.get(0x0202, 0), end)
    return (start, after) if after - start >= LEAST_PICTURE_BYTES else None


def _photoshop_thumbnails(file: BoundedBytes, position: int, end: int) -> Iterator[tuple[int, int]]:
    """The thumbnail resources (1033, 1036). Source: Adobe Photoshop File Formats, image resources.

    Each has a header of 28 bytes before its JPEG.
    """
    data = file.data
    while position + 12 <= end and data.startswith(b"8BIM", position):
        file.step()
        (number,) = struct.unpack_from(">H", data, position + 4)
        name_bytes = (data[position + 6] + 2) & ~1
        at = position + 6 + name_bytes
        if at + 4 > end:
            return
        (size,) = struct.unpack_from(">I", data, at)
        begin, after = at + 4, min(at + 4 + size, end)
        if number in (1033, 1036) and after - begin > 28:
            yield begin + 28, after
        position = at + 4 + size + (size & 1)
