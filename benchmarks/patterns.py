"""Pictures in fine patterns: halftones, dithering, checkers and line screens that may alias."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

# Bayer's 2 x 2 threshold matrix, from which the larger ones follow (Bayer, 1973).
_BAYER = np.array([[0, 2], [3, 1]])


def draw_all(picture: Image.Image, rng: np.random.Generator) -> Iterator[tuple[str, Image.Image]]:
    """`picture` (RGB) in each pattern, with the pattern's name; all have the picture's size."""
    grey = np.asarray(picture.convert("L"), np.float32) / 255
    colour = np.asarray(picture, np.float32) / 255
    y, x = np.mgrid[: grey.shape[0], : grey.shape[1]].astype(np.float32)
    yield "dithered, Floyd and Steinberg", picture.convert("1").convert("RGB")
    yield (
        "dithered in colour",
        picture.quantize(8, dither=Image.Dither.FLOYDSTEINBERG).convert("RGB"),
    )
    yield "dithered, Bayer", _shown(grey > _tiled(_bayer(3), grey.shape))
    yield "dithered by noise", _shown(grey > rng.random(grey.shape, np.float32))
    for period in (3, 4, 6, 8, 12):
        yield f"halftone, period {period}", _shown(grey > _dots(x, y, period, 45))
        inks = [colour[..., c] > _dots(x, y, period, angle) for c, angle in enumerate((15, 75, 45))]
        yield f"halftone in colour, period {period}", _shown(np.stack(inks, axis=-1))
    for period in (2, 3, 4, 5, 8):
        yield f"line screen, period {period}", _shown(grey > (y % period + 0.5) / period)
    for cell in (1, 2, 3, 4):
        light = ((x // cell + y // cell) % 2)[..., None] == 0
        yield (
            f"checker of picture and negative, {cell}",
            _shown(np.where(light, colour, 1 - colour)),
        )
        weak = np.where(light, colour / 2 + 0.5, colour / 2)
        yield f"checker over picture, {cell}", _shown(weak)
    for every in (2, 3, 4, 8):
        kept = ((x % every == 0) & (y % every == 0))[..., None]
        yield f"picture in one pixel of {every} x {every}", _shown(np.where(kept, colour, 1.0))
    radius = (x - x.mean()) ** 2 + (y - y.mean()) ** 2
    yield "zone plate", _shown(0.5 + 0.5 * np.cos(radius * np.pi / grey.shape[1]))
    yield "page of text", _page(picture.size)


def _bayer(doublings: int) -> NDArray[np.float32]:
    """Thresholds in 0..1 of a matrix of 2 ** doublings a side."""
    matrix = _BAYER
    for _ in range(doublings - 1):
        matrix = np.block([[4 * matrix, 4 * matrix + 2], [4 * matrix + 3, 4 * matrix + 1]])
    return ((matrix + 0.5) / matrix.size).astype(np.float32)


def _tiled(matrix: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    side = len(matrix)
    repeats = (-(-shape[0] // side), -(-shape[1] // side))
    return np.tile(matrix, repeats)[: shape[0], : shape[1]]


def _dots(
    x: NDArray[np.float32], y: NDArray[np.float32], period: float, degrees: float
) -> NDArray[np.float32]:
    """Thresholds in 0..1 of a dot screen at an angle."""
    angle = np.deg2rad(degrees)
    turn = 2 * np.pi / period
    across = np.cos((x * np.cos(angle) + y * np.sin(angle)) * turn)
    down = np.cos((y * np.cos(angle) - x * np.sin(angle)) * turn)
    thresholds: NDArray[np.float32] = 0.5 + (across + down) / 4
    return thresholds


def _shown(values: NDArray[np.generic]) -> Image.Image:
    levels = (np.asarray(values, np.float32) * 255).astype(np.uint8)
    return Image.fromarray(levels).convert("RGB")


def _page(size: tuple[int, int]) -> Image.Image:
    page = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(page)
    font = ImageFont.load_default(max(9, size[1] // 120))
    line = "Nothing here is worth reading, yet every stroke of it is two pixels wide. " * 6
    for number, top in enumerate(range(0, size[1], max(12, size[1] // 90))):
        pen.text((10, top), line[number % 40 :], font=font, fill="black")
    return page
