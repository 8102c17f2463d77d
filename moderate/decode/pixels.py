"""A decoded image to upright 8-bit RGB, whatever its mode, depth, palette or transparency."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from moderate.decode.colour import Correction, correction
from moderate.decode.exif import exif_orientation

BACKGROUND = "moderate_background"
"""The key in an image's `info` of the colour that is shown behind it, where it is not white."""

PROFILE = "moderate_profile"
"""The key in an image's `info` of its ICC profile."""

ADDS_ALPHA = "moderate_adds_alpha"
"""The key in an image's `info` that says that what is not covered is added to its colours."""

_ALPHA_MODES = frozenset({"RGBA", "RGBa", "LA", "La", "PA"})
_GREY_16_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})
_GREY_MODES = _GREY_16_MODES | {"1", "L", "LA", "La"}
_LARGE_IMAGE = 16_000_000  # pixels, above which memory matters more than a few calls
_BAND_PIXELS = 1_000_000
_ALPHA_PROBE = 128  # px; the ambiguity of transparency is judged on a thumbnail
_ALPHA_MATERIAL = 0.05 * 255  # mean absolute difference that makes it another image

# EXIF orientation (tag 0x0112) to the turn that makes the stored image upright. Source: EXIF 2.32,
# 4.6.4.
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation(image: Image.Image) -> tuple[int, bool]:
    """The EXIF orientation 1..8 (1 where there is none) and whether the EXIF block was readable.

    An orientation in XMP does not count, as in browsers.
    """
    block = image.info.get("exif")
    if not block:
        return 1, True
    return exif_orientation(block)


def upright(image: Image.Image, exif_orientation: int) -> Image.Image:
    """`image` turned upright, given its EXIF orientation 1..8."""
    method = _TRANSPOSE.get(exif_orientation)
    return image if method is None else image.transpose(method)


def to_rgb(image: Image.Image, bit_depth: int = 8) -> tuple[Image.Image, bool]:
    """A loaded image of any mode as RGB on white, and whether its transparency is ambiguous.

    An image whose `info` names a BACKGROUND comes on that.
    bit_depth is that of a PNG's samples, in which its transparent grey or colour is given.
    Ambiguous means that a black background (a white one, for an image on black), or ignoring
    transparency, would show an image whose mean absolute difference from the scored one is over
    5 % of full scale.
    """
    key = image.info.get("transparency")
    pixel_count = image.width * image.height
    if pixel_count <= _LARGE_IMAGE or (image.mode == "RGB" and key is None):
        rgb, black_differs, ignored_differs = _to_rgb(image, key, bit_depth)
    else:
        # Band by band, because intermediate steps take several times the memory of the result.
        rgb = Image.new("RGB", image.size)
        black_differs = ignored_differs = 0.0
        rows = max(1, _BAND_PIXELS // image.width)
        for top in range(0, image.height, rows):
            bottom = min(top + rows, image.height)
            band = image.crop((0, top, image.width, bottom))
            part, black, ignored = _to_rgb(band, key, bit_depth)
            rgb.paste(part, (0, top))
            share = (bottom - top) / image.height
            black_differs += black * share
            ignored_differs += ignored * share
    rgb.info.pop(PROFILE, None)  # it is applied
    return rgb, max(black_differs, ignored_differs) > _ALPHA_MATERIAL


def to_rgba(image: Image.Image, bit_depth: int = 8) -> Image.Image:
    """An image of any mode as RGBA, to be drawn on a canvas. bit_depth is as for `to_rgb`."""
    key = image.info.get("transparency")
    if image.mode in _GREY_16_MODES:
        values = np.asarray(image).astype(np.int64)
        rgba = _grey_16_to_rgb(image, None, None)[0].convert("RGBA")
        if isinstance(key, int):
            rgba.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
        return rgba
    if key is not None and image.mode in {"1", "L", "RGB"}:
        return _apply_colour_key(image, key, bit_depth)
    return image.convert("RGBA")


def last_row_is_zero(image: Image.Image) -> bool:
    """Whether the last row is all zeros, as Pillow leaves rows without data."""
    last_row = image.crop((0, image.height - 1, image.width, image.height))
    return last_row.getbbox(alpha_only=False) is None


def _to_rgb(image: Image.Image, key: Any, bit_depth: int) -> tuple[Image.Image, float, float]:
    """RGB on white, and how far a black background, and ignoring transparency, would be from it."""
    grey = image.mode in _GREY_MODES
    correct = correction(image.info.get(PROFILE), grey=grey) if image.mode != "CMYK" else None
    if image.mode in _GREY_16_MODES:
        return _grey_16_to_rgb(image, key, correct)
    if image.mode in _ALPHA_MODES or (
        image.mode == "P" and (key is not None or _palette_has_alpha(image))
    ):
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    elif key is not None and image.mode in {"1", "L", "RGB"}:
        rgba = _apply_colour_key(image, key, bit_depth)
    else:
        rgb = _plain_rgb(image)
        return (correct(rgb) if correct else rgb), 0.0, 0.0
    background = image.info.get(BACKGROUND, "white")
    return _on_background(rgba, correct, background, adds=ADDS_ALPHA in image.info)


def _plain_rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def _palette_has_alpha(image: Image.Image) -> bool:
    return image.palette is not None and image.palette.mode in {"RGBA", "LA"}


def _grey_16_to_rgb(
    image: Image.Image, key: Any, correct: Correction | None
) -> tuple[Image.Image, float, float]:
    """Scale 16-bit grey to 8 bits; Pillow's own conversion clips it to white."""
    values = np.asarray(image).astype(np.int64).clip(0, 65535)
    grey = ((values * 255 + 32767) // 65535).astype(np.uint8)
    if not isinstance(key, int):
        rgb = Image.fromarray(grey).convert("RGB")
        return (correct(rgb) if correct else rgb), 0.0, 0.0
    alpha = np.where(values == key, 0, 255).astype(np.uint8)
    layers = [Image.fromarray(layer) for layer in (grey, grey, grey, alpha)]
    return _on_background(Image.merge("RGBA", layers), correct)


def _apply_colour_key(image: Image.Image, key: Any, bit_depth: int) -> Image.Image:
    """Make the one colour that a PNG's tRNS chunk names transparent."""
    key_values = np.atleast_1d(np.asarray(key, dtype=np.int64))
    if bit_depth > 8:
        key_values = key_values >> (bit_depth - 8)
    elif bit_depth < 8:
        key_values = key_values * 255 // ((1 << bit_depth) - 1)
    plain = image.convert("L") if image.mode == "1" else image
    pixels = np.asarray(plain)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    opaque = (pixels != key_values.astype(pixels.dtype, casting="unsafe")).any(axis=-1)
    rgba = _plain_rgb(plain).convert("RGBA")
    rgba.putalpha(Image.fromarray(np.where(opaque, 255, 0).astype(np.uint8)))
    return rgba


def _on_background(
    rgba: Image.Image,
    correct: Correction | None = None,
    background: str = "white",
    *,
    adds: bool = False,
) -> tuple[Image.Image, float, float]:
    alpha = rgba.getchannel("A")
    colours = rgba.convert("RGB")
    if correct:
        colours = correct(colours)
    if alpha.getextrema() == (255, 255):
        return colours, 0.0, 0.0
    if adds:
        uncovered = ImageChops.invert(alpha)
        shown = ImageChops.add(colours, Image.merge("RGB", [uncovered] * 3))
    else:
        shown = Image.new("RGB", rgba.size, background)
        shown.paste(colours, mask=alpha)
    return shown, *_differences(shown, colours, alpha)


def _differences(
    shown: Image.Image, colours: Image.Image, alpha: Image.Image
) -> tuple[float, float]:
    def thumbnail(image: Image.Image) -> NDArray[np.int16]:
        size = (min(image.width, _ALPHA_PROBE), min(image.height, _ALPHA_PROBE))
        return np.asarray(image.resize(size, Image.Resampling.BOX)).astype(np.int16)

    # White and black backgrounds differ by exactly 255 - alpha in every channel.
    black_differs = float((255 - thumbnail(alpha)).mean())
    ignored_differs = float(np.abs(thumbnail(shown) - thumbnail(colours)).mean())
    return black_differs, ignored_differs
