"""A file that was cut anywhere is an error row, in every format and every way to store an image."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moderate.decode.image import Decoded, Undecoded, decode, prepare
from moderate.decode.resize import PixelSpec
from moderate.types import Limits
from tests.support.heics import cut_points, grid, with_alpha
from tests.support.pictures import encode, palette_scene, png_chunk, scene

SPEC = PixelSpec(48, 48)
SIZE = WIDTH, HEIGHT = 61, 43  # odd, so that rows are padded
IMAGE, COLOURS = scene(SIZE), palette_scene(SIZE)
FRAMES = [palette_scene(SIZE, seed) for seed in range(3)]
ANIMATED: dict[str, Any] = {"save_all": True, "append_images": FRAMES[1:]}
RANDOM = np.random.default_rng(0).bytes(WIDTH * HEIGHT * 4)


def translucent() -> Image.Image:
    image = IMAGE.copy()
    image.putalpha(Image.linear_gradient("L").resize(SIZE))
    return image


def grey_16_bit() -> Image.Image:
    values = np.linspace(0, 65535, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH)
    return Image.fromarray(values.astype(np.uint16))


def interlaced_png() -> bytes:
    passes = (
        *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
        *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
    )
    rows = b"".join(
        b"\x00" + RANDOM[: len(range(left, WIDTH, across))]
        for left, top, across, down in passes
        for _ in range(top, HEIGHT, down)
    )
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 0, 0, 0, 1))
    data = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + data + png_chunk(b"IEND", b"")


def bmp(bits: int, *, compression: int = 0, pixels: bytes | None = None, up: bool = True) -> bytes:
    """A BMP with a 40-byte header; random rows where no pixels are given."""
    if pixels is None:
        pixels = RANDOM[: (WIDTH * bits + 31) // 32 * 4 * HEIGHT]
    palette = RANDOM[: 4 << bits] if bits <= 8 else b""
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F) if compression == 3 else b""
    height = HEIGHT if up else -HEIGHT
    info = struct.pack(
        "<IiiHHIIiiII", 40, WIDTH, height, 1, bits, compression, len(pixels), 0, 0, 0, 0
    )
    start = 14 + len(info) + len(masks) + len(palette)
    file = b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start)
    return file + info + masks + palette + pixels


def run_lengths(bits: int) -> bytes:
    """Rows of one colour each, of colours in a row, and the end marker."""
    run = b"".join(bytes((WIDTH, row % 16 * (17 if bits == 4 else 1), 0, 0)) for row in range(9))
    literal = bytes(range(WIDTH)) + b"\x00" if bits == 8 else RANDOM[: (WIDTH + 1) // 2 + 1]
    return run + (b"\x00" + bytes((WIDTH,)) + literal + b"\x00\x00") * (HEIGHT - 9) + b"\x00\x01"


def os2_bmp() -> bytes:
    rows = RANDOM[: (WIDTH * 3 + 3) // 4 * 4 * HEIGHT]
    info = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, 24)
    return b"BM" + struct.pack("<IHHI", 26 + len(rows), 0, 0, 26) + info + rows


def layered_gif() -> bytes:
    """Frames without delay and without a loop, each a part of one image."""
    parts = [encode(frame, "GIF") for frame in FRAMES]
    return (
        parts[0][:-1] + b"".join(part[part.index(b",", 13 + 192) : -1] for part in parts[1:]) + b";"
    )


FILES: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: encode(IMAGE, "JPEG"),
    "JPEG, grey": lambda: encode(IMAGE.convert("L"), "JPEG"),
    "JPEG, CMYK": lambda: encode(IMAGE.convert("CMYK"), "JPEG"),
    "JPEG, restart markers": lambda: encode(IMAGE, "JPEG", restart_marker_rows=1),
    "JPEG, progressive": lambda: encode(IMAGE, "JPEG", progressive=True),
    "PNG": lambda: encode(IMAGE, "PNG"),
    "PNG, alpha": lambda: encode(translucent(), "PNG"),
    "PNG, 16 bits": lambda: encode(grey_16_bit(), "PNG"),
    "PNG, 1 bit": lambda: encode(IMAGE.convert("1"), "PNG"),
    "PNG, palette": lambda: encode(COLOURS.quantize(16), "PNG"),
    "PNG, interlaced": interlaced_png,
    "PNG, animated": lambda: encode(FRAMES[0], "PNG", **ANIMATED),
    "WebP, lossy": lambda: encode(IMAGE, "WEBP", lossless=False, quality=80),
    "WebP, lossless": lambda: encode(IMAGE, "WEBP"),
    "WebP, lossy with alpha": lambda: encode(translucent(), "WEBP", lossless=False),
    "WebP, lossless with alpha": lambda: encode(translucent(), "WEBP"),
    "WebP, animated": lambda: encode(FRAMES[0], "WEBP", **ANIMATED),
    "GIF": lambda: encode(COLOURS, "GIF"),
    "GIF, sequential": lambda: encode(COLOURS, "GIF", interlace=0),
    "GIF, transparent": lambda: encode(translucent(), "GIF"),
    "GIF, animated": lambda: encode(FRAMES[0], "GIF", duration=50, loop=0, **ANIMATED),
    "GIF, layered": layered_gif,
    "BMP, 24 bits": lambda: encode(IMAGE, "BMP"),
    "BMP, 32 bits": lambda: encode(translucent(), "BMP"),
    "BMP, 16 bits": lambda: bmp(16),
    "BMP, 16 bits with masks": lambda: bmp(16, compression=3),
    "BMP, 8 bits": lambda: encode(IMAGE.convert("L"), "BMP"),
    "BMP, 4 bits": lambda: bmp(4),
    "BMP, 1 bit": lambda: encode(IMAGE.convert("1"), "BMP"),
    "BMP, top down": lambda: bmp(24, up=False),
    "BMP, RLE8": lambda: bmp(8, compression=1, pixels=run_lengths(8)),
    "BMP, RLE4": lambda: bmp(4, compression=2, pixels=run_lengths(4)),
    "BMP, OS/2": os2_bmp,
    "DIB": lambda: encode(IMAGE, "BMP")[14:],
    "DIB, palette": lambda: bmp(8)[14:],
    "HEIC": lambda: encode(IMAGE, "HEIF"),
    "HEIC, grey": lambda: encode(IMAGE.convert("L"), "HEIF"),
    "HEIC, alpha": lambda: encode(translucent(), "HEIF"),
    "HEIC, several images": lambda: encode(FRAMES[0], "HEIF", **ANIMATED),
    "HEIC, grid": lambda: grid(scene((150, 110))).build(),
    "HEIC, grid with alpha": lambda: with_alpha(
        grid(scene((150, 110))), grid(Image.linear_gradient("L").resize((150, 110)), first=100)
    ).build(),
}


@pytest.mark.parametrize("file", FILES.values(), ids=FILES)
def test_a_file_cut_anywhere_is_an_error(file: Callable[[], bytes]) -> None:
    prepare()
    data = file()
    whole = decode(data, (SPEC,), Limits())
    assert isinstance(whole, Decoded), whole
    for length in cut_points(data):
        outcome = decode(data[:length], (SPEC,), Limits())
        assert isinstance(outcome, Undecoded), f"scored without its last {len(data) - length} bytes"


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "BMP", "WebP, lossless", "HEIC", "HEIC, grid"])
def test_bytes_behind_the_end_never_cost_the_image(kind: str) -> None:
    prepare()
    data = {**FILES, "BMP": FILES["BMP, 24 bits"]}[kind]()
    for trailer in (b"\x00" * 3, b"\x00" * 500):
        outcome = decode(data + trailer, (SPEC,), Limits())
        assert isinstance(outcome, Decoded), outcome
