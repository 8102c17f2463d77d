"""The containers of image formats, read without decoding a pixel.

Each function walks through one format's structure and refuses files that were cut short. For JPEG
and PNG it returns the bytes without the metadata, which can cost decoders time or make them fail: a
damaged ICC profile, a text chunk of 2 MB or a million comments never reach Pillow.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moderate.decode.colour import MOST_PROFILE_BYTES, png_profile
from moderate.decode.inflate import stored_chunk
from moderate.decode.multi_picture import Span, listed_pictures
from moderate.types import ErrorCode

MAX_FRAMES_COUNTED = 1000
"""Counting frames stops at this number, so that an animation of 200,000 frames costs no more."""

MAX_JPEG_SCANS = 1000
"""The most scans that are decoded. Photographs have 15 or fewer."""


class DecodeError(Exception):
    """An image that cannot be decoded: an error code, and a message for its row."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Container:
    """The bytes for the decoder, and what the container says of them.

    frames is the number of frames up to MAX_FRAMES_COUNTED. size is (width, height) in pixels where
    it has to be known before the decoder runs, else None. crop is the (width, height) from the
    upper left corner that viewers show, None for all. unreached says that the file holds images
    which the decoder does not give. default_apart says that the image of an animated PNG is not
    part of its animation. pictures are those after the first that a JPEG's index lists (see
    `listed_pictures`); they count as frames. adds_alpha is whether what is not covered is added to
    the colours as they are. profile is the ICC profile, which may be broken. exif is the EXIF block
    where the decoder does not give it.
    """

    data: bytes
    frames: int = 1
    multi_picture: bool = False
    size: tuple[int, int] | None = None
    bit_depth: int = 8
    interlaced: bool = False
    inflated_bytes: int = 0
    crop: tuple[int, int] | None = None
    unreached: bool = False
    default_apart: bool = False
    pictures: tuple[Span, ...] = ()
    adds_alpha: bool = False
    profile: bytes | None = None
    exif: bytes | None = None


def _corrupt(message: str) -> DecodeError:
    return DecodeError(ErrorCode.CORRUPT_IMAGE, message)


def _truncated(what: str) -> DecodeError:
    return DecodeError(ErrorCode.TRUNCATED, f"the file ends early: {what}")


# PNG ---------------------------------------------------------------------------------------------

_PNG_CRITICAL = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_PNG_COLOURS = frozenset({b"iCCP", b"sRGB", b"gAMA", b"cHRM"})
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type; PNG specification, table 11.1
# Adam7: first column and row, and the steps between columns and rows, of each pass.
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


def read_png(data: bytes) -> Container:
    """Check every chunk's length and CRC, which Pillow skips for IDAT; keep the chunks for pixels.

    Raises DecodeError: `truncated` for a chunk that runs past the end or a missing end,
    `corrupt_image` for a CRC that does not fit or chunks that make no sense.
    """
    view = memoryview(data)
    header: tuple[int, ...] | None = None
    before: list[memoryview] = []  # PLTE, tRNS
    image: list[memoryview] = []
    orientation: list[memoryview] = []
    colours: dict[bytes, bytes] = {}  # by chunk: how the colours are meant
    frames, controls, animated, in_animation, position, last = 1, 0, False, False, 8, b""
    while last != b"IEND":
        if position + 12 > len(data):
            raise _truncated("the last chunk of the PNG is missing")
        length, kind = struct.unpack_from(">I4s", data, position)
        after = position + 12 + length
        if after > len(data):
            raise _truncated(f"PNG chunk at byte {position} is cut off")
        (crc,) = struct.unpack_from(">I", data, after - 4)
        if zlib.crc32(view[position + 4 : after - 4]) != crc:
            raise _corrupt(f"wrong checksum in the PNG chunk at byte {position}")
        chunk = view[position:after]
        if (kind == b"IHDR") != (header is None):
            raise _corrupt("the PNG does not start with its one IHDR chunk")
        if kind == b"IHDR":
            if length != 13:
                raise _corrupt("the PNG has no valid IHDR chunk")
            header = struct.unpack_from(">IIBBBBB", data, position + 8)
        elif kind == b"IDAT":
            if image and last != b"IDAT":
                raise _corrupt("the PNG's image data is not in one piece")
            image.append(chunk)
        elif kind in (b"PLTE", b"tRNS"):
            before += [] if image else [chunk]
        elif kind in _PNG_COLOURS:
            if not image:
                colours.setdefault(kind, bytes(chunk[8:-4]))
        elif kind == b"eXIf":
            orientation = orientation or [chunk]
        elif kind == b"acTL" and length >= 4:
            (frames,) = struct.unpack_from(">I", data, position + 8)
            animated = True
        elif kind == b"fcTL":
            in_animation = in_animation or not image
            controls += 1
        elif kind[0] & 0x20 == 0 and kind not in _PNG_CRITICAL:
            raise _corrupt(f"the PNG needs an unknown chunk, at byte {position}")
        position, last = after, kind
    assert header is not None
    width, height, bit_depth, colour, _, _, interlace = header
    if colour == 3 and not any(bytes(chunk[4:8]) == b"PLTE" for chunk in before):
        raise _corrupt("the PNG has no palette")
    # An image before the animation, which is shown where animations are not, is one more frame.
    default_apart = animated and not in_animation
    frames = (max(frames, controls) if animated else 1) + default_apart
    inflated = _inflated_bytes(width, height, bit_depth * _PNG_CHANNELS.get(colour, 0), interlace)
    stored = stored_chunk([chunk[8:-4] for chunk in image], inflated)
    # eXIf may come after the image data, but Pillow looks for it before.
    kept = [view[:33], *orientation, *before, *(stored or image), view[position - 12 : position]]
    return Container(
        data=b"".join(kept),
        frames=min(max(frames, 1), MAX_FRAMES_COUNTED),
        size=(width, height),
        bit_depth=bit_depth,
        interlaced=bool(interlace),
        profile=_png_profile(colours),
        inflated_bytes=inflated,
        default_apart=default_apart,
    )


def _png_profile(colours: dict[bytes, bytes]) -> bytes | None:
    """The profile of a PNG: one that it holds, or what its gamma and corners amount to."""
    if b"iCCP" in colours:
        name_bytes = colours[b"iCCP"].find(b"\x00", 0, 80)
        try:  # behind the name and the number of the method
            stored = colours[b"iCCP"][name_bytes + 2 :]
            return zlib.decompressobj().decompress(stored, MOST_PROFILE_BYTES)
        except zlib.error:
            return None
    gamma, corners = colours.get(b"gAMA", b""), colours.get(b"cHRM", b"")
    if b"sRGB" in colours or len(gamma) != 4:
        return None
    points = struct.unpack(">8I", corners) if len(corners) == 32 else None
    return png_profile(int.from_bytes(gamma, "big"), points)


def _inflated_bytes(width: int, height: int, bits: int, interlace: int) -> int:
    """How many bytes a PNG's image data inflates to: the filter byte and samples of every row."""
    passes = _ADAM7 if interlace else ((0, 0, 1, 1),)
    total = 0
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total


def png_is_complete(container: Container) -> bool:
    """Whether the image data inflates to as many bytes as the header promises.

    Pillow takes a zlib stream that ends early for a whole image and leaves the rest black.
    """
    inflater = zlib.decompressobj()
    total, position, data = 0, 8, container.data
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IDAT":
            chunk = data[position + 8 : position + 8 + length]
            while chunk and not inflater.eof and total < container.inflated_bytes:
                total += len(inflater.decompress(chunk, 1 << 20))
                chunk = inflater.unconsumed_tail
        position += 12 + length
    total += len(inflater.flush())
    return total >= container.inflated_bytes


# JPEG --------------------------------------------------------------------------------------------

_SOI = 0xD8
_ICC = 0xE2
_SOS, _EOI, _EXIF, _MPF, _ADOBE, _JFIF, _COMMENT = 0xDA, 0xD9, 0xE1, 0xE2, 0xEE, 0xE0, 0xFE
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_READ_AHEAD = 16  # bytes; libjpeg-turbo fills a 64-bit buffer


def read_jpeg(data: bytes) -> Container:
    """Walk through the markers up to the first scan; drop comments and most application data.

    JFIF and Adobe, which say how colours are coded, and the first EXIF (orientation) are kept.
    Raises DecodeError: `truncated` without a scan or an end marker after it.
    """
    view = memoryview(data)
    tables: list[memoryview] = []
    wanted: dict[int, memoryview] = {}  # by marker: JFIF, EXIF, Adobe
    frame = b""
    pictures: tuple[Span, ...] = ()
    profile: list[bytes] = []
    multi_picture = False
    position = 2
    while True:
        # Like libjpeg: skip whatever is not a marker, and fill bytes before one.
        match = _MARKER.search(data, position)
        if match is None:
            raise _truncated("the JPEG has no picture data")
        position = match.start()
        marker = data[position + 1]
        if marker == _EOI:
            raise _truncated("the JPEG ends before its picture data")
        if position + 4 > len(data):
            raise _truncated("the JPEG has no picture data")
        after = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == _SOS:
            break
        if after > len(data):
            raise _truncated("the JPEG header is cut off")
        if marker == _MPF and data.startswith(b"MPF\x00", position + 4):
            multi_picture = True
            pictures = pictures or listed_pictures(data, position + 8, after)
        after = max(after, position + 2)
        if marker == _ICC and data.startswith(b"ICC_PROFILE\x00", position + 4):
            profile.append(data[position + 16 : after])
        if _affects_display(data[position + 4 : after], marker) and (
            # libjpeg obeys the last Adobe segment, viewers the first EXIF segment.
            marker == _ADOBE or marker not in wanted
        ):
            wanted[marker] = view[position:after]
        elif marker < 0xE0 or 0xEF < marker < _COMMENT:
            tables.append(view[position:after])
            frame = data[position:after] if marker in _FRAMES else frame
        position = after
    picture = _scan_data(data, position, frame)
    shown = [wanted[marker] for marker in sorted(wanted)]
    rebuilt = b"".join([b"\xff\xd8", *shown, *tables, *picture])
    return Container(
        data=rebuilt,
        frames=1 + len(pictures),
        multi_picture=multi_picture,
        pictures=pictures,
        profile=_jpeg_profile(profile),
    )


def _jpeg_profile(pieces: list[bytes]) -> bytes | None:
    """The ICC profile in a JPEG's segments, which begin with their number and their count."""
    by_number: dict[int, bytes] = {}
    for piece in pieces:
        by_number.setdefault(piece[0] if piece else 0, piece)
    count = pieces[0][1] if pieces and len(pieces[0]) > 1 else 0
    if sorted(by_number) != list(range(1, count + 1)):
        return None
    return b"".join(by_number[number][2:] for number in range(1, count + 1))


def _affects_display(payload: bytes, marker: int) -> bool:
    """Whether a segment is a valid JFIF, EXIF or Adobe segment. Incomplete ones confuse Pillow."""
    if marker == _JFIF:
        return payload.startswith(b"JFIF\x00") and len(payload) >= 14
    if marker == _EXIF:
        return payload.startswith(b"Exif\x00\x00") and len(payload) > 6
    return marker == _ADOBE and payload.startswith(b"Adobe") and len(payload) >= 12


def _scan_data(data: bytes, start: int, frame: bytes) -> list[bytes | memoryview]:
    """The image data from its first SOS marker on, arranged so that missing data is noticed.

    libjpeg paints missing data before an end marker grey, and only warns. A sequential image of one
    scan, as nearly all are, gets zeros in place of the end marker: enough for libjpeg to read
    ahead, too few for missing data, so that Pillow runs out of data and raises. A progressive image
    must have every frequency.
    """
    if data.rfind(b"\xff\xd9") < start:
        raise _truncated("the JPEG has no end marker")
    view = memoryview(data)
    scans = 0
    missing = _frequencies(frame)
    markers = _markers_in_scans(data, start)
    position = start
    while data[position + 1] != _EOI:
        if data[position + 1] == _SOI:  # viewers show what there is of the first picture
            raise _truncated("another picture begins before the JPEG's end marker")
        after = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if data[position + 1] == _SOS:
            scans += 1
            if scans > MAX_JPEG_SCANS:
                # Each is a pass over the whole image, so that a few kB of scans cost minutes.
                raise DecodeError(
                    ErrorCode.TOO_MANY_SCANS, f"the JPEG has over {MAX_JPEG_SCANS} scans"
                )
            _strike_out(missing, data[position + 4 : after])
        following = int(np.searchsorted(markers, after))
        if following == len(markers):  # a segment claims to reach beyond the end marker
            return [view[start:]]
        position = int(markers[following])
    if any(missing.values()):
        raise _truncated("the progressive JPEG lacks scans")
    if scans == 1 and frame[1:2] in (b"\xc0", b"\xc1"):
        return [view[start:position], bytes(_READ_AHEAD)]
    return [view[start:]]


def _markers_in_scans(data: bytes, start: int) -> NDArray[np.intp]:
    """Positions of markers from `start` on, without restart markers and what is no marker."""
    view = np.frombuffer(data, np.uint8)
    at = np.flatnonzero(view[start:-1] == 0xFF) + start
    code = view[at + 1]
    markers: NDArray[np.intp] = at[(code != 0x00) & (code != 0xFF) & ((code & 0xF8) != 0xD0)]
    return markers


def _frequencies(frame: bytes) -> dict[int, int]:
    """For each component of a progressive image, its 64 frequencies as bits."""
    if frame[1:2] not in (b"\xc2", b"\xca"):
        return {}
    return dict.fromkeys(frame[10::3], (1 << 64) - 1)


def _strike_out(missing: dict[int, int], scan: bytes) -> None:
    """Clear the frequencies that a scan holds, given its header from the count of components on.

    Source: ITU-T T.81, B.2.3: count, (component, tables) for each, first and last frequency.
    """
    count = scan[0] if scan else 0
    if len(scan) >= 4 + 2 * count:
        first, last = scan[1 + 2 * count], scan[2 + 2 * count]
        held = (1 << (min(last, 63) + 1)) - (1 << min(first, 63))
        for component in scan[1 : 1 + 2 * count : 2]:
            if component in missing:
                missing[component] &= ~held


# WebP --------------------------------------------------------------------------------------------


def read_webp(data: bytes) -> Container:
    """Check the RIFF length, and read the canvas size before libwebp allocates memory for it.

    Source: the WebP container specification (RFC 9649).
    """
    riff_end = 8 + int.from_bytes(data[4:8], "little")
    if riff_end > len(data):
        raise _truncated(f"the WebP promises {riff_end} bytes and has {len(data)}")
    kind, payload = data[12:16], data[20:30]
    # The size of a lossless image takes 5 bytes, of others 10.
    if len(payload) < (5 if kind == b"VP8L" else 10):
        raise _truncated("the WebP has no picture data")
    frames = 1
    size: tuple[int, int] | None = None
    if kind == b"VP8X":
        size = (
            1 + int.from_bytes(payload[4:7], "little"),
            1 + int.from_bytes(payload[7:10], "little"),
        )
        if payload[0] & 0x02:  # animation flag
            frames = _count_webp_frames(data, riff_end)
    elif kind == b"VP8L":
        bits = int.from_bytes(payload[1:5], "little")
        size = (1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    elif kind == b"VP8 ":
        size = (
            int.from_bytes(payload[6:8], "little") & 0x3FFF,
            int.from_bytes(payload[8:10], "little") & 0x3FFF,
        )
    data, adds_alpha = _with_lossless_alpha(data, riff_end)
    return Container(data=data, frames=frames, size=size, adds_alpha=adds_alpha)


_WEBP_CHUNKS_WALKED = 1000  # before the picture; real files have two


def _with_lossless_alpha(data: bytes, end: int) -> tuple[bytes, bool]:
    """A still lossless WebP with its alpha stated, and whether it was not.

    A lossless image may have alpha and state that it has none. libwebp then leaves it out, but
    Chromium shows it, by adding what is not covered to the colours as they are.
    """
    canvas = 20 if data[12:16] == b"VP8X" else None
    position = 12
    for _ in range(_WEBP_CHUNKS_WALKED):
        if data[position : position + 4] in (b"", b"VP8 ", b"ANMF", b"VP8L"):
            break
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8 + length + (length & 1)
    alpha = position + 12  # the byte with the flag in bit 4
    if data[position : position + 4] != b"VP8L" or alpha >= end:
        return data, False
    flags = [at for at in (canvas, alpha) if at is not None]
    if all(data[at] & 0x10 for at in flags):
        return data, False
    stated = bytearray(data)
    for at in flags:
        stated[at] |= 0x10
    return bytes(stated), not data[flags[0]] & 0x10


def _count_webp_frames(data: bytes, end: int) -> int:
    position, frames = 12, 0
    while position + 8 <= end and frames < MAX_FRAMES_COUNTED:
        frames += data[position : position + 4] == b"ANMF"
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8 + length + (length & 1)
    return max(frames, 1)


# GIF ---------------------------------------------------------------------------------------------


GIF_BLOCKS_WALKED = 100_000
"""Counting frames stops after so many blocks: 25 MB, or tens of thousands of tiny frames."""


def read_gif(data: bytes) -> Container:
    """Count frames up to MAX_FRAMES_COUNTED; invalid data after the first frame is ignored.

    Raises DecodeError `truncated` where the file ends before its trailer. A file without trailer
    looks the same as an animation, or an image in several layers, that was cut between two.
    """
    width, height = struct.unpack_from("<HH", data.ljust(10, b"\x00"), 6)
    return Container(data=data, frames=_count_gif_frames(data), size=(width, height))


def _count_gif_frames(data: bytes) -> int:
    if len(data) < 13:
        raise _truncated("the GIF has no picture data")
    position = 13 + colour_table_bytes(data[10])
    frames, left = 0, GIF_BLOCKS_WALKED
    try:
        while left > 0:
            block = data[position]
            if block == 0x2C:
                frames += 1
                position += 11 + colour_table_bytes(data[position + 9])
            elif block == 0x21:
                position += 2
            else:  # the trailer, or invalid data
                break
            while length := data[position]:
                position += 1 + length
                left -= 1
            position += 1
            left -= 1
    except IndexError:
        raise _truncated(f"the GIF has no trailer behind frame {max(frames, 1)}") from None
    return min(max(frames, 1), MAX_FRAMES_COUNTED)


def colour_table_bytes(flags: int) -> int:
    """The size of the palette that follows, by the flags of a screen or an image."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
