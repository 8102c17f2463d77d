"""An upright RGB image to the array that a model needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moderate.decode.resample import Interpolation, resample

Pixels = NDArray[np.uint8] | NDArray[np.float32]

# A filter over a longer run than this would take memory proportional to the image's long side.
_MAX_RATIO = 256

# An image with fewer rows than this for each row of the model's input becomes an array as a whole,
# which is quicker then.
_FEW_ROWS = 4

DRAFT_MARGIN = 5
"""How many times larger than the model's input a JPEG is decoded at least.

benchmarks/parity.py compares it with what rounding alone does to scores. docs/performance.md has
the figures: three and four times move scores further, more than five times hardly less far.
"""


@dataclass(frozen=True, slots=True)
class PixelSpec:
    """The pixels that a model needs, before normalisation (which happens on the device).

    height and width are the model's input in pixels. `squash` resizes to exactly that; `crop`
    takes the central part that shows `crop_pct` of the shorter side. antialias=False is plain
    two-tap interpolation as in TensorFlow.js and older pipelines, where align_corners is an option.
    With exact=True every JPEG is decoded in full, however large.
    """

    height: int
    width: int
    resize: Literal["squash", "crop"] = "squash"
    crop_pct: float = 1.0
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    align_corners: bool = False
    exact: bool = False

    @property
    def dtype(self) -> str:
        """`uint8` with antialiasing; `float32` (0..255) where rounding would change scores."""
        return "uint8" if self.antialias else "float32"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the array: (height, width, 3)."""
        return self.height, self.width, 3

    @property
    def nbytes(self) -> int:
        """Size of the array in bytes."""
        return self.height * self.width * 3 * (1 if self.antialias else 4)


def source_box(spec: PixelSpec, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The part (left, top, right, bottom) of a (width, height) image that the model sees.

    For `crop` this is what timm's evaluation transform shows: resize the shorter side to
    floor(input / crop_pct), then cut out the centre.
    """
    width, height = size
    if spec.resize == "squash" and spec.crop_pct == 1.0:
        return 0.0, 0.0, float(width), float(height)
    scaled_h, scaled_w = (
        math.floor(spec.height / spec.crop_pct),
        math.floor(spec.width / spec.crop_pct),
    )
    if spec.resize == "crop":
        # torchvision computes the long side as int(target * long / short).
        target = max(scaled_h, scaled_w)
        if width <= height:
            scaled_w, scaled_h = target, max(int(target * height / width), spec.height)
        else:
            scaled_w, scaled_h = max(int(target * width / height), spec.width), target
    left, top = round((scaled_w - spec.width) / 2), round((scaled_h - spec.height) / 2)
    across, down = width / scaled_w, height / scaled_h
    return (
        left * across,
        top * down,
        min((left + spec.width) * across, float(width)),
        min((top + spec.height) * down, float(height)),
    )


def draft_size(specs: tuple[PixelSpec, ...], size: tuple[int, int]) -> tuple[int, int] | None:
    """The smallest (width, height) at which a JPEG may be decoded; None where only in full.

    Interpolation without antialiasing picks single pixels, so it needs all of them.
    """
    scale = 0.0
    for spec in specs:
        if spec.exact or not spec.antialias:
            return None
        left, top, right, bottom = source_box(spec, size)
        across, down = spec.width / (right - left), spec.height / (bottom - top)
        scale = max(scale, DRAFT_MARGIN * across, DRAFT_MARGIN * down)
    if scale >= 1:
        return None
    return math.ceil(size[0] * scale), math.ceil(size[1] * scale)


def resize(
    image: Image.Image,
    spec: PixelSpec,
    size: tuple[int, int] | None = None,
    box: tuple[float, float, float, float] | None = None,
) -> Pixels:
    """An RGB image as an array of spec.shape and spec.dtype, values 0..255.

    size is the full (width, height) where `image` was decoded at a reduced scale. box (left, top,
    right, bottom), in pixels of the full size, is squashed onto the model's input; None is what
    the model is made to see.
    """
    full = size or image.size
    # Computed for the full size: rounded at a reduced scale, it would show another part.
    box = _at_scale(box or source_box(spec, full), full, image.size)
    if not spec.antialias:
        return _interpolate(image, spec, box)
    across = max(1, int((box[2] - box[0]) / spec.width / _MAX_RATIO))
    down = max(1, int((box[3] - box[1]) / spec.height / _MAX_RATIO))
    if across > 1 or down > 1:
        reduced = image.reduce((across, down))
        box = _at_scale(box, image.size, reduced.size)
        image = reduced
    return np.asarray(resample(image, (spec.width, spec.height), spec.interpolation, box))


def _at_scale(
    box: tuple[float, float, float, float], size: tuple[int, int], reduced: tuple[int, int]
) -> tuple[float, float, float, float]:
    """A box of an image of `size`, in the image reduced by whole factors and rounded up."""
    across, down = round(size[0] / reduced[0]), round(size[1] / reduced[1])
    left, top, right, bottom = (
        side / scale for side, scale in zip(box, (across, down) * 2, strict=True)
    )
    width, height = reduced
    # A narrow box at the end of a dimension that was rounded up or down must not become empty.
    return (
        min(left, width - min(1.0, right - left)),
        min(top, height - min(1.0, bottom - top)),
        min(right, float(width)),
        min(bottom, float(height)),
    )


def _interpolate(
    image: Image.Image, spec: PixelSpec, box: tuple[float, float, float, float]
) -> NDArray[np.float32]:
    """Two-tap bilinear interpolation in float32, without antialiasing."""
    left, top, right, bottom = box
    rows = _sample_points(spec.height, top, bottom, image.height, spec.align_corners)
    columns = _sample_points(spec.width, left, right, image.width, spec.align_corners)
    row, row_weight = _taps(rows, image.height)
    column, column_weight = _taps(columns, image.width)
    next_row = np.minimum(row + 1, image.height - 1)
    next_column = np.minimum(column + 1, image.width - 1)
    pixels, place = _with_rows(image, row)

    def along(line: NDArray[np.intp]) -> NDArray[np.float32]:
        near = pixels[line[:, None], column].astype(np.float32)
        far = pixels[line[:, None], next_column].astype(np.float32)
        blended: NDArray[np.float32] = near + (far - near) * column_weight[None, :, None]
        return blended

    upper, lower = along(place), along(place + next_row - row)
    pixels_out: NDArray[np.float32] = upper + (lower - upper) * row_weight[:, None, None]
    return pixels_out


def _with_rows(
    image: Image.Image, rows: NDArray[np.intp]
) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """An array with these rows of an RGB image, each with the next, and where in it each row is.

    Making an array of all of a large image takes more time than decoding it.
    """
    starts = sorted(set(rows.tolist()))
    if image.height < _FEW_ROWS * len(starts):
        return np.asarray(image), rows
    strip = Image.new("RGB", (image.width, 2 * len(starts)))
    for place, start in enumerate(starts):
        stop = min(start + 2, image.height)
        strip.paste(image.crop((0, start, image.width, stop)), (0, 2 * place))
    return np.asarray(strip), 2 * np.searchsorted(starts, rows)


def _sample_points(
    count: int, start: float, stop: float, limit: int, align_corners: bool
) -> NDArray[np.float32]:
    steps = np.arange(count, dtype=np.float32)
    if align_corners:
        step = np.float32((stop - start - 1) / (count - 1)) if count > 1 else np.float32(0)
        points = np.float32(start) + steps * step
    else:
        points = (
            np.float32(start)
            + (steps + np.float32(0.5)) * np.float32((stop - start) / count)
            - np.float32(0.5)
        )
    return points.clip(0, limit - 1)


def _taps(points: NDArray[np.float32], limit: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    first = np.floor(points).astype(np.intp).clip(0, limit - 1)
    return first, (points - first).astype(np.float32)
