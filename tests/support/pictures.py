"""Pictures for tests: one busy scene, in every container and mode, and hostile bytes by hand."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pillow_heif
from PIL import Image

pillow_heif.register_heif_opener()

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "HEIF", "AVIF")
SUFFIX = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "HEIF": "heic",
    "AVIF": "avif",
}
LOSSLESS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "PNG": {},
    "WEBP": {"lossless": True},
    "GIF": {},
    "BMP": {},
    "HEIF": {"quality": 95},
    "AVIF": {"quality": 95, "subsampling": "4:4:4", "speed": 8},
}


def scene(size: tuple[int, int] = (320, 240), seed: int = 0) -> Image.Image:
    """A smooth picture without symmetry, of few enough colours for a GIF palette."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def palette_scene(size: tuple[int, int] = (320, 240), seed: int = 0) -> Image.Image:
    """The scene with at most 64 colours, so that a GIF keeps it exactly."""
    return scene(size, seed).quantize(64, dither=Image.Dither.NONE).convert("RGB")


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The image's bytes in one of FORMATS."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **{**LOSSLESS.get(kind, {}), **options})
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One PNG chunk with a right CRC."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG of these chunks between IHDR and IEND."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + png_chunk(b"IEND", b"")


def png_with_chunk(data: bytes, chunk: bytes) -> bytes:
    """A PNG with one more chunk right after IHDR."""
    return data[:33] + chunk + data[33:]


def jpeg_with_segment(data: bytes, marker: int, payload: bytes) -> bytes:
    """A JPEG with one more segment right after SOI."""
    return (
        data[:2] + bytes((0xFF, marker)) + struct.pack(">H", len(payload) + 2) + payload + data[2:]
    )


def exif_block(orientation: int) -> bytes:
    """An EXIF block that states an orientation and nothing else."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()
