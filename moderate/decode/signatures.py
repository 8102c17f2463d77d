"""How files begin: the signatures of pictures, videos, archives and markup, and where each ends.

Also the trailers that cameras and editors are known to write.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

from moderate.decode.sniff import HEAD_BYTES, sniff
from moderate.decode.structures import BoundedBytes, boxes, gif_end, jpeg_segments, png_chunks

_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN = 0xDA


@dataclass(frozen=True, slots=True)
class Signature:
    """How a kind of file begins: with a pattern, `offset` bytes after its start.

    check gets the bytes, a start, and the end of the stretch that is searched. It returns the kind
    and end of the file that starts there, or None where the bytes only look like one.
    """

    pattern: re.Pattern[bytes]
    check: Callable[[BoundedBytes, int, int], tuple[str, int] | None]
    offset: int = 0
    is_picture: bool = True

    def next(self, data: bytes, start: int, end: int) -> int:
        """The first place from start on where such a file may begin; `end` where there is none."""
        match = self.pattern.search(data, min(start + self.offset, end), end)
        return match.start() - self.offset if match else end


def _check_jpeg(file: BoundedBytes, start: int, end: int) -> tuple[str, int] | None:
    has_frame = has_scan = False
    after = end
    for marker, begin, stop in jpeg_segments(file, start, end):
        if marker in _FRAME_MARKERS:
            sides = file.data[begin + 1 : begin + 5]
            has_frame = len(sides) == 4 and sides[:2] != b"\0\0" != sides[2:]
        has_scan |= marker == _START_OF_SCAN
        after = stop
    return ("jpeg", after) if has_frame and has_scan else None


def _check_png(file: BoundedBytes, start: int, end: int) -> tuple[str, int] | None:
    if file.data[start + 12 : start + 16] != b"IHDR":
        return None
    after = end
    for kind, _, after in png_chunks(file, start, end):
        if kind == b"IEND":
            return "png", after
    return "png", end


def _check_riff(file: BoundedBytes, start: int, end: int) -> tuple[str, int] | None:
    kind = {b"WEBP": "webp", b"AVI ": "avi"}.get(file.data[start + 8 : start + 12])
    length = int.from_bytes(file.data[start + 4 : start + 8], "little")
    return (kind, min(start + 8 + length, end)) if kind else None


def _check_gif(file: BoundedBytes, start: int, end: int) -> tuple[str, int] | None:
    sides = file.data[start + 6 : start + 10]
    if len(sides) < 4 or b"\x00\x00" in (sides[:2], sides[2:]):
        return None
    try:
        return "gif", min(gif_end(file, start), end)
    except IndexError:
        return "gif", end


def _check_bmp(file: BoundedBytes, start: int, end: int) -> tuple[str, int] | None:
    header = file.data[start : start + 54].ljust(54, b"\x00")
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


def _check_boxes(file: BoundedBytes, start: int, end: int) -> tuple[str, int] | None:
    """A file of boxes that begins with `ftyp`: HEIC, AVIF, MP4, QuickTime."""
    data = file.data
    size = int.from_bytes(data[start : start + 4], "big")
    brand = data[start + 8 : start + 12]
    if not 12 <= size <= 1024 or len(brand) < 4 or not all(32 <= byte < 127 for byte in brand):
        return None
    after = start
    for kind, _, box_end in boxes(file, start, end):
        if kind == b"ftyp" and after > start:  # another file begins
            break
        after = box_end
    return sniff(data[start : start + HEAD_BYTES]) or "mp4", max(after, start + size)


def _check_zip(file: BoundedBytes, start: int, end: int) -> tuple[str, int] | None:
    header = file.data[start : start + 30]
    if len(header) < 30:
        return None
    version, _, method = struct.unpack_from("<3H", header, 4)
    (name_bytes,) = struct.unpack_from("<H", header, 26)
    if version & 0xFF > 90 or method > 99 or not 0 < name_bytes <= 4096:
        return None
    last = file.data.rfind(b"PK\x05\x06", start, end)
    if last < 0:
        return "zip", end
    return "zip", min(last + 22 + int.from_bytes(file.data[last + 20 : last + 22], "little"), end)


def _rest(kind: str) -> Callable[[BoundedBytes, int, int], tuple[str, int] | None]:
    """A check for files whose end is not known: they go on to the end of the stretch."""
    return lambda file, start, end: (kind, end)


SIGNATURES = (
    Signature(re.compile(rb"\xff\xd8\xff[\xc0-\xfe]"), _check_jpeg),
    Signature(re.compile(rb"\x89PNG\r\n\x1a\n"), _check_png),
    Signature(re.compile(rb"GIF8[79]a"), _check_gif),
    Signature(re.compile(rb"RIFF....(?:WEBP|AVI )", re.DOTALL), _check_riff),
    Signature(
        re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00", re.DOTALL), _check_bmp
    ),
    Signature(re.compile(rb"ftyp"), _check_boxes, offset=4),
    Signature(re.compile(rb"\x1aE\xdf\xa3"), _rest("matroska"), is_picture=False),
    Signature(re.compile(rb"PK\x03\x04"), _check_zip, is_picture=False),
    Signature(re.compile(rb"Rar!\x1a\x07"), _rest("rar"), is_picture=False),
    Signature(re.compile(rb"7z\xbc\xaf\x27\x1c"), _rest("7z"), is_picture=False),
    Signature(re.compile(rb"%PDF-[12]\."), _rest("pdf"), is_picture=False),
    Signature(
        re.compile(rb"<(?:!doctype\s+html|html|head|body|iframe|svg)[\s>]", re.IGNORECASE),
        _rest("html"),
        is_picture=False,
    ),
    Signature(
        re.compile(rb"<(?:script[\s>]|\?php)", re.IGNORECASE), _rest("script"), is_picture=False
    ),
)
UNSIGNED = frozenset(
    {"tiff", "psd", "postscript", "jpeg-xl", "jpeg-2000", "qoi", "dds", "djvu", "xcf", "openexr"}
    | {"fits", "mng", "jng", "bpg", "flif", "ico", "emf", "svg", "quicktime", "mpeg", "asf", "ogg"}
)
"""Kinds without a signature above that `sniff` recognises by four bytes or more.

They are recognised only at the start of a stretch of unknown bytes.
"""


# Trailers of cameras and editors -----------------------------------------------------------------


def is_trailer(stretch: bytes) -> bool:
    """Whether it ends or begins as a trailer that cameras and editors are known to write.

    Files with a signature inside such a trailer are not its concern: they are found before.
    """
    return stretch.rstrip(b"\x00").endswith(_TRAILER_ENDS) or stretch.startswith(_TRAILER_STARTS)


# Samsung (SEF), Canon (VRD), PhotoMechanic, AFCP, FotoStation, as ExifTool's documentation names
# them.
_TRAILER_ENDS = (b"SEFT", b"CANON OPTIONAL DATA\x00", b"cbipcbbl", b"AXS!", b"AXS*", b"\xa1\xb2")
_TRAILER_STARTS = (b"CANON OPTIONAL DATA\x00", b"~\x00\x00\x00\x04zmie")
