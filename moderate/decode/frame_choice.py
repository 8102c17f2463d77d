"""Which frames of an animation are scored: compared and chosen on small copies of them.

A small copy is an array of (rows, columns, 3) bytes. The distance of two is the largest difference
of any block, so that a change in one place counts in full, however still the rest of the frame is.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moderate.decode import pixels

SAME = 4.0
"""Frames at this distance or less show the same. Lossy compression of a still scene stays below."""

COVERED = 16.0
"""A frame at this distance or less from a scored one has nothing that would change the scores.

A sixteenth of full scale, in any block of about a sixteenth of the width and the height.
"""

FARTHEST = 255.0
"""The distance of frames that differ as much as can be, or in shape."""

_CELLS = 32  # along the sides of the small copy of a square frame; a block is 2 x 2 cells
_FEWEST_CELLS, _MOST_CELLS = 8, 128

Small = NDArray[np.uint8]


def small_copy(image: Image.Image, turn: int = 1) -> Small:
    """The small copy of a frame on white, given its EXIF orientation."""
    size = _cells(image.width, image.height), _cells(image.height, image.width)
    if image.mode not in {"RGB", "RGBA"}:
        image, _ = pixels.to_rgb(image)
    small = image.resize(size, Image.Resampling.BOX)
    rgb, _ = pixels.to_rgb(small)
    return np.asarray(pixels.upright(rgb, turn))


def _cells(side: int, other: int) -> int:
    cells = 2 * round(_CELLS / 2 * math.sqrt(side / other))
    return min(max(cells, _FEWEST_CELLS), _MOST_CELLS)


def distances(one: Small, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The distance, 0.0 to FARTHEST, of each of `frames` (count, rows, columns, 3) from one."""
    difference = np.abs(frames.astype(np.int16) - one)
    rows = difference[:, ::2] + difference[:, 1::2]
    blocks = rows[:, :, ::2] + rows[:, :, 1::2]
    distance: NDArray[np.float32] = blocks.max(axis=(1, 2, 3)).astype(np.float32) / 4
    return distance


def nearest(one: Small, frames: list[Small]) -> float:
    """How far one frame is from the nearest of several, FARTHEST where none has its shape."""
    comparable = [frame for frame in frames if frame.shape == one.shape]
    return float(distances(one, np.stack(comparable)).min()) if comparable else FARTHEST


def choose(
    frames: NDArray[np.uint8], times: NDArray[np.int64], most: int, same: float
) -> tuple[list[int], float]:
    """The frames to score, in their order, and how far any other is from the nearest of them.

    frames are the small copies (count, rows, columns, 3), times when each is first on display. The
    first frame is always chosen; then the last, some evenly in time, and, one after the other, that
    which differs most from all chosen before. Of frames with a distance of `same` or less, one is.
    """
    chosen: list[int] = []
    distance = np.full(len(frames), FARTHEST, np.float32)

    def take(index: int) -> None:
        if len(chosen) < most and (not chosen or distance[index] > same):
            chosen.append(index)
            np.minimum(distance, distances(frames[index], frames), out=distance)

    take(0)
    take(len(frames) - 1)
    steps = (most - 2) // 3
    for step in range(1, steps + 1):
        time = times[-1] * step // (steps + 1)
        take(int(np.searchsorted(times, time, side="right")) - 1)
    while len(chosen) < most and distance.max() > same:
        take(int(distance.argmax()))
    return sorted(chosen), float(distance.max())
