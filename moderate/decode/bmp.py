"""Windows and OS/2 bitmaps (BMP), as browsers draw them.

Pillow's own reader refuses a good part of the kinds that browsers show, and ignores alpha that they
draw. Sources: BITMAPCOREHEADER, BITMAPINFOHEADER, BITMAPV4HEADER and BITMAPV5HEADER in Microsoft's
Windows GDI documentation; OS/2 bitmap file format. Where they leave a choice, Chromium's is taken.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moderate.decode.containers import Container, DecodeError
from moderate.decode.pixels import BACKGROUND
from moderate.types import ErrorCode

_FILE_HEADER = 14  # bytes; a DIB, as on the clipboard, has none
_CORE_HEADER = 12
_MICROSOFT_HEADERS = frozenset({40, 52, 56, 108, 124})
_OS2_HEADERS = frozenset({*range(16, 65, 4), 42, 46}) - _MICROSOFT_HEADERS
_LONGEST_HEADER = 124

_EMBEDDED_PROFILE = b"DEBM"  # bV5CSType

# biCompression. OS/2 uses 3 and 4 for other things: see _Header.
_PLAIN, _RLE8, _RLE4, _BIT_FIELDS, _JPEG, _PNG, _ALPHA_BIT_FIELDS = range(7)
_RLE24 = -1

_END_OF_LINE, _END_OF_BITMAP, _DELTA = 0, 1, 2  # escapes of run-length coding

_PALETTE_MODES = {1: "P;1", 2: "P;2", 4: "P;4", 8: "P"}  # by bits of a pixel: Pillow's raw modes
_RAW_MODES = {  # by the masks of 32-bit pixels: Pillow's mode and raw mode
    (0xFF0000, 0xFF00, 0xFF, 0): ("RGB", "BGRX"),
    (0xFF0000, 0xFF00, 0xFF, 0xFF000000): ("RGBA", "BGRA"),
    (0xFF, 0xFF00, 0xFF0000, 0xFF000000): ("RGBA", "RGBA"),
}
_BAND_PIXELS = 1_000_000


@dataclass(frozen=True, slots=True)
class _Header:
    """What a BMP's header says.

    palette and pixels are positions in the file, and image_bytes the stated size of the pixels.
    compression is _PLAIN where masks says how pixels are coded, else one of the run-length
    codings. colours is how many the palette holds, of colour_bytes each.
    """

    width: int
    height: int
    top_down: bool
    bits: int
    compression: int
    masks: tuple[int, int, int, int]
    palette: int
    colours: int
    colour_bytes: int
    pixels: int
    image_bytes: int

    @property
    def row_bytes(self) -> int:
        """The size of a row that is not run-length coded."""
        return (self.width * self.bits + 31) // 32 * 4


def read_bmp(data: bytes) -> Container:
    """Read the size from the header. Raises DecodeError where the header makes no sense."""
    header = _read_header(data)
    return Container(data=data, size=(header.width, header.height), profile=_profile(data))


def end_of_bmp(data: bytes) -> int:
    """Where the pixels of a BMP end, as far as its header says that. Raises DecodeError."""
    header = _read_header(data)
    plain = header.compression == _PLAIN
    return header.pixels + (header.row_bytes * header.height if plain else header.image_bytes)


def open_bmp(data: bytes) -> Image.Image:
    """Decode a BMP: a palette image, RGB, or RGBA where some of it is transparent.

    Raises DecodeError: `truncated` where rows are missing, `unsupported_format` for a kind that
    browsers do not show either, `corrupt_image` where the header makes no sense.
    """
    header = _read_header(data)
    if header.compression != _PLAIN:
        return _open_run_lengths(data, header)
    if len(data) < header.pixels + header.row_bytes * header.height:
        raise _truncated()
    if header.bits <= 8:
        image = _from_raw(data, header, "P", _PALETTE_MODES[header.bits])
        image.putpalette(_palette(data, header))
        return image
    if header.bits == 24:
        return _from_raw(data, header, "RGB", "BGR")
    if header.bits == 32 and header.masks in _RAW_MODES:
        return _from_raw(data, header, *_RAW_MODES[header.masks])
    return _from_masks(data, header)


def _corrupt(message: str) -> DecodeError:
    return DecodeError(ErrorCode.CORRUPT_IMAGE, message)


def _unsupported(what: str) -> DecodeError:
    return DecodeError(ErrorCode.UNSUPPORTED_FORMAT, f"a rare kind of BMP ({what})")


def _truncated() -> DecodeError:
    return DecodeError(ErrorCode.TRUNCATED, "the file ends early: rows are missing")


# Header -------------------------------------------------------------------------------------------


def _read_header(data: bytes) -> _Header:
    start = _FILE_HEADER if data.startswith(b"BM") else 0
    size = int.from_bytes(data[start : start + 4], "little")
    if size not in _MICROSOFT_HEADERS | _OS2_HEADERS | {_CORE_HEADER}:
        raise _unsupported(f"a header of {size} bytes")
    after = start + size
    if after > len(data):
        raise _truncated()
    info = data[start:after].ljust(_LONGEST_HEADER, b"\x00")
    compression = image_bytes = colours = 0
    if size == _CORE_HEADER:
        width, height, _, bits = struct.unpack_from("<4H", info, 4)
    else:
        width, height, _, bits = struct.unpack_from("<iiHH", info, 4)
        compression, image_bytes, _, _, colours = struct.unpack_from("<IIiiI", info, 16)
    if width <= 0 or height == 0:
        raise _corrupt("the header of the BMP makes no sense")
    compression = _coding(compression, bits, size)
    masks = [0, 0, 0, 0]
    if compression in (_BIT_FIELDS, _ALPHA_BIT_FIELDS):
        count = 4 if size >= 56 or compression == _ALPHA_BIT_FIELDS else 3
        if size < 52:  # the masks follow the header; in others they are part of it
            info = info[:40] + data[after : after + 4 * count].ljust(4 * count, b"\x00")
            after += 4 * count
        masks[:count] = struct.unpack_from(f"<{count}I", info, 40)
        compression = _PLAIN
    elif bits == 16:
        masks = [0x7C00, 0x03E0, 0x001F, 0]
    elif bits == 32:
        masks = [0xFF0000, 0xFF00, 0xFF, 0]
        if size >= 108:  # headers from version 4 on state where alpha is, whatever the compression
            masks[3] = struct.unpack_from("<I", info, 52)[0]
    red, green, blue, alpha = (_checked(mask & ((1 << bits) - 1)) for mask in masks)
    colour_bytes = 3 if size == _CORE_HEADER else 4
    most = 1 << bits if bits <= 8 else 0
    if start:
        pixels = int.from_bytes(data[10:14], "little")
    else:
        # A palette of pixels that are colours themselves is a hint to displays of few colours.
        pixels = after + (colours or most) * colour_bytes
    return _Header(
        width=width,
        height=abs(height),
        top_down=height < 0,
        bits=bits,
        compression=compression,
        masks=(red, green, blue, alpha),
        palette=after,
        colours=min(colours, most) or most,
        colour_bytes=colour_bytes,
        pixels=pixels,
        image_bytes=image_bytes,
    )


def _coding(compression: int, bits: int, size: int) -> int:
    """The coding of the pixels. Raises DecodeError for one that no browser shows."""
    if compression == 4 and bits == 24 and size not in {52, 56, 108, 124}:
        return _RLE24
    allowed = {
        _PLAIN: (1, 2, 4, 8, 16, 24, 32),
        _RLE8: (8,),
        _RLE4: (4,),
        _BIT_FIELDS: (16, 32),
        _ALPHA_BIT_FIELDS: (16, 32),
    }
    if bits not in allowed.get(compression, ()):
        raise _unsupported(f"{bits} bits per pixel, compression {compression}")
    return compression


def _profile(data: bytes) -> bytes | None:
    """The ICC profile that a header of version 5 may point to."""
    start = _FILE_HEADER if data.startswith(b"BM") else 0
    info = data[start : start + _LONGEST_HEADER]
    if len(info) < _LONGEST_HEADER or info[56:60] != _EMBEDDED_PROFILE:
        return None
    if int.from_bytes(info[:4], "little") != _LONGEST_HEADER:
        return None
    offset, size = struct.unpack_from("<II", info, 112)
    return data[start + offset : start + offset + size]


def _checked(mask: int) -> int:
    """The mask, which must be one run of bits. Several masks may share bits."""
    if (mask + (mask & -mask)) & mask:
        raise _corrupt("the colour masks of the BMP make no sense")
    return mask


def _palette(data: bytes, header: _Header) -> bytes:
    """Red, green and blue of 256 colours; those that the file lacks are black."""
    end = header.palette + header.colours * header.colour_bytes
    entries = np.frombuffer(data[header.palette : end], np.uint8)
    entries = entries[: len(entries) // header.colour_bytes * header.colour_bytes]
    colours = np.zeros((256, 3), np.uint8)
    stored = entries.reshape(-1, header.colour_bytes)[:, 2::-1]
    colours[: len(stored)] = stored
    return colours.tobytes()


# Pixels -------------------------------------------------------------------------------------------


def _from_raw(data: bytes, header: _Header, mode: str, raw_mode: str) -> Image.Image:
    end = header.pixels + header.row_bytes * header.height
    rows = memoryview(data)[header.pixels : end]
    orientation = 1 if header.top_down else -1
    size = (header.width, header.height)
    return Image.frombytes(mode, size, rows, "raw", raw_mode, header.row_bytes, orientation)


def _from_masks(data: bytes, header: _Header) -> Image.Image:
    """Pixels of 16 or 32 bits whose channels lie anywhere."""
    mode = "RGBA" if header.masks[3] else "RGB"
    image = Image.new(mode, (header.width, header.height))
    rows_per_band = max(1, _BAND_PIXELS // header.width)
    for top in range(0, header.height, rows_per_band):
        count = min(rows_per_band, header.height - top)
        first = top if header.top_down else header.height - top - count
        stored = np.frombuffer(
            data, np.uint8, count * header.row_bytes, header.pixels + first * header.row_bytes
        ).reshape(count, header.row_bytes)
        if not header.top_down:
            stored = stored[::-1]
        values = np.ascontiguousarray(stored[:, : header.width * header.bits // 8])
        values = values.view("<u2" if header.bits == 16 else "<u4")
        channels = [_channel(values, mask) for mask in header.masks[: len(mode)]]
        image.paste(Image.fromarray(np.stack(channels, axis=-1), mode), (0, top))
    return image


def _channel(values: NDArray[np.unsignedinteger], mask: int) -> NDArray[np.uint8]:
    """One channel of pixels, by its mask, stretched to 0..255. A channel without bits is zero."""
    if not mask:
        return np.zeros(values.shape, np.uint8)
    shift = (mask & -mask).bit_length() - 1
    bits = mask.bit_count()
    surplus = max(bits - 8, 0)
    bits -= surplus
    samples = (values >> (shift + surplus)) & ((1 << bits) - 1)
    most = (1 << bits) - 1
    table = ((np.arange(1 << bits) * 255 + most // 2) // most).astype(np.uint8)
    channel: NDArray[np.uint8] = table[samples]
    return channel


# Run-length coding --------------------------------------------------------------------------------


def _open_run_lengths(data: bytes, header: _Header) -> Image.Image:
    """Decode run-length coded pixels. Pixels that the coding skips are transparent.

    Each step takes at least two bytes of the file and writes at most 255 pixels.
    """
    if len(data) < header.pixels + header.image_bytes:
        raise _truncated()
    if header.compression == _RLE24:
        depth, per_pixel = 3, 1.0
    else:
        depth, per_pixel = 1, 0.5 if header.compression == _RLE4 else 1.0
    width, height = header.width, header.height
    values = bytearray(width * height * depth)
    covered = bytearray(width * height)
    position, x, y = header.pixels, 0, 0
    while True:
        if position + 2 > len(data):
            if y < height:
                raise _truncated()
            break
        count, code = data[position], data[position + 1]
        position += 2
        if not count and code == _END_OF_BITMAP:
            break
        if y >= height:
            break
        if not count and code == _END_OF_LINE:
            x, y = 0, y + 1
            continue
        if not count and code == _DELTA:
            if position + 2 > len(data):
                raise _truncated()
            x, y = min(x + data[position], width), y + data[position + 1]
            position += 2
            continue
        if count:
            stored = data[position - 1 : position - 1 + depth]
            position += depth - 1
            if len(stored) < depth:
                raise _truncated()
            run = _nibbles(stored, 2) if header.compression == _RLE4 else stored
            run = (run * count)[: count * depth]
        else:
            count = code
            used = int(count * depth * per_pixel + 0.5)
            stored = data[position : position + used]
            position += used + (used & 1)
            if len(stored) < used:
                raise _truncated()
            run = _nibbles(stored, count) if header.compression == _RLE4 else stored
        count = min(count, width - x)
        at = y * width + x
        values[at * depth : (at + count) * depth] = run[: count * depth]
        covered[at : at + count] = b"\xff" * count
        x += count
    return _from_runs(data, header, values, covered)


def _nibbles(stored: bytes, count: int) -> bytes:
    """The halves of bytes, the upper one first."""
    return bytes(half for byte in stored for half in (byte >> 4, byte & 15))[:count]


def _from_runs(data: bytes, header: _Header, values: bytearray, covered: bytearray) -> Image.Image:
    size = (header.width, header.height)
    orientation = 1 if header.top_down else -1
    if header.compression == _RLE24:
        image = Image.frombytes("RGB", size, values, "raw", "BGR", 0, orientation)
    else:
        image = Image.frombytes("P", size, values, "raw", "P", 0, orientation)
        image.putpalette(_palette(data, header))
    if 0 not in covered:
        return image
    # Chromium shows them black, Firefox as transparent.
    alpha = Image.frombytes("L", size, covered, "raw", "L", 0, orientation)
    image = image.convert("RGB")
    image.putalpha(alpha)
    image.info[BACKGROUND] = "black"
    return image
