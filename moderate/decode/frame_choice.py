"""Which frames of an animation are scored: compared and chosen on small copies of them.

The distance of two frames is the mean absolute difference of their small copies, in that block of a
sixteenth of the sides where it is largest. So a change in one place counts in full, however still
the rest is. The copies have about half the detail that models see: outlines that leave a
place as bright as it was are a difference, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moderate.decode import pixels

SAME = 4.0
"""Frames at this distance or less show the same. Lossy compression of a still scene stays below."""

COVERED = 16.0
"""A frame at this distance or less from a scored one has nothing that would change the scores.

A sixteenth of full scale: noise and dithering stay below, and what is visible in a block does not.
"""

FARTHEST = 255.0
"""The distance of frames that differ as much as can be, or in shape."""

_CELLS = 128  # along the sides of the small copy of a square frame
_BLOCK = 8  # cells along the sides of a block
_FEWEST_CELLS, _MOST_CELLS = 32, 512
_COLOUR = 4  # cells of brightness along the sides of a cell of colour


@dataclass(frozen=True, slots=True)
class SmallCopy:
    """Brightness (rows, columns) and colour (rows / 4, columns / 4, 2) of a frame, as bytes."""

    luma: NDArray[np.uint8]
    chroma: NDArray[np.uint8]


def small_copy(image: Image.Image, turn: int = 1) -> SmallCopy:
    """The small copy of a frame on white, given its EXIF orientation."""
    size = _cells(image.width, image.height), _cells(image.height, image.width)
    if image.mode not in {"RGB", "RGBA"}:
        image, _ = pixels.to_rgb(image)
    rgb, _ = pixels.to_rgb(image.resize(size, Image.Resampling.BOX))
    colours = pixels.upright(rgb, turn).convert("YCbCr")
    return SmallCopy(
        np.asarray(colours.getchannel(0)), np.asarray(colours.reduce(_COLOUR))[..., 1:]
    )


def _cells(side: int, other: int) -> int:
    cells = _BLOCK * round(_CELLS / _BLOCK * math.sqrt(side / other))
    return min(max(cells, _FEWEST_CELLS), _MOST_CELLS)


def distance(one: SmallCopy, other: SmallCopy) -> float:
    """The distance of two frames, 0.0 to FARTHEST."""
    if one.luma.shape != other.luma.shape:
        return FARTHEST
    return float(_distances(one, other.luma[None], other.chroma[None])[0])


def _distances(
    one: SmallCopy, luma: NDArray[np.uint8], chroma: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """The distance of one frame from each of several, whose copies are stacked."""
    brightness = _largest_block(_difference(luma, one.luma), _BLOCK)
    hue = _difference(chroma, one.chroma)
    side = _BLOCK // _COLOUR
    colour = [_largest_block(np.ascontiguousarray(hue[..., each]), side) for each in (0, 1)]
    return np.maximum(brightness, np.maximum(*colour))


def _difference(frames: NDArray[np.uint8], one: NDArray[np.uint8]) -> NDArray[np.uint8]:
    absolute: NDArray[np.uint8] = np.maximum(frames, one) - np.minimum(frames, one)
    return absolute


def _largest_block(difference: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """Of each of several (rows, columns), the largest mean of a block."""
    count, rows, columns = difference.shape
    stripes = difference.reshape(count, rows // side, side, columns).sum(axis=2, dtype=np.uint16)
    blocks = stripes.reshape(count, rows // side, columns // side, side).sum(3, dtype=np.uint16)
    largest: NDArray[np.float32] = blocks.max(axis=(1, 2)).astype(np.float32) / side**2
    return largest


def choose(
    frames: Sequence[SmallCopy], times: Sequence[int], most: int, same: float
) -> tuple[list[int], float]:
    """The frames to score, in their order, and how far any other is from the nearest of them.

    The frames have one shape; times say when each is first on display. The first is always chosen;
    then the last, some evenly in time, and, one after the other, that which differs most from all
    chosen before. Of frames with a distance of `same` or less, one is.
    """
    luma = np.stack([frame.luma for frame in frames])
    chroma = np.stack([frame.chroma for frame in frames])
    chosen: list[int] = []
    farthest = np.full(len(frames), FARTHEST, np.float32)

    def take(index: int) -> None:
        if len(chosen) < most and (not chosen or farthest[index] > same):
            chosen.append(index)
            np.minimum(farthest, _distances(frames[index], luma, chroma), out=farthest)

    take(0)
    take(len(frames) - 1)
    steps = (most - 2) // 3
    for step in range(1, steps + 1):
        time = times[-1] * step // (steps + 1)
        take(int(np.searchsorted(times, time, side="right")) - 1)
    while len(chosen) < most and farthest.max() > same:
        take(int(farthest.argmax()))
    return sorted(chosen), float(farthest.max())
