"""One RGB image to another size, with an antialiasing filter: by SIMD, or else by Pillow.

Pillow is the reference. It filters in one direction, rounds to 8 bits, then filters in the other.
The library of SIMD code (fast_image_resize) has an order of its own, and rounding in another order
moves the scores of real networks ten times as far. So it is called once for each direction, in
Pillow's order: its pixels are then those of Pillow but for a few in a thousand, which are a level
(of 255) or, rarely, two apart.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

from PIL import Image

from moderate.decode.version import PILLOW, resampler

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Box = tuple[float, float, float, float]

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}

# The library's name of a filter, and the filter's support in pixels of the smaller image. It has no
# hamming, its box breaks ties otherwise than Pillow does, and nearest costs next to nothing.
_FILTERS = {"bilinear": ("bilinear", 1), "bicubic": ("catmull_rom", 2), "lanczos": ("lanczos3", 3)}

_Pass = Callable[[Image.Image, Image.Image, str, Box], None]


def prepare_resampling() -> None:
    """Load the library where there is one. In the sandbox, it could not be loaded."""
    _one_pass()


def resample(
    image: Image.Image, size: tuple[int, int], interpolation: Interpolation, box: Box
) -> Image.Image:
    """The box (left, top, right, bottom; in pixels) of an RGB image at another (width, height)."""
    one_pass = _one_pass() if interpolation in _FILTERS and image.mode == "RGB" else None
    if one_pass is None:
        return image.resize(size, _RESAMPLING[interpolation], box=box)
    name, support = _FILTERS[interpolation]
    width, height = size
    left, top, right, bottom = box
    # Of the other direction, the first pass leaves out what the second does not reach.
    result = Image.new("RGB", size)
    if down_first(image.size, size):
        first, last = _reached(left, right, width, image.width, support)
        between = Image.new("RGB", (last - first, height))
        one_pass(image, between, name, (first, top, last, bottom))
        one_pass(between, result, name, (left - first, 0, right - first, height))
    else:
        first, last = _reached(top, bottom, height, image.height, support)
        between = Image.new("RGB", (width, last - first))
        one_pass(image, between, name, (left, first, right, last))
        one_pass(between, result, name, (0, top - first, width, bottom - first))
    return result


def down_first(source: tuple[int, int], target: tuple[int, int]) -> bool:
    """Whether Pillow filters down before it filters across, given two (width, height).

    Sources: ImagingResampleInner of Pillow 13.0; `Image.resize` of all versions for ribbons.
    """
    width, height = source
    lost_across, lost_down = width - target[0], height - target[1]
    ribbon = height > 100 * width
    return lost_down > 0 and (ribbon or (PILLOW >= 13 and lost_down > 2 * lost_across))


def _reached(start: float, stop: float, count: int, side: int, support: int) -> tuple[int, int]:
    """The rows or columns, first and one beyond the last, from which `count` new ones are made."""
    reach = support * max(1.0, (stop - start) / count) + 1
    return max(0, math.floor(start - reach)), min(side, math.ceil(stop + reach))


@functools.cache
def _one_pass() -> _Pass | None:
    """Fills an image from the box of another one, one direction at a time; None without library.

    The library has no threads unless it is asked for a pool of them.
    """
    if resampler() != "simd":
        return None
    import cykooz_resizer as library

    resizer = library.Resizer()
    algorithms: dict[str, Any] = {
        name: library.ResizeAlg.convolution(library.FilterType[name])
        for name, _ in _FILTERS.values()
    }

    def one_pass(source: Image.Image, target: Image.Image, name: str, box: Box) -> None:
        left, top, right, bottom = box
        crop = library.CropBox(
            left, top, _length(left, right, source.width), _length(top, bottom, source.height)
        )
        options = library.ResizeOptions(resize_alg=algorithms[name], crop_box=crop)
        resizer.resize_pil(source, target, options)

    # What it loads or imports on first use.
    one_pass(Image.new("RGB", (4, 4)), Image.new("RGB", (2, 4)), "bilinear", (0, 0, 4, 4))
    return one_pass


def _length(start: float, end: float, side: int) -> float:
    """The length of a stretch that must not end beyond the side, not by a rounding error either."""
    length = end - start
    while start + length > side:
        length = math.nextafter(length, 0)
    return length
