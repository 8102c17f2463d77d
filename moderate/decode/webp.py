"""Still WebP images without transparency, straight from the libwebp that Pillow brings.

Pillow decodes every WebP as an animation: on a canvas of four channels, which is copied twice more.
libwebp's own call for still images gives the same pixels in less time and less than half the
memory. Whatever is unusual about a file, or goes wrong, is left to Pillow.

Sources: the WebP container specification (RFC 9649), and `webp/decode.h` of libwebp. Its calls with
a structure, which can also scale, are not used: scaling by two takes longer than it saves.
"""

from __future__ import annotations

import ctypes
import importlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageFile

_ICC, _EXIF, _XMP = 0x20, 0x08, 0x04  # flags of the VP8X chunk
_METADATA = {b"ICCP": ("icc_profile", _ICC), b"EXIF": ("exif", _EXIF), b"XMP ": ("xmp", _XMP)}


@dataclass(frozen=True, slots=True)
class Library:
    """Two calls of libwebp.

    size is WebPGetInfo(data, bytes, &width, &height), 0 where the header makes no sense. decode is
    WebPDecodeRGBInto(data, bytes, output, output bytes, row bytes), None where it fails.
    """

    size: Callable[[bytes, int, Any, Any], int]
    decode: Callable[[bytes, int, int, int, int], int | None]


@lru_cache(maxsize=1)
def libwebp() -> Library | None:
    """The libwebp that Pillow has loaded; None where its calls cannot be reached.

    No library is looked for: the calls are resolved in Pillow's own module and in what that was
    linked with. Call it once before the sandbox, where nothing can be opened.
    """
    try:
        loaded = ctypes.CDLL(importlib.import_module("PIL._webp").__file__)
        size, decode = loaded.WebPGetInfo, loaded.WebPDecodeRGBInto
    except (AttributeError, ImportError, OSError):  # built without WebP, or with its names hidden
        return None
    number = ctypes.POINTER(ctypes.c_int)
    size.argtypes = (ctypes.c_char_p, ctypes.c_size_t, number, number)
    size.restype = ctypes.c_int
    decode.argtypes = (
        *(ctypes.c_char_p, ctypes.c_size_t),
        *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int),
    )
    decode.restype = ctypes.c_void_p
    return Library(size, decode)


class StillWebp(ImageFile.ImageFile):
    """A still lossy WebP without alpha, as Pillow would open it.

    What libwebp does not decode without complaint is decoded by Pillow.
    """

    format = "WEBP"

    def __init__(self, data: bytes, end: int, size: tuple[int, int], info: dict[str, Any]) -> None:
        """data is the whole file. What follows from `end` on does not belong to the image."""
        self._data, self._data_end, self._stated, self._metadata = data, end, size, info
        super().__init__(io.BytesIO(data))

    def _open(self) -> None:
        self._size, self._mode = self._stated, "RGB"
        self.info.update(self._metadata)

    def load(self) -> Any:
        """Decode. Raises what Pillow raises where Pillow does not decode it either."""
        if self._im is None:
            decoded = _decode(self._data, self._data_end, self.size)
            if decoded is None:
                decoded = Image.open(io.BytesIO(self._data), formats=["WEBP"])
                decoded.load()
            self._size, self._mode, self.im = decoded.size, decoded.mode, decoded.im
        return super().load()


def open_webp(data: bytes) -> Image.Image:
    """A WebP opened: as StillWebp where it is of that kind, else by Pillow."""
    return _still(data) or Image.open(io.BytesIO(data), formats=["WEBP"])


def _still(data: bytes) -> StillWebp | None:
    """The image of a file that holds one lossy image, metadata, and nothing else.

    The chunks must fill the file exactly as it says, so that Pillow would not judge otherwise.
    """
    library = libwebp()
    end = 8 + int.from_bytes(data[4:8], "little")
    if library is None or end > len(data):
        return None
    position, flags, images = 12, 0, 0
    canvas: tuple[int, int] | None = None
    info: dict[str, Any] = {}
    while position < end:
        kind = data[position : position + 4]
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        start, position = position + 8, position + 8 + length + (length & 1)
        if position > end:
            return None
        if kind == b"VP8 ":
            images += 1
        elif kind == b"VP8X" and start == 20 and length == 10:
            flags = data[start]
            canvas = (
                1 + int.from_bytes(data[start + 4 : start + 7], "little"),
                1 + int.from_bytes(data[start + 7 : start + 10], "little"),
            )
        elif kind in _METADATA and flags & _METADATA[kind][1] and length:
            name = _METADATA[kind][0]
            if name in info:
                return None
            info[name] = data[start : start + length]
        else:
            return None
    if images != 1 or flags & ~(_ICC | _EXIF | _XMP):
        return None
    width, height = ctypes.c_int(), ctypes.c_int()
    if not library.size(data, end, ctypes.byref(width), ctypes.byref(height)):
        return None
    size = width.value, height.value
    return StillWebp(data, end, size, info) if canvas in (None, size) else None


def _decode(data: bytes, end: int, size: tuple[int, int]) -> Image.Image | None:
    """The first `end` bytes decoded to (width, height), None where libwebp fails."""
    library = libwebp()
    width, height = size
    try:
        rgb = np.empty((height, width, 3), np.uint8)
        if library and library.decode(data, end, rgb.ctypes.data, rgb.nbytes, 3 * width):
            return Image.frombuffer("RGB", size, rgb, "raw", "RGB", 0, 1)
    except MemoryError:
        pass
    return None
