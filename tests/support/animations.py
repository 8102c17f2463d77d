"""Animations for tests, assembled byte by byte, with every disposal and blending."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pillow_heif
from PIL import Image

from tests.support.pictures import png_chunk

pillow_heif.register_heif_opener()

# R, G, B and grey; then black.
PALETTE = bytes((255, 0, 0, 0, 255, 0, 0, 0, 255, 90, 90, 90)) + bytes(12)
NAMES = {(255, 0, 0): "R", (0, 255, 0): "G", (0, 0, 255): "B", (90, 90, 90): "g"}


def saved(kind: str, frames: Sequence[Image.Image], **options: Any) -> bytes:
    """The frames as one file of a kind that Pillow writes."""
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], **options)
    return buffer.getvalue()


def drawn(image: Image.Image) -> str:
    """An image of few pixels as letters, its rows divided by `/`; `.` is transparent."""
    rows = np.asarray(image.convert("RGBA")).tolist()
    return "/".join(
        "".join(NAMES.get(tuple(pixel[:3]), "?") if pixel[3] else "." for pixel in row)
        for row in rows
    )


def _lzw(indices: Sequence[int]) -> bytes:
    """Indices below 4 as GIF data; a clear code after every two keeps codes at 3 bits."""
    codes: list[int] = []
    for place, index in enumerate(indices):
        codes += [4, index] if place % 2 == 0 else [index]
    bits = sum(code << 3 * place for place, code in enumerate([*codes, 5]))
    data = bits.to_bytes((3 * len(codes) + 10) // 8, "little")
    pieces = [data[at : at + 255] for at in range(0, len(data), 255)]
    return b"\x02" + b"".join(bytes((len(piece),)) + piece for piece in pieces) + b"\x00"


def gif_frame(
    left: int,
    top: int,
    width: int,
    height: int,
    colour: int | Sequence[int],
    *,
    disposal: int = 0,
    transparent: int | None = None,
    delay: int = 10,
    control: bool = True,
) -> bytes:
    """A frame of a GIF in one colour of PALETTE, or with the indices of its pixels."""
    flags = disposal << 2 | (transparent is not None)
    extension = struct.pack("<BBBBHBB", 0x21, 0xF9, 4, flags, delay, transparent or 0, 0)
    descriptor = struct.pack("<B4HB", 0x2C, left, top, width, height, 0)
    indices = [colour] * (width * height) if isinstance(colour, int) else colour
    return (extension if control else b"") + descriptor + _lzw(indices)


def gif(width: int, height: int, *frames: bytes, background: int = 2) -> bytes:
    """A GIF of these frames with PALETTE."""
    screen = struct.pack("<HHBBB", width, height, 0x92, background, 0)
    return b"GIF89a" + screen + PALETTE + b"".join(frames) + b";"


def apng_frame(
    sequence: int,
    box: tuple[int, int, int, int],
    colour: tuple[int, int, int, int],
    *,
    disposal: int = 0,
    blend: int = 0,
    delay: tuple[int, int] = (1, 10),
    in_image: bool = False,
) -> bytes:
    """The chunks of a frame in one colour; its fcTL has the sequence number, its fdAT the next.

    box is left, top, width, height. in_image has the frame be the PNG's own image.
    """
    left, top, width, height = box
    control = struct.pack(">5I2H2B", sequence, width, height, left, top, *delay, disposal, blend)
    data = image_data(width, height, colour)
    if in_image:
        return png_chunk(b"fcTL", control) + png_chunk(b"IDAT", data)
    return png_chunk(b"fcTL", control) + png_chunk(b"fdAT", struct.pack(">I", sequence + 1) + data)


def image_data(width: int, height: int, colour: tuple[int, int, int, int]) -> bytes:
    """The image data of an RGBA PNG in one colour."""
    return zlib.compress((b"\x00" + bytes(colour) * width) * height)


def apng(width: int, height: int, count: int, *chunks: bytes) -> bytes:
    """An RGBA PNG whose animation claims `count` frames."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))
    control = png_chunk(b"acTL", struct.pack(">II", count, 0))
    end = png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + control + b"".join(chunks) + end
