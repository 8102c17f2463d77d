"""PDQ, the perceptual hash of Meta's ThreatExchange: 256 bits that survive another compression.

The algorithm is that of the authors' paper "The TMK+PDQF Video-Hashing Algorithm and the PDQ
Image-Hashing Algorithm" (2019): luminance, two passes of a box filter along rows and columns, 64 x
64 samples, the 16 x 16 lowest frequencies of their cosine transform but the constant ones, and one
bit per frequency that is above the median. Sums are taken in the order and precision of the
authors' C++ code, so that the bits are the same.

It runs in the sandbox of a decoder: nothing here may import or open anything on first use.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moderate.types import PdqHash

REDUCED = 512
"""Pixels. An image with a longer side is squashed to a square of this side, as in the C++ tool."""

SMALLEST = 5
"""Pixels. A picture with a shorter side has no hash: its bits and quality are 0."""

_SAMPLES = 64  # in each direction
_FREQUENCIES = 16  # in each direction
_PASSES = 2
_LUMINANCE = (0.299, 0.587, 0.114)

Floats = NDArray[np.float32]


def _cosines() -> Floats:
    """The rows of the cosine transform of 64 samples for the frequencies 1 to 16."""
    scale = float(np.float32(math.sqrt(2 / _SAMPLES)))
    step = math.pi / 2 / _SAMPLES
    return np.array(
        [
            [scale * math.cos(step * row * (2 * column + 1)) for column in range(_SAMPLES)]
            for row in range(1, _FREQUENCIES + 1)
        ],
        np.float32,
    )


_COSINES = _cosines()


def pdq_hash(image: Image.Image) -> PdqHash:
    """The hash of an upright RGB image, of any size."""
    return hash_of_pixels(np.asarray(reduced(image)))


def reduced(image: Image.Image) -> Image.Image:
    """The image at the size at which it is hashed: 512 x 512, or as it is where it is smaller."""
    if max(image.size) <= REDUCED:
        return image
    # Not the nearest pixels, as the C++ tool takes them: averages change less with the scale at
    # which a JPEG was decoded.
    return image.resize((REDUCED, REDUCED), Image.Resampling.BOX)


def hash_of_pixels(rgb: NDArray[np.uint8]) -> PdqHash:
    """The hash of pixels (height, width, 3), taken as they are."""
    height, width = rgb.shape[:2]
    if min(height, width) < SMALLEST:
        return PdqHash(bytes(32), 0)
    red, green, blue = (rgb[:, :, channel] * share for channel, share in enumerate(_LUMINANCE))
    luminance = (red + green + blue).astype(np.float32)
    # Pixels that are as many as the samples are the samples.
    for _ in range(0 if (height, width) == (_SAMPLES, _SAMPLES) else _PASSES):
        luminance = _blurred(luminance.T, _window(width)).T
        luminance = _blurred(luminance, _window(height))
    samples = luminance[np.ix_(_centres(height), _centres(width))]
    return PdqHash(_bits(_low_frequencies(samples)), _quality(samples))


def _window(side: int) -> int:
    """How many pixels one pass averages."""
    return (side + 2 * _SAMPLES - 1) // (2 * _SAMPLES)


def _blurred(values: Floats, window: int) -> Floats:
    """The running mean down each column, over fewer values at both ends.

    A value is added to the sum, then one is taken away, in float32. Both stand in turn in one
    array, which becomes its own running sum.
    """
    length = len(values)
    ahead = (window + 2) // 2 - 1  # values of the window after the first one that is written
    growing, full = window - ahead, length - window
    steps = np.empty((window + 2 * full + ahead, values.shape[1]), np.float32)
    steps[:window] = values[:window]
    steps[window : window + 2 * full : 2] = values[window:]
    steps[window + 1 : window + 2 * full : 2] = -values[:full]
    steps[window + 2 * full :] = -values[full : full + ahead]
    sums, before = steps, steps[0]
    for row in steps[1:]:  # several times as fast as cumsum, which goes down one column at a time
        np.add(before, row, out=row)
        before = row
    blurred = np.empty_like(values, order="C")
    sizes = np.float32(window)
    blurred[:growing] = sums[ahead:window] / _column(range(ahead + 1, window + 1))
    blurred[growing : growing + full] = sums[window + 1 : window + 2 * full : 2] / sizes
    blurred[growing + full :] = sums[window + 2 * full :] / _column(
        range(window - 1, window - 1 - ahead, -1)
    )
    return blurred


def _column(sizes: range) -> Floats:
    return np.array(sizes, np.float32)[:, np.newaxis]


def _centres(side: int) -> NDArray[np.intp]:
    """Where the samples are taken along a side: in the middle of each 64th."""
    return np.array([int((place + 0.5) * side / _SAMPLES) for place in range(_SAMPLES)])


def _low_frequencies(samples: Floats) -> Floats:
    """The cosine transform of (64, 64) samples at the lowest frequencies, (16, 16).

    The running sums add one product after the other, as the C++ code does.
    """
    products: Any = _COSINES[:, :, np.newaxis] * samples[np.newaxis]
    down = np.cumsum(products, axis=1, dtype=np.float32)[:, -1]
    products = down[:, np.newaxis, :] * _COSINES[np.newaxis]
    low: Floats = np.cumsum(products, axis=2, dtype=np.float32)[:, :, -1]
    return low


def _bits(low: Floats) -> bytes:
    """One bit per frequency that is above the lower median; the last one comes first."""
    flat = low.ravel()
    median = np.sort(flat)[(flat.size - 1) // 2]
    return np.packbits((flat > median)[::-1]).tobytes()


def _quality(samples: Floats) -> int:
    """0 to 100: how much the picture changes from one sample to the next, in steps of a 100th."""
    total = 0
    for change in (samples[:-1] - samples[1:], samples[:, :-1] - samples[:, 1:]):
        steps = (change * np.float32(100) / np.float32(255)).astype(np.int32)
        total += int(np.abs(steps).sum())
    return min(100, total // 90)
