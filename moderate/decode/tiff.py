"""The container of TIFF, read without decoding a pixel. TIFF is read where the user asks for it.

Sources: TIFF 6.0 (Adobe, 1992); BigTIFF as libtiff documents it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moderate.decode.containers import MAX_FRAMES_COUNTED, Container, DecodeError
from moderate.types import ErrorCode

# Bounds far above those of real files, on what all pages together cost to check.
_MAX_ENTRIES = 100_000
_MAX_PIECES = 1_000_000  # strips and tiles

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIP_OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_LENGTHS, _PLANAR = 273, 277, 278, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_LENGTHS, _SAMPLE_FORMAT = 322, 323, 324, 325, 339
_POINTERS = frozenset({0x8769, 0x8825, 0xA005})  # to EXIF, GPS and interoperability directories

# Bytes of one value of each type. A type that is not known here is not read by anybody.
_TYPE_BYTES = {
    **dict.fromkeys((1, 2, 6, 7), 1),
    **dict.fromkeys((3, 8), 2),
    **dict.fromkeys((4, 9, 11, 13), 4),
    **dict.fromkeys((5, 10, 12, 16, 17, 18), 8),
}
_NUMBER_BYTES = {1: 1, 3: 2, 4: 4, 13: 4, 16: 8, 18: 8}  # of the types of unsigned whole numbers

# Old JPEG (6) is left out because its decoder was a hole for decades, LZMA, Zstandard, WebP and
# others because few programs read them.
_RAW, _JPEG = 1, 7
_COMPRESSIONS = frozenset({_RAW, 2, 3, 4, 5, _JPEG, 8, 32773, 32946})
_WHITE_IS_ZERO, _YCBCR = 0, 6
_PHOTOMETRICS = frozenset({_WHITE_IS_ZERO, 1, 2, 3, 5, _YCBCR})
_DEPTHS = frozenset({1, 2, 4, 8, 16})
_UNSIGNED, _UNDEFINED = 1, 4


def read_tiff(data: bytes) -> Container:
    """Check that all data of each page is in the file and of a kind whose pixels are understood.

    frames is the number of pages. size is the largest of any page or tile. EXIF directories are
    hidden from the decoder, because a broken one would cost the image; the orientation is not in
    them. Raises DecodeError: `truncated`, `corrupt_image`, or `unsupported_format` for 32-bit and
    floating-point samples, colours by other models, and rare compressions, on any page.
    """
    reader = _Reader(data)
    while reader.next_page and reader.pages < MAX_FRAMES_COUNTED:
        reader.check_page()
    if not reader.pages:
        raise _corrupt("there is no page in it")
    return Container(
        data=reader.shown(),
        frames=reader.pages,
        multi_picture=reader.pages > 1,
        size=reader.largest,
    )


def _corrupt(message: str) -> DecodeError:
    return DecodeError(ErrorCode.CORRUPT_IMAGE, f"TIFF: {message}")


def _cut_off(message: str) -> DecodeError:
    return DecodeError(ErrorCode.TRUNCATED, f"TIFF: the file ends early: {message}")


def unsupported(what: str) -> DecodeError:
    """An error of a TIFF whose pixels are of a kind that is not read."""
    return DecodeError(
        ErrorCode.UNSUPPORTED_FORMAT, f"a rare kind of TIFF ({what}); convert it to JPEG or PNG"
    )


@dataclass(frozen=True, slots=True)
class _Values:
    """Where in the file the values of a tag are."""

    kind: int
    count: int
    start: int


class _Reader:
    """Goes from page to page."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._order = ">" if data[:2] == b"MM" else "<"
        self._big = 43 in data[2:4]
        self._seen: set[int] = set()
        self._entries = self._pieces = 0
        self._pointers: list[int] = []
        self.pages = 0
        self.largest = (0, 0)
        self.next_page = self._number(8, 8) if self._big else self._number(4, 4)

    def shown(self) -> bytes:
        """The file without pointers to EXIF: their tags get numbers that nobody knows."""
        if not self._pointers:
            return self._data
        changed = bytearray(self._data)
        for at in self._pointers:
            changed[at : at + 2] = (0xFFF0).to_bytes(2, "big" if self._order == ">" else "little")
        return bytes(changed)

    def check_page(self) -> None:
        """Check the page at `next_page` and go to the one behind it."""
        at = self.next_page
        self._seen.add(at)
        self.pages += 1
        count_bytes, entry_bytes, pointer_bytes = (8, 20, 8) if self._big else (2, 12, 4)
        count = self._number(at, count_bytes)
        self._entries += count
        if self._entries > _MAX_ENTRIES:
            raise _corrupt(f"it has over {_MAX_ENTRIES} tags")
        end = at + count_bytes + entry_bytes * count
        following = self._number(end, pointer_bytes)
        self._check(self._tags(range(at + count_bytes, end, entry_bytes)))
        self.next_page = 0 if following in self._seen else following

    def _tags(self, places: range) -> dict[int, _Values]:
        tags: dict[int, _Values] = {}
        room = 8 if self._big else 4
        for at in places:
            tag, kind, count = (
                self._number(at, 2),
                self._number(at + 2, 2),
                self._number(at + 4, room),
            )
            self._pointers += [at] if tag in _POINTERS else []
            start = at + 4 + room
            if (length := _TYPE_BYTES.get(kind, 0) * count) > room:
                start = self._number(start, room)
                if start + length > len(self._data):
                    raise _cut_off(f"the values of tag {tag} are missing")
            tags[tag] = _Values(kind, count, start)
        return tags

    def _check(self, tags: dict[int, _Values]) -> None:
        width, height = self._first(tags, _WIDTH), self._first(tags, _HEIGHT)
        if not (width and height):
            raise _corrupt("a page has no size")
        self._note((width, height))
        compression = self._first(tags, _COMPRESSION) or _RAW
        self._check_kind(tags, compression)
        tiled = _TILE_OFFSETS in tags
        columns, rows = width, self._first(tags, _ROWS_PER_STRIP) or height
        if tiled:
            columns, rows = (
                self._first(tags, _TILE_WIDTH) or 0,
                self._first(tags, _TILE_HEIGHT) or 0,
            )
            if not (columns and rows):
                raise _corrupt("a page's tiles have no size")
            self._note((columns, rows))
        starts = self._numbers(tags.get(_TILE_OFFSETS if tiled else _STRIP_OFFSETS))
        lengths = self._numbers(tags.get(_TILE_LENGTHS if tiled else _STRIP_LENGTHS))
        planes = 1
        if self._first(tags, _PLANAR) == 2:
            planes = self._first(tags, _SAMPLES) or 1
        needed = math.ceil(width / columns) * math.ceil(height / rows) * planes
        if len(starts) < needed:
            raise _corrupt("a page has no place for some of its data")
        if not len(lengths) and compression == _RAW:  # Pillow notices what is missing
            return
        if len(lengths) < len(starts) or not lengths[:needed].all():
            raise _corrupt("a page lacks some of its data")
        if int((starts + lengths[: len(starts)]).max()) > len(self._data):
            raise _cut_off("a part of a page is missing")

    def _check_kind(self, tags: dict[int, _Values], compression: int) -> None:
        if compression not in _COMPRESSIONS:
            raise unsupported(f"compression {compression}")
        photometric = self._first(tags, _PHOTOMETRIC) or _WHITE_IS_ZERO
        depths = {int(bits) for bits in self._numbers(tags.get(_BITS))} or {1}
        kinds = {int(kind) for kind in self._numbers(tags.get(_SAMPLE_FORMAT))}
        if not kinds <= {_UNSIGNED, _UNDEFINED}:
            raise unsupported("samples that are not whole numbers from 0")
        if not depths <= _DEPTHS or (photometric == _WHITE_IS_ZERO and 16 in depths):
            raise unsupported(f"samples of {max(depths)} bits")
        # Without JPEG, chroma may be stored at a lower resolution, which Pillow does not know.
        if photometric not in _PHOTOMETRICS or (photometric == _YCBCR and compression != _JPEG):
            raise unsupported(f"photometric interpretation {photometric}")

    def _note(self, size: tuple[int, int]) -> None:
        self.largest = max(self.largest, size, key=lambda sides: sides[0] * sides[1])

    def _first(self, tags: dict[int, _Values], tag: int) -> int | None:
        values = tags.get(tag)
        if values is None or not values.count:
            return None
        return self._number(values.start, _NUMBER_BYTES.get(values.kind, 4))

    def _numbers(self, values: _Values | None) -> NDArray[Any]:
        """All values of a tag, 2^40 at the most so that sums of them stay exact."""
        if values is None:
            return np.zeros(0, np.int64)
        size = _NUMBER_BYTES.get(values.kind)
        if size is None:
            raise _corrupt("a list in it is not of numbers")
        self._pieces += values.count
        if self._pieces > _MAX_PIECES:
            raise _corrupt(f"it is in over {_MAX_PIECES} pieces")
        if values.start + size * values.count > len(self._data):
            raise _cut_off("a list of its parts is missing")
        read = np.frombuffer(self._data, f"{self._order}u{size}", values.count, values.start)
        return np.minimum(read.astype(np.uint64), np.uint64(1 << 40)).astype(np.int64)

    def _number(self, at: int, size: int) -> int:
        if at + size > len(self._data):
            raise _cut_off("its directory is missing")
        return int.from_bytes(self._data[at : at + size], "big" if self._order == ">" else "little")
