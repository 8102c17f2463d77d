"""What a picture's file holds behind the picture or beside it, found without decoding a pixel.

Plain searches on bytes, which the run uses as well as the decoders. Time and memory are bounded for
any bytes: each signature is searched once, each place that looks like one costs a bounded number of
steps, and what is left when the steps are used up is reported as data.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from moderate.decode.bmp import end_of_bmp
from moderate.decode.containers import DecodeError
from moderate.decode.sniff import HEAD_BYTES, VIDEO_FORMATS, sniff

PICTURES = frozenset({"jpeg", "png", "gif", "webp", "bmp", "heif", "avif"})
VIDEOS = frozenset(VIDEO_FORMATS.values())

RGB_THUMBNAIL, PALETTE_THUMBNAIL = "rgb thumbnail", "palette thumbnail"
"""Thumbnails without compression, as JFIF has them."""

MOST_EMBEDDED = 20
"""Things of one file that are told apart; further ones are not named."""

MOST_SCORED = 16
"""Things of one file that `--embedded score` scores."""

LEAST_UNKNOWN_BYTES = 64 * 1024
"""Data of an unknown kind behind a picture is reported from this size on, padding not counted.

Cameras and phones write trailers of their own: makers' notes, camera modes, editing history. No
viewer shows them, and those that are no picture, video, archive or text with markup are smaller.
"""

# Segments, chunks, blocks and boxes walked in one file. A GIF has a block for every 256 bytes.
_LEAST_STEPS, _BYTES_PER_STEP = 100_000, 128
_MOST_CANDIDATES = 2_000  # places in one stretch that look like the start of something
_MOST_BOXES_AT_ONCE = 1_000
_PADDING = b"\x00\xff \r\n"
_LEAST_PICTURE_BYTES = 64  # no picture that shows anything is smaller


@dataclass(frozen=True, slots=True)
class Embedded:
    """Something that a file holds besides its picture, from `start` to `end` in its bytes.

    is_copy says that it is where cameras and editors keep a small copy of the picture: it matters
    only where it shows something else.
    """

    kind: str
    start: int
    end: int
    is_copy: bool = False

    @property
    def description(self) -> str:
        """How results name it: `jpeg of 34,567 bytes`."""
        return f"{self.kind} of {self.end - self.start:,} bytes"


@dataclass(frozen=True, slots=True)
class Contents:
    """What was found in a file: besides its picture, and the small copies of it."""

    others: tuple[Embedded, ...] = ()
    copies: tuple[Embedded, ...] = ()


def find_embedded(data: bytes, kind: str) -> Contents:
    """What a file of this kind (as `sniff` names it) holds besides its picture, in order.

    What a JPEG's multi-picture index (MPF) names is not among it: those are pictures of the file
    itself. Never raises for any bytes.
    """
    walk = _WALKS.get(kind)
    if walk is None:
        return Contents()
    search = _Search(data, steps=_LEAST_STEPS + len(data) // _BYTES_PER_STEP)
    try:
        walk(search)
    except _OutOfStepsError:
        search.note_rest()
    except (IndexError, ValueError, struct.error):  # its structure ends early
        pass
    found = sorted(search.found, key=lambda each: (each.start, each.end))
    copies = tuple(each for each in found if each.is_copy)
    return Contents(tuple(each for each in found if not each.is_copy)[:MOST_EMBEDDED], copies)


def scored_by_itself(found: Contents, kinds: tuple[str, ...]) -> tuple[Embedded, ...]:
    """Those of the things found that are scored in rows of their own, where these kinds are."""
    return tuple(each for each in found.others if each.kind in kinds)[:MOST_SCORED]


class _OutOfStepsError(Exception):
    """The file has more parts than are looked at."""


@dataclass(slots=True)
class _Search:
    """The state of one search: the file, what was found, and how many steps are left."""

    data: bytes
    found: list[Embedded] = field(default_factory=list)
    steps: int = 0
    reached: int = 0
    """All before it was looked at."""

    def step(self) -> None:
        """Count a step. Raises _OutOfStepsError."""
        self.steps -= 1
        if self.steps < 0:
            raise _OutOfStepsError

    def note(self, kind: str, start: int, end: int, *, is_copy: bool = False) -> None:
        """Add what was found."""
        self.found.append(Embedded(kind, start, end, is_copy))

    def note_rest(self) -> None:
        """Add all that was not looked at, as data of an unknown kind."""
        if self.reached < len(self.data):
            self.note("data", self.reached, len(self.data))

    def beside(self, start: int, end: int) -> None:
        """Search a part of the structure that holds no picture of the file itself."""
        if end - start >= _LEAST_PICTURE_BYTES:
            for kind, begin, after in self._things(start, end, pictures_only=True):
                self.note(kind, begin, after)

    def behind(self, start: int, named: frozenset[int] = frozenset(), *, data: bool = True) -> None:
        """Search all that follows the picture. `named` are starts of the file's own pictures.

        data says whether what is of no known kind is reported.
        """
        end = len(self.data)
        self.reached = start
        position = start
        for kind, begin, after in self._things(start, end):
            self._unknown(position, begin, report=data)
            if not (kind == "jpeg" and begin in named):
                self.note(kind, begin, after)
            position = after
        self._unknown(position, end, report=data)
        self.reached = end

    def _unknown(self, start: int, end: int, *, report: bool) -> None:
        """Report a stretch without signatures if it begins as another kind of file, or is large."""
        stretch = self.data[start:end]
        for begin in (start, end - len(stretch.lstrip(_PADDING))):
            kind = sniff(self.data[begin : min(begin + HEAD_BYTES, end)])
            if kind in _UNSIGNED and end - begin >= _LEAST_PICTURE_BYTES:
                self.note(kind, begin, end)
                return
        if report and not _is_trailer(stretch):
            content = stretch.translate(None, _PADDING)
            if len(content) >= LEAST_UNKNOWN_BYTES:
                self.note("data", start, end)

    def _things(
        self, start: int, end: int, *, pictures_only: bool = False
    ) -> Iterator[tuple[str, int, int]]:
        """What begins with a known signature between start and end: kind, start and end of each.

        Nothing within another is given.
        """
        signatures = [each for each in _SIGNATURES if each.is_picture or not pictures_only]
        upcoming = [each.next(self.data, start, end) for each in signatures]
        position, left = start, _MOST_CANDIDATES
        while (begin := min(upcoming)) < end:
            index = upcoming.index(begin)
            if begin >= position:
                left -= 1
                if left < 0:
                    raise _OutOfStepsError
                self.step()
                if thing := signatures[index].check(self, begin, end):
                    position = self.reached = min(max(thing[1], begin + 1), end)
                    yield thing[0], begin, position
            upcoming[index] = signatures[index].next(self.data, max(position, begin + 1), end)


# Trailers of cameras and editors -----------------------------------------------------------------


def _is_trailer(stretch: bytes) -> bool:
    """Whether it ends or begins as a trailer that cameras and editors are known to write.

    What is in one of them with a signature of its own was found before.
    """
    return stretch.rstrip(b"\x00").endswith(_TRAILER_ENDS) or stretch.startswith(_TRAILER_STARTS)


# Samsung (SEF), Canon (VRD), PhotoMechanic, AFCP, FotoStation, as ExifTool's documentation names
# them.
_TRAILER_ENDS = (b"SEFT", b"CANON OPTIONAL DATA\x00", b"cbipcbbl", b"AXS!", b"AXS*", b"\xa1\xb2")
_TRAILER_STARTS = (b"CANON OPTIONAL DATA\x00", b"~\x00\x00\x00\x04zmie")


# Signatures --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Signature:
    """How something begins: a pattern `offset` bytes after its start, and what it then is.

    check gives kind and end, or None where it only looks like it.
    """

    pattern: re.Pattern[bytes]
    check: Callable[[_Search, int, int], tuple[str, int] | None]
    offset: int = 0
    is_picture: bool = True

    def next(self, data: bytes, start: int, end: int) -> int:
        """The first place from start on where something may begin so; `end` where there is none."""
        match = self.pattern.search(data, min(start + self.offset, end), end)
        return match.start() - self.offset if match else end


_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_NEXT_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA


def _jpeg_segments(search: _Search, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of the content of each segment of a JPEG, up to its end marker.

    The last one is the end marker, or stands for it where the picture ends without: at another
    start marker or the end of the data. Source: ITU-T T.81, B.1; stuffed zeros, fill bytes and
    restart markers are passed over, as libjpeg does.
    """
    data, position = search.data, start + 2
    while match := _NEXT_MARKER.search(data, position, end):
        search.step()
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


def _check_jpeg(search: _Search, start: int, end: int) -> tuple[str, int] | None:
    has_frame = has_scan = False
    after = end
    for marker, begin, stop in _jpeg_segments(search, start, end):
        if marker in _FRAME_MARKERS:
            sides = search.data[begin + 1 : begin + 5]
            has_frame = len(sides) == 4 and sides[:2] != b"\0\0" != sides[2:]
        has_scan |= marker == _SOS
        after = stop
    return ("jpeg", after) if has_frame and has_scan else None


def _check_png(search: _Search, start: int, end: int) -> tuple[str, int] | None:
    if search.data[start + 12 : start + 16] != b"IHDR":
        return None
    after = end
    for kind, _, after in _png_chunks(search, start, end):
        if kind == b"IEND":
            return "png", after
    return "png", end


def _png_chunks(search: _Search, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start of the content and end, checksum included, of each chunk."""
    position = start + 8
    while position + 12 <= end:
        search.step()
        length, kind = struct.unpack_from(">I4s", search.data, position)
        after = position + 12 + length
        if after > end:
            return
        yield kind, position + 8, after
        if kind == b"IEND":
            return
        position = after


def _check_riff(search: _Search, start: int, end: int) -> tuple[str, int] | None:
    kind = {b"WEBP": "webp", b"AVI ": "avi"}.get(search.data[start + 8 : start + 12])
    length = int.from_bytes(search.data[start + 4 : start + 8], "little")
    return (kind, min(start + 8 + length, end)) if kind else None


def _check_gif(search: _Search, start: int, end: int) -> tuple[str, int] | None:
    sides = search.data[start + 6 : start + 10]
    if len(sides) < 4 or b"\x00\x00" in (sides[:2], sides[2:]):
        return None
    try:
        return "gif", min(_gif_end(search, start), end)
    except IndexError:
        return "gif", end


def _gif_end(search: _Search, start: int) -> int:
    """Where the GIF ends: after its trailer, or at the first byte that is not of a GIF."""
    data = search.data
    position = start + 13 + _colour_table_bytes(data[start + 10])
    while True:
        search.step()
        block = data[position]
        if block == 0x2C:
            position += 11 + _colour_table_bytes(data[position + 9])
        elif block == 0x21:
            position += 2
        else:
            return position + 1 if block == 0x3B else position
        while length := data[position]:
            search.step()
            position += 1 + length
            search.reached = position
        position += 1


def _colour_table_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _check_bmp(search: _Search, start: int, end: int) -> tuple[str, int] | None:
    header = search.data[start : start + 54].ljust(54, b"\x00")
    (size, _, offset, header_bytes) = struct.unpack_from("<4I", header, 2)
    if header_bytes == 12:
        width, height, planes, bits = struct.unpack_from("<4H", header, 18)
    else:
        width, height, planes, bits = struct.unpack_from("<iiHH", header, 18)
    if planes != 1 or bits not in (1, 2, 4, 8, 16, 24, 32) or not 0 < width < 1 << 16:
        return None
    if not 0 < abs(height) < 1 << 16 or offset < 14 + header_bytes or offset > 1 << 20:
        return None
    needed = offset + (width * bits + 31) // 32 * 4 * abs(height)
    return "bmp", start + (size if offset < size <= end - start else min(needed, end - start))


def _check_boxes(search: _Search, start: int, end: int) -> tuple[str, int] | None:
    """A file of boxes that begins with `ftyp`: HEIC, AVIF, MP4, QuickTime."""
    data = search.data
    size = int.from_bytes(data[start : start + 4], "big")
    brand = data[start + 8 : start + 12]
    if not 12 <= size <= 1024 or len(brand) < 4 or not all(32 <= byte < 127 for byte in brand):
        return None
    after = start
    for kind, _, box_end in _boxes(search, start, end):
        if kind == b"ftyp" and after > start:  # another file begins
            break
        after = box_end
    return sniff(data[start : start + HEAD_BYTES]) or "mp4", max(after, start + size)


def _boxes(search: _Search, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start of the content and end of each box, up to what is no box."""
    data, position = search.data, start
    for _ in range(_MOST_BOXES_AT_ONCE):
        search.step()
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


_BOX_KIND = re.compile(rb"[A-Za-z0-9 _\xa9.-]{4}")


def _check_zip(search: _Search, start: int, end: int) -> tuple[str, int] | None:
    header = search.data[start : start + 30]
    if len(header) < 30:
        return None
    version, _, method = struct.unpack_from("<3H", header, 4)
    (name_bytes,) = struct.unpack_from("<H", header, 26)
    if version & 0xFF > 90 or method > 99 or not 0 < name_bytes <= 4096:
        return None
    last = search.data.rfind(b"PK\x05\x06", start, end)
    if last < 0:
        return "zip", end
    return "zip", min(last + 22 + int.from_bytes(search.data[last + 20 : last + 22], "little"), end)


def _rest(kind: str) -> Callable[[_Search, int, int], tuple[str, int] | None]:
    """Something whose end is not known: it goes on to the end."""
    return lambda search, start, end: (kind, end)


_SIGNATURES = (
    _Signature(re.compile(rb"\xff\xd8\xff[\xc0-\xfe]"), _check_jpeg),
    _Signature(re.compile(rb"\x89PNG\r\n\x1a\n"), _check_png),
    _Signature(re.compile(rb"GIF8[79]a"), _check_gif),
    _Signature(re.compile(rb"RIFF....(?:WEBP|AVI )", re.DOTALL), _check_riff),
    _Signature(
        re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00", re.DOTALL), _check_bmp
    ),
    _Signature(re.compile(rb"ftyp"), _check_boxes, offset=4),
    _Signature(re.compile(rb"\x1aE\xdf\xa3"), _rest("matroska"), is_picture=False),
    _Signature(re.compile(rb"PK\x03\x04"), _check_zip, is_picture=False),
    _Signature(re.compile(rb"Rar!\x1a\x07"), _rest("rar"), is_picture=False),
    _Signature(re.compile(rb"7z\xbc\xaf\x27\x1c"), _rest("7z"), is_picture=False),
    _Signature(re.compile(rb"%PDF-[12]\."), _rest("pdf"), is_picture=False),
    _Signature(
        re.compile(rb"<(?:!doctype\s+html|html|head|body|iframe|svg)[\s>]", re.IGNORECASE),
        _rest("html"),
        is_picture=False,
    ),
    _Signature(
        re.compile(rb"<(?:script[\s>]|\?php)", re.IGNORECASE), _rest("script"), is_picture=False
    ),
)
# Kinds without a signature above that `sniff` tells by four bytes or more, and that are told where
# they come first.
_UNSIGNED = frozenset(
    {"tiff", "psd", "postscript", "jpeg-xl", "jpeg-2000", "qoi", "dds", "djvu", "xcf", "openexr"}
    | {"fits", "mng", "jng", "bpg", "flif", "ico", "emf", "svg", "quicktime", "mpeg", "asf", "ogg"}
)


# The containers ----------------------------------------------------------------------------------


def _walk_jpeg(search: _Search) -> None:
    data = search.data
    after = len(data)
    named: frozenset[int] = frozenset()
    for marker, begin, after in _jpeg_segments(search, 0, len(data)):
        search.reached = after
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            continue
        if marker == 0xE2 and data.startswith(b"MPF\x00", begin):
            named |= _named_pictures(data, begin + 4, after)
        copies = [*_copies_in(search, marker, begin, after)]
        for kind, start, end in copies:
            search.note(kind, start, end, is_copy=True)
        position = begin
        for _, start, end in copies:
            search.beside(position, start)
            position = end
        search.beside(position, after)
    search.behind(after, named)


def _named_pictures(data: bytes, base: int, end: int) -> frozenset[int]:
    """Where the pictures begin that a multi-picture index names. Source: CIPA DC-007, 5.2."""
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(data[base : base + 4])
    if order is None:
        return frozenset()
    named: set[int] = set()
    directory = base + struct.unpack_from(f"{order}I", data, base + 4)[0]
    for tag, _, count, value in _directory(data, directory, end, order):
        if tag == 0xB002:
            first, last = base + value, min(base + value + min(count, 16 * 1000), end)
            for entry in range(first, last - 15, 16):
                (offset,) = struct.unpack_from(f"{order}I", data, entry + 8)
                if offset:
                    named.add(base + offset)
    return frozenset(named)


def _directory(
    data: bytes, start: int, end: int, order: str
) -> Iterator[tuple[int, int, int, int]]:
    """Tag, type, count and value (or its offset) of each entry of a TIFF directory."""
    if start + 2 > end:
        return
    (count,) = struct.unpack_from(f"{order}H", data, start)
    for at in range(start + 2, min(start + 2 + 12 * min(count, 1000), end - 11), 12):
        tag, kind, length, value = struct.unpack_from(f"{order}HHII", data, at)
        if kind == 3 and length == 1:
            (value,) = struct.unpack_from(f"{order}H", data, at + 8)
        yield tag, kind, length, value


def _copies_in(
    search: _Search, marker: int, begin: int, end: int
) -> Iterator[tuple[str, int, int]]:
    """Where a segment keeps small copies of the picture, in order and apart from each other.

    The kinds RGB_THUMBNAIL and PALETTE_THUMBNAIL begin with the two sides, of a byte each. Source:
    JPEG File Interchange Format 1.02.
    """
    data = search.data
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
        for place in _photoshop_thumbnails(search, begin + 14, end):
            yield "jpeg", *place


def exif_thumbnail(data: bytes, base: int, end: int) -> tuple[int, int] | None:
    """Where the JPEG thumbnail of an EXIF block begins and ends. Source: EXIF 2.32, 4.5.5.

    base is where the TIFF header of the block is, end where the block ends.
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
        values = {tag: value for tag, _, _, value in _directory(data, base + offset, end, order)}
    except struct.error:
        return None
    start = base + values.get(0x0201, end)
    after = min(start + values.get(0x0202, 0), end)
    return (start, after) if after - start >= _LEAST_PICTURE_BYTES else None


def _photoshop_thumbnails(search: _Search, position: int, end: int) -> Iterator[tuple[int, int]]:
    """The thumbnail resources (1033, 1036). Source: Adobe Photoshop File Formats, image resources.

    Each has a header of 28 bytes before its JPEG.
    """
    data = search.data
    while position + 12 <= end and data.startswith(b"8BIM", position):
        search.step()
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


def _walk_png(search: _Search) -> None:
    data = search.data
    after = len(data)
    for kind, begin, after in _png_chunks(search, 0, len(data)):
        search.reached = after
        if kind == b"eXIf":
            _search_exif(search, begin, after)
        elif kind not in _PNG_PIXELS:
            search.beside(begin, after)
    search.behind(after)


_PNG_PIXELS = frozenset({b"IHDR", b"PLTE", b"IDAT", b"fdAT", b"fcTL", b"acTL", b"IEND"})


def _search_exif(search: _Search, begin: int, after: int) -> None:
    """The thumbnail of an EXIF block that is a part of its own, and what else is in the block."""
    base = begin + 6 if search.data.startswith(b"Exif\x00\x00", begin) else begin
    if place := exif_thumbnail(search.data, base, after):
        search.note("jpeg", *place, is_copy=True)
        search.beside(begin, place[0])
        begin = place[1]
    search.beside(begin, after)


def _walk_gif(search: _Search) -> None:
    search.behind(_gif_end(search, 0))


def _walk_webp(search: _Search) -> None:
    data = search.data
    riff_end = min(8 + int.from_bytes(data[4:8], "little"), len(data))
    position = 12
    while position + 8 <= riff_end:
        search.step()
        kind = data[position : position + 4]
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        begin, after = position + 8, min(position + 8 + length, riff_end)
        if kind == b"EXIF":
            _search_exif(search, begin, after)
        elif kind not in _WEBP_PIXELS:
            search.beside(begin, after)
        position = after + (length & 1)
        search.reached = min(position, riff_end)
    search.behind(riff_end)


_WEBP_PIXELS = frozenset({b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"})


def _walk_bmp(search: _Search) -> None:
    data = search.data
    try:
        end = min(end_of_bmp(data), len(data))
    except DecodeError:  # which the decoder says of the file, too
        return
    if data.startswith(b"BM"):
        (size, _, offset, header_bytes) = struct.unpack_from("<4I", data, 2)
        search.beside(min(14 + header_bytes, end), min(offset, end))
        compression = int.from_bytes(data[30:34], "little")
        if header_bytes >= 40 and compression in (1, 2):  # its size need not be in the header
            end = max(end, size if size <= len(data) else 0)
            search.beside(min(offset, end), end)
            search.behind(end, data=end > offset)
            return
    search.behind(end)


def _walk_boxes(search: _Search) -> None:
    """HEIC and AVIF: what is in boxes that hold no part of the picture, and behind the last."""
    after = 0
    for kind, begin, stop in _boxes(search, 0, len(search.data)):
        if kind == b"ftyp" and after:  # another file begins
            break
        after = stop
        if kind not in _BOXES_OF_THE_PICTURE:
            search.beside(begin, after)
        search.reached = after
    search.behind(after)


_BOXES_OF_THE_PICTURE = frozenset({b"ftyp", b"meta", b"mdat", b"moov", b"moof", b"mfra"})

_WALKS: dict[str, Callable[[_Search], None]] = {
    "jpeg": _walk_jpeg,
    "png": _walk_png,
    "gif": _walk_gif,
    "webp": _walk_webp,
    "bmp": _walk_bmp,
    "heif": _walk_boxes,
    "avif": _walk_boxes,
}
