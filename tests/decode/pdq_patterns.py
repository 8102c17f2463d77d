"""Pictures by arithmetic alone, whose hashes by the authors' code are known."""

from __future__ import annotations

import random

import numpy as np


def pattern(width: int, height: int, cells: int, seed: int) -> np.ndarray:
    """Pixels (height, width, 3) in flat cells of any colour, so many in each direction.

    As many cells as pixels are noise, one is a picture of one colour.
    """
    colours = np.frombuffer(random.Random(seed).randbytes(cells * cells * 3), np.uint8)
    grid = colours.reshape(cells, cells, 3)
    rows, columns = np.arange(height) * cells // height, np.arange(width) * cells // width
    return grid[rows[:, np.newaxis], columns]
