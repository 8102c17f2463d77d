"""Whether a small copy of a picture, such as its EXIF thumbnail, shows what the picture shows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Grey = NDArray[np.float32]

SAME_FROM = 0.5
"""The correlation of details from which two pictures show the same.

Measured on 125 photographs with thumbnails made in four ways while the picture was edited in ten:
all that show the same are above, 99 % of those of another picture that shows anything are below.
See docs/embedded-content.md.
"""

_SAME_PART_FROM = 0.6  # the same where one is a part of the other: there are many ways to lay it

_LEAST_DIFFERENCE = 6.0  # grey levels that a thumbnail must show beside the picture to differ
_SIDE = 40  # pixels; the longer side of the copy when they are compared
_DETAIL = 9  # pixels; what is broader than that is light and shade, which many pictures share
_BAR = 24  # grey level up to which a whole row is a black bar
_LEAST_OVERLAP = 0.5  # of either picture
# How much larger the picture is than the copy, where one of them was cropped.
_SCALES = (1.0, 0.95, 1.05, 0.9, 1.11, 0.85, 1.18, 0.8, 1.25, 0.75, 1.33, 0.7, 1.43)


def shows_the_same(picture: Image.Image, copy: Image.Image) -> bool:
    """Whether the copy shows the RGB picture: perhaps smaller, with bars, cropped, turned, edited.

    Cameras put a thumbnail of 4:3 between black bars, and programs that crop, turn or brighten a
    picture often leave its thumbnail as it was. Compared are details in grey, at a size of some 40
    pixels.
    """
    copies = [_grey(copy, _SIDE / max(copy.size))]
    if not _is_visible(copies[0]):
        return True
    copies += [
        _grey(copy.crop(box), _SIDE / max(box[2] - box[0], box[3] - box[1]))
        for box in _without_bars(picture.size, copy)
    ]
    small = picture.copy() if max(picture.size) <= 4 * _SIDE else _shrunk(picture)
    for turns in (0, 1, 3, 2):
        turned = small.rotate(90 * turns, expand=True) if turns else small
        # The whole of the one against the whole of the other: by far the most are alike then.
        if any(_alike(_fitted(turned, each), each) for each in copies):
            return True
    return any(_overlap_alike(small, each) for each in copies)


def _shrunk(picture: Image.Image) -> Image.Image:
    """The picture at a size from which the small sizes are made."""
    scale = 4 * _SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BOX, reducing_gap=2.0)


def _grey(image: Image.Image, scale: float) -> Grey:
    size = (max(4, round(image.width * scale)), max(4, round(image.height * scale)))
    return np.asarray(image.convert("L").resize(size, Image.Resampling.BOX), dtype=np.float32)


def _fitted(image: Image.Image, copy: Grey) -> Grey:
    """The image at the size of the copy, whatever its shape."""
    size = (copy.shape[1], copy.shape[0])
    return np.asarray(image.convert("L").resize(size, Image.Resampling.BOX), dtype=np.float32)


def _without_bars(size: tuple[int, int], copy: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of the copy: the rows and columns that are not black, and the shape of the picture."""
    width, height = copy.size
    grey = np.asarray(copy.convert("L"))
    rows = np.flatnonzero((grey > _BAR).mean(axis=1) > 0.05)
    columns = np.flatnonzero((grey > _BAR).mean(axis=0) > 0.05)
    if len(rows) > 8 and len(columns) > 8:
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        if box != (0, 0, width, height):
            yield box
    shape = size[0] / size[1]
    across, down = round(min(width, height * shape)), round(min(height, width / shape))
    if min(across, down) > 8 and (width - across > 2 or height - down > 2):
        left, top = (width - across) // 2, (height - down) // 2
        yield left, top, left + across, top + down


def _is_visible(grey: Grey) -> bool:
    return float(grey.std()) > _LEAST_DIFFERENCE


def _alike(first: Grey, second: Grey) -> bool:
    """Whether two grey pictures of the same size show the same, in another tone perhaps."""
    if _correlation(_details(first), _details(second)) >= SAME_FROM:
        return True
    # Pictures of light and shade alone have no details that could be compared.
    alike = min(max(0.0, _correlation(first, second)), 1.0)
    left_over = float(second.std()) * float(np.sqrt(1 - alike**2))
    return left_over <= _LEAST_DIFFERENCE


def _correlation(first: Grey, second: Grey) -> float:
    one, other = first - first.mean(), second - second.mean()
    scale = float((one * one).sum() * (other * other).sum()) ** 0.5
    return float((one * other).sum()) / scale if scale else 0.0


def _details(grey: Grey) -> Grey:
    """The picture without light and shade: each pixel less the mean around it."""
    half = _DETAIL // 2
    padded = np.pad(grey, half, mode="reflect" if min(grey.shape) > half else "edge")
    sums = np.pad(padded.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    area = sums[_DETAIL:, _DETAIL:] - sums[:-_DETAIL, _DETAIL:]
    area = area - sums[_DETAIL:, :-_DETAIL] + sums[:-_DETAIL, :-_DETAIL]
    details: Grey = (grey - area / _DETAIL**2).astype(np.float32)
    return details


def _overlap_alike(picture: Image.Image, copy: Grey) -> bool:
    """Whether a large part of the picture and of the copy show the same, at any of the scales."""
    details = _details(copy)
    # The scale at which both have the same width, or the same height.
    bases = {copy.shape[1] / picture.width, copy.shape[0] / picture.height}
    return any(
        _best_overlap(_details(_grey(picture, base * scale)), details) >= _SAME_PART_FROM
        for base in bases
        for scale in _SCALES
    )


def _best_overlap(first: Grey, second: Grey) -> float:
    """The highest correlation of two arrays, the smaller one moved across the other in each axis.

    Zero where they overlap by less than half of either.
    """
    shape = tuple(np.minimum(first.shape, second.shape))
    if shape[0] * shape[1] < _LEAST_OVERLAP * max(first.size, second.size):
        return 0.0
    return float((_windows(first, shape) @ _windows(second, shape).T).max())


def _windows(array: Grey, shape: tuple[int, ...]) -> Grey:
    """Every part of that shape as a row, less its mean and of length one."""
    parts = np.lib.stride_tricks.sliding_window_view(array, shape)
    rows = parts.reshape(-1, shape[0] * shape[1])
    rows = rows - rows.mean(axis=1, keepdims=True)
    lengths = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    unit: Grey = rows / np.maximum(lengths, 1e-6)
    return unit
