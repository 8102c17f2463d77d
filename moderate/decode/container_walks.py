"""Which stretches of a file are searched for embedded files: one walk per kind of container.

Beside the picture, only the parts that hold nothing of it; behind the picture, everything.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from moderate.decode.bmp import end_of_bmp
from moderate.decode.carving import Search
from moderate.decode.containers import DecodeError
from moderate.decode.multi_picture import listed_starts
from moderate.decode.structures import boxes, gif_end, jpeg_segments, png_chunks
from moderate.decode.thumbnail_places import exif_thumbnail, segment_thumbnails


def _walk_jpeg(search: Search) -> None:
    data = search.file.data
    after = len(data)
    listed: frozenset[int] = frozenset()
    for marker, begin, after in jpeg_segments(search.file, 0, len(data)):
        search.file.reached = after
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            continue
        if marker == 0xE2 and data.startswith(b"MPF\x00", begin):
            listed |= listed_starts(data, begin + 4, after)
        copies = [*segment_thumbnails(search.file, marker, begin, after)]
        for kind, start, end in copies:
            search.note(kind, start, end, is_copy=True)
        position = begin
        for _, start, end in copies:
            search.beside(position, start)
            position = end
        search.beside(position, after)
    search.behind(after, listed)


def _walk_png(search: Search) -> None:
    data = search.file.data
    after = len(data)
    for kind, begin, after in png_chunks(search.file, 0, len(data)):
        search.file.reached = after
        if kind == b"eXIf":
            _search_exif(search, begin, after)
        elif kind not in _PNG_PIXELS:
            search.beside(begin, after)
    search.behind(after)


_PNG_PIXELS = frozenset({b"IHDR", b"PLTE", b"IDAT", b"fdAT", b"fcTL", b"acTL", b"IEND"})


def _search_exif(search: Search, begin: int, after: int) -> None:
    """Search an EXIF block of a PNG or WebP: its thumbnail is a copy, anything else is not."""
    base = begin + 6 if search.file.data.startswith(b"Exif\x00\x00", begin) else begin
    if place := exif_thumbnail(search.file.data, base, after):
        search.note("jpeg", *place, is_copy=True)
        search.beside(begin, place[0])
        begin = place[1]
    search.beside(begin, after)


def _walk_gif(search: Search) -> None:
    search.behind(gif_end(search.file, 0))


def _walk_webp(search: Search) -> None:
    data = search.file.data
    riff_end = min(8 + int.from_bytes(data[4:8], "little"), len(data))
    position = 12
    while position + 8 <= riff_end:
        search.file.step()
        kind = data[position : position + 4]
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        begin, after = position + 8, min(position + 8 + length, riff_end)
        if kind == b"EXIF":
            _search_exif(search, begin, after)
        elif kind not in _WEBP_PIXELS:
            search.beside(begin, after)
        position = after + (length & 1)
        search.file.reached = min(position, riff_end)
    search.behind(riff_end)


_WEBP_PIXELS = frozenset({b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"})


def _walk_bmp(search: Search) -> None:
    data = search.file.data
    try:
        end = min(end_of_bmp(data), len(data))
    except DecodeError:  # the decoder reports the same error
        return
    if data.startswith(b"BM"):
        (size, _, offset, header_bytes) = struct.unpack_from("<4I", data, 2)
        search.beside(min(14 + header_bytes, end), min(offset, end))
        compression = int.from_bytes(data[30:34], "little")
        if header_bytes >= 40 and compression in (1, 2):  # the header need not state its size
            end = max(end, size if size <= len(data) else 0)
            search.beside(min(offset, end), end)
            search.behind(end, data=end > offset)
            return
    search.behind(end)


def _walk_boxes(search: Search) -> None:
    """HEIC and AVIF: the boxes that hold no part of the picture, and what follows the last box."""
    after = 0
    for kind, begin, stop in boxes(search.file, 0, len(search.file.data)):
        if kind == b"ftyp" and after:  # another file begins
            break
        after = stop
        if kind not in _BOXES_OF_THE_PICTURE:
            search.beside(begin, after)
        search.file.reached = after
    search.behind(after)


_BOXES_OF_THE_PICTURE = frozenset({b"ftyp", b"meta", b"mdat", b"moov", b"moof", b"mfra"})

WALKS: dict[str, Callable[[Search], None]] = {
    "jpeg": _walk_jpeg,
    "png": _walk_png,
    "gif": _walk_gif,
    "webp": _walk_webp,
    "bmp": _walk_bmp,
    "heif": _walk_boxes,
    "avif": _walk_boxes,
}
"""The walk for each kind of file, as `sniff` names it.

A walk adds what it finds to the search. It raises OutOfStepsError, or IndexError, ValueError or
struct.error where the structure of the file ends early.
"""
