"""Colour profiles that change what an image shows, applied as browsers apply them.

Photographs come in sRGB or a little wider colour spaces, whose difference no model notices. Another
profile can turn a black image into any other, and is obeyed by browsers. Only such profiles cost
time. The base is the ICC specification (ISO 15076-1), as littlecms reads it.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

MOST_PROFILE_BYTES = 4 << 20
"""Larger profiles are ignored. Those of printers, which are the largest, have 1 to 3 MB."""

Correction = Callable[[Image.Image], Image.Image]

# How far from sRGB a profile may be and still be left out, of full scale: the mean and the largest
# difference of colours. Display P3 and Adobe RGB reach 0.04 and 0.25, ProPhoto RGB 0.09 and 0.29.
_MEAN, _LARGEST = 0.06, 0.26
_LEVELS = 17  # on each edge of the cube
_COLOUR_SPACE = slice(16, 20)  # in a profile's header


def correction(profile: bytes | None, *, grey: bool) -> Correction | None:
    """What turns an 8-bit RGB image with this ICC profile into sRGB.

    None where there is nothing to do: no profile, a broken one, one of another kind of image than
    grey says, or one that is about sRGB.
    """
    if not profile or len(profile) > MOST_PROFILE_BYTES:
        return None
    return _correction(profile, grey)


@lru_cache(maxsize=16)
def _correction(profile: bytes, grey: bool) -> Correction | None:
    space = profile[_COLOUR_SPACE]
    if space not in (b"RGB ", b"GRAY") or (space == b"GRAY" and not grey):
        return None
    mode = "L" if space == b"GRAY" else "RGB"
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)), _srgb(), mode, "RGB"
        )
        probe = _probe(grey)
        turned = ImageCms.applyTransform(probe.convert(mode), transform)
    except Exception:  # noqa: BLE001 - a broken profile never costs the image
        return None
    if turned is None:
        return None
    apart = np.abs(np.asarray(turned).astype(np.int16) - np.asarray(probe)).mean(axis=-1) / 255
    if apart.mean() <= _MEAN and apart.max() <= _LARGEST:
        return None

    def correct(image: Image.Image) -> Image.Image:
        corrected = ImageCms.applyTransform(image.convert(mode), transform)
        return image if corrected is None else corrected

    return correct


@lru_cache(maxsize=1)
def _srgb() -> Any:
    return ImageCms.createProfile("sRGB")


def _probe(grey: bool) -> Image.Image:
    """All greys and, unless only those occur, a cube of colours and the ramps of each channel."""
    ramp = np.arange(256, dtype=np.uint8)
    colours = [np.repeat(ramp[:, None], 3, axis=1)]
    if not grey:
        levels = np.linspace(0, 255, _LEVELS).astype(np.uint8)
        colours.append(np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3))
        colours += [ramp[:, None] * np.eye(3, dtype=np.uint8)[channel] for channel in range(3)]
    return Image.fromarray(np.concatenate(colours)[None])


# PNG ----------------------------------------------------------------------------------------------

_SRGB_CORNERS = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
_SRGB_WHITE = (0.3127, 0.3290)
_D50 = (0.9642, 1.0, 0.8249)
# The Bradford matrix: from XYZ to the responses of cones.
_BRADFORD = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))


def png_profile(gamma: int, corners: tuple[int, ...] | None) -> bytes | None:
    """The profile that a PNG's gAMA and cHRM chunks amount to; None where they make no sense.

    gamma and corners (x and y of white, red, green and blue) are in units of 1 / 100,000.
    """
    if not 0 < gamma < 1_000_000:
        return None
    points = [_SRGB_WHITE, *_SRGB_CORNERS]
    if corners is not None:
        points = [
            (x / 100_000, y / 100_000) for x, y in zip(corners[::2], corners[1::2], strict=True)
        ]
    if any(not 0 < y <= 1 or not 0 <= x <= 1 for x, y in points):
        return None
    white, *rgb = (np.array([x / y, 1.0, (1 - x - y) / y]) for x, y in points)
    primaries = np.stack(rgb, axis=1)
    try:
        matrix = primaries * np.linalg.solve(primaries, white)
        bradford = np.array(_BRADFORD)
        scale = np.diag(bradford @ np.array(_D50) / (bradford @ white))
        matrix = np.linalg.solve(bradford, scale @ bradford @ matrix)
    except np.linalg.LinAlgError:
        return None
    if not np.isfinite(matrix).all() or np.abs(matrix).max() > 100:
        return None
    exponent = min(round(256 * 100_000 / gamma), 0xFFFF)
    curve = b"curv\x00\x00\x00\x00" + struct.pack(">IH", 1, exponent)
    tags = {b"wtpt": _xyz(_D50)}
    tags |= {name: _xyz(matrix[:, at]) for at, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    start = 132 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + b"\x00" * (-len(data) % 4)
    header = struct.pack(">I4xI", start + len(body), 0x0240_0000) + b"mntrRGB XYZ " + bytes(12)
    header = (header + b"acsp").ljust(68, b"\x00") + _xyz(_D50)[8:]
    return header.ljust(128, b"\x00") + table + body


def _xyz(values: Any) -> bytes:
    return b"XYZ \x00\x00\x00\x00" + struct.pack(">3i", *(round(65536 * v) for v in values))
