"""Decoded pixels as a small JPEG file, for people to look at."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image


def as_jpeg(
    pixels: Any, size: tuple[int, int], side: int, quality: int, *, optimize: bool = False
) -> bytes:
    """Square pixels (N x N x 3, uint8) in the proportions of an image, encoded anew.

    size is the width and height of the image, of which a results file may say anything. side is the
    longer side of the file in pixels. optimize takes longer, for a few per cent.
    """
    width, height = (max(each, 1) for each in size)
    scale = side / max(width, height)
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = Image.fromarray(pixels, "RGB")
    file = io.BytesIO()
    resized = image.resize(shape, Image.Resampling.BICUBIC, reducing_gap=2.0)
    resized.save(file, "JPEG", quality=quality, optimize=optimize)
    return file.getvalue()
