"""Hashes of 256 bits by Hamming distance: all, or the first, within so many bits of another.

Multi-index hashing (Norouzi, Punjani and Fleet, 2012): a hash is 16 blocks of 16 bits. Of two that
differ in at most 31 bits, at least one block differs in at most one bit, by the pigeonhole
principle. So it is enough to compare a hash with those that share one of 16 x 17 such blocks, a few
thousand of a million.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

HASH_BYTES = 32
BITS = 8 * HASH_BYTES

INDEXED_DISTANCE = 31
"""Bits; the largest distance that the blocks answer for. Beyond, every hash is compared."""

_BLOCKS = 16
_VALUES = 1 << 16  # of a block
_WORDS = 4  # of 64 bits in a hash
_FLIPS = np.array([0, *(1 << bit for bit in range(16))], np.uint16)
_UNSORTED = 4096  # hashes at the end that are compared one by one; more where there are many
_UNSORTED_SHARE = 64
_FIRST_LOOK, _LONGEST_LOOK = 64, 4096  # hashes of each block that are compared at once

Words = NDArray[np.uint64]
Indices = NDArray[np.int64]

_ONES = np.array([value.bit_count() for value in range(_VALUES)], np.uint8)


class HammingIndex:
    """Hashes in the order in which they were added, numbered from 0.

    It takes some 100 bytes per hash.
    """

    def __init__(self) -> None:
        self._words: Words = np.empty((_UNSORTED, _WORDS), np.uint64)
        self._count = 0
        self._sorted = 0  # how many of the first ones the blocks know
        # For each value of each block, the numbers of the hashes that have it, in ascending order,
        # and where they start.
        self._order: NDArray[np.int32] = np.empty(0, np.int32)
        self._starts: NDArray[np.int64] = np.zeros(_BLOCKS * _VALUES + 1, np.int64)

    def __len__(self) -> int:
        return self._count

    def add(self, bits: bytes) -> int:
        """Add a hash of 32 bytes. Returns its number."""
        if self._count == len(self._words):
            grown = np.empty((len(self._words) * 5 // 4 + _UNSORTED, _WORDS), np.uint64)
            grown[: self._count] = self._words
            self._words = grown
        self._words[self._count] = np.frombuffer(bits, np.uint64)
        self._count += 1
        if self._count - self._sorted >= max(_UNSORTED, self._sorted // _UNSORTED_SHARE):
            self._sort()
        return self._count - 1

    def first(self, bits: bytes, distance: int = INDEXED_DISTANCE) -> int | None:
        """The first hash that is at most so far (at most 31 bits) from this one; None for none."""
        query = np.frombuffer(bits, np.uint64)
        best = self._count
        starts, ends = self._ranges(query)
        look = _FIRST_LOOK
        while len(starts):
            numbers = self._numbers(starts, np.minimum(ends, starts + look))
            near = numbers[_distances(self._words[numbers], query) <= distance]
            if len(near):
                best = min(best, int(near.min()))
            # What is left of a block is in order: it ends at the best one so far.
            starts = starts + look
            left = starts < ends
            starts, ends = starts[left], ends[left]
            left = self._order[starts] < best
            starts, ends = starts[left], ends[left]
            look = min(4 * look, _LONGEST_LOOK)
        if best == self._count:
            rest = _distances(self._words[self._sorted : self._count], query) <= distance
            if rest.any():
                best = self._sorted + int(rest.argmax())
        return best if best < self._count else None

    def within(self, bits: bytes, distance: int) -> tuple[Indices, NDArray[np.int64]]:
        """The numbers, ascending, of all hashes at most so far from this one, and how far."""
        query = np.frombuffer(bits, np.uint64)
        if distance > INDEXED_DISTANCE or self._count < _UNSORTED:
            numbers = np.arange(self._count)
        else:
            there = self._numbers(*self._ranges(query))
            numbers = np.unique(np.concatenate([there, np.arange(self._sorted, self._count)]))
        distances = _distances(self._words[numbers], query)
        near = distances <= distance
        return numbers[near], distances[near]

    def _ranges(self, query: Words) -> tuple[Indices, Indices]:
        """Where in the order those stand that share a block but for one bit; none is empty."""
        if not self._sorted:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        values = (query.view(np.uint16)[:, np.newaxis] ^ _FLIPS).astype(np.int64)
        values += _VALUES * np.arange(_BLOCKS)[:, np.newaxis]
        flat = values.ravel()
        starts, ends = self._starts[flat], self._starts[flat + 1]
        some = starts < ends
        return starts[some], ends[some]

    def _numbers(self, starts: Indices, ends: Indices) -> Indices:
        lengths = ends - starts
        offsets = np.cumsum(lengths) - lengths
        places = np.arange(int(lengths.sum())) + np.repeat(starts - offsets, lengths)
        numbers: Indices = self._order[places].astype(np.int64)
        return numbers

    def _sort(self) -> None:
        """Have the blocks know all hashes."""
        count = self._sorted = self._count
        blocks = self._words[:count].view(np.uint16)
        order = np.empty(_BLOCKS * count, np.int32)
        counts = np.empty(_BLOCKS * _VALUES, np.int64)
        for block in range(_BLOCKS):
            values = np.ascontiguousarray(blocks[:, block])
            order[block * count : (block + 1) * count] = np.argsort(values, kind="stable")
            here = slice(block * _VALUES, (block + 1) * _VALUES)
            counts[here] = np.bincount(values, minlength=_VALUES)
        self._order = order
        np.cumsum(counts, out=self._starts[1:])


def _distances(words: Words, query: Words) -> NDArray[np.int64]:
    """How many bits of each hash (n, 4) differ from those of the query (4)."""
    differing: Any = words ^ query
    if hasattr(np, "bitwise_count"):  # from numpy 2 on
        ones = np.bitwise_count(differing)
    else:
        ones = _ONES[differing.view(np.uint16)]
    distances: NDArray[np.int64] = ones.sum(axis=1, dtype=np.int64)
    return distances
