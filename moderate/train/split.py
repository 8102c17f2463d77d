"""Which images are held out, and the folds of the others: by their bytes and a seed alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def hold_out(
    digests: Sequence[str], strata: NDArray[np.int64], share: float, seed: int
) -> NDArray[np.bool_]:
    """Which of n images are held out: `share` of them, and of each stratum but for rounding.

    Sorted by stratum and then by chance, they are taken at equal distances, so that also strata of
    a few images have their share of all. What is chosen depends on contents and seed, not on the
    order or the names of files.
    """
    order = np.lexsort((_drawn(digests, f"holdout {seed}"), strata))
    taken = np.floor(np.arange(1, len(order) + 1) * share) > np.floor(np.arange(len(order)) * share)
    chosen = np.zeros(len(order), np.bool_)
    chosen[order] = taken
    return chosen


def folds(
    digests: Sequence[str], truth: NDArray[np.bool_], count: int, seed: int
) -> NDArray[np.int64]:
    """The fold, 0 to count - 1, of each of n images; each has its part of the positives."""
    order = np.lexsort((_drawn(digests, f"folds {seed}"), truth))
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.arange(len(order)) % count
    return numbers


def _drawn(digests: Sequence[str], purpose: str) -> NDArray[np.uint64]:
    hashed = [hashlib.sha256(f"{purpose} {digest}".encode()).digest()[:8] for digest in digests]
    return np.frombuffer(b"".join(hashed), ">u8").astype(np.uint64)
