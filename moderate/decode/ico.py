"""Icons: files that hold several images, each a PNG or a BMP without its file header.

ICO is read where the user asks for it. Pillow's own reader decodes the largest image while it opens
the file, before its size can be judged, and gives no other. Source: Microsoft's description of
ICONDIR and ICONDIRENTRY ("Icons", 1995), and what Chromium shows.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any

from PIL import IcoImagePlugin, Image, ImageFile, PngImagePlugin

from moderate.decode.containers import Container, DecodeError, png_is_complete, read_png
from moderate.types import ErrorCode

MOST_IMAGES = 256
"""The most images of an icon. Real ones have up to about twenty."""

_PNG = b"\x89PNG\r\n\x1a\n"
_ENTRY = struct.Struct("<4B2H2I")  # ICONDIRENTRY
_DEPTHS = frozenset({1, 4, 8, 16, 24, 32})
_SMALLEST_HEADER = 40  # BITMAPINFOHEADER, bytes


@dataclass(frozen=True, slots=True)
class _Picture:
    """One image: its size, its bits per pixel, and its bytes as a PNG or an icon by itself."""

    size: tuple[int, int]
    bits: int
    data: bytes
    png: Container | None


def read_ico(data: bytes) -> Container:
    """Check that each image is in the file. frames is their number, size that of the largest.

    Raises DecodeError: `truncated`, or `corrupt_image`.
    """
    pictures = _pictures(data)
    return Container(
        data=data,
        frames=len(pictures),
        multi_picture=len(pictures) > 1,
        size=pictures[0].size,
        bit_depth=pictures[0].png.bit_depth if pictures[0].png else 8,
    )


class IconFile(ImageFile.ImageFile):
    """The images of an icon as frames: the largest first, of those the one of most colours."""

    format = "ICO"
    format_description = "Windows icon"

    def _open(self) -> None:
        assert self.fp is not None
        self._pictures = _pictures(self.fp.read())
        self.n_frames = len(self._pictures)
        self.seek(0)

    def seek(self, frame: int) -> None:
        """Go to an image, which `load` decodes. Raises EOFError where there is none."""
        if not 0 <= frame < self.n_frames:
            raise EOFError("no more images in the icon")
        self._frame = frame
        self._size = self._pictures[frame].size
        self._mode = "RGBA"
        self._im = None
        self.info: dict[str | tuple[int, int], Any] = {}

    def tell(self) -> int:
        """The number of the image, from 0."""
        return self._frame

    def load(self) -> Any:
        """Decode the image."""
        if self._im is None:
            self._take(_decoded(self._pictures[self._frame]))
        return Image.Image.load(self)

    def _take(self, image: Image.Image) -> None:
        self.im = image.im
        self._mode, self._size = image.mode, image.size
        self.palette = image.palette
        self.info = image.info


def _decoded(picture: _Picture) -> Image.Image:
    if picture.png:
        png = PngImagePlugin.PngImageFile(io.BytesIO(picture.png.data))
        png.load()
        if not png_is_complete(picture.png):
            raise DecodeError(ErrorCode.TRUNCATED, "ICO: a PNG holds fewer rows than it promises")
        return png
    bitmap = IcoImagePlugin.IcoFile(io.BytesIO(picture.data)).frame(0)
    bitmap.load()
    # Old programs leave the fourth byte empty. Browsers show such an image.
    if picture.bits == 32 and bitmap.getchannel("A").getextrema() == (0, 0):
        return bitmap.convert("RGB")
    return bitmap


def _pictures(data: bytes) -> list[_Picture]:
    """The images of an icon, in the order of `IconFile`; images with the same bytes once."""
    count = int.from_bytes(data[4:6], "little")
    if not 1 <= count <= MOST_IMAGES:
        raise _corrupt(f"it claims to hold {count} images")
    if 6 + _ENTRY.size * count > len(data):
        raise _cut_off("its directory is missing")
    found: dict[tuple[int, int], _Picture] = {}
    for number in range(count):
        entry = _ENTRY.unpack_from(data, 6 + _ENTRY.size * number)
        length, start = entry[6:]
        if start + length > len(data):
            raise _cut_off("an image is missing")
        if (start, length) not in found:
            found[start, length] = _picture(data[start : start + length], entry)
    return sorted(
        found.values(), key=lambda each: (each.size[0] * each.size[1], each.bits), reverse=True
    )


def _picture(data: bytes, entry: tuple[int, ...]) -> _Picture:
    if data.startswith(_PNG):
        png = read_png(data)
        assert png.size is not None
        return _Picture(png.size, 32, data, png)
    if len(data) < _SMALLEST_HEADER:
        raise _corrupt("an image has no header")
    header, width, height, planes, bits, compression = struct.unpack_from("<IiiHHI", data)
    height //= 2  # that of the colours, and of the mask behind them
    if header != _SMALLEST_HEADER or compression or bits not in _DEPTHS:
        raise _corrupt("an image is no bitmap as icons have it")
    if width <= 0 or height <= 0:
        raise _corrupt("an image has no size")
    (colours,) = struct.unpack_from("<I", data, 32)
    palette = 4 * (colours or 1 << bits) if bits <= 8 else 0
    mask = 0 if bits == 32 else (width + 31) // 32 * 4 * height
    if header + palette + (width * bits + 31) // 32 * 4 * height + mask > len(data):
        raise _cut_off("rows of an image are missing")
    # Its depth as the bitmap states it: the entry may say otherwise.
    alone = _ENTRY.pack(*entry[:4], planes, bits, len(data), 6 + _ENTRY.size)
    return _Picture((width, height), bits, b"\x00\x00\x01\x00\x01\x00" + alone + data, None)


def _corrupt(message: str) -> DecodeError:
    return DecodeError(ErrorCode.CORRUPT_IMAGE, f"ICO: {message}")


def _cut_off(message: str) -> DecodeError:
    return DecodeError(ErrorCode.TRUNCATED, f"ICO: the file ends early: {message}")
