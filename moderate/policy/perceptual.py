"""Perceptual hashes of a list: which entry a picture looks like, and how much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

from moderate.types import PdqHash

DISTANCE = 31
"""Bits of 256 by which two versions of a picture differ at most, as the authors of PDQ advise."""

QUALITY = 50
"""Of 100; pictures below it have too little to go by, as the authors of PDQ advise."""

_Entry = TypeVar("_Entry")


class Perceptual(NamedTuple, Generic[_Entry]):
    """What a list has for a hash: up to which distance, from which quality on, and what it says."""

    distance: int
    quality: int
    entry: _Entry


class Match(NamedTuple):
    """The entry that a picture looks like: its hash (64 digits), how far it is and may be."""

    digits: str
    distance: int
    limit: int


class PerceptualList:
    """The hashes of a list, made ready. The nearest entry counts."""

    def __init__(self, entries: Mapping[str, Perceptual[_Entry]]) -> None:
        # Only here: NumPy would slow down every command that lists policies.
        from moderate.hamming import INDEXED_DISTANCE, HammingIndex

        self._digits: list[list[str]] = []
        self._limits: list[list[tuple[int, int]]] = []
        self._find: list[tuple[HammingIndex, int]] = []
        wide = [digits for digits, each in entries.items() if each.distance > INDEXED_DISTANCE]
        for names in ([digits for digits in entries if digits not in set(wide)], wide):
            if not names:
                continue
            index = HammingIndex()
            for digits in names:
                index.add(bytes.fromhex(digits))
            self._digits.append(names)
            self._limits.append([entries[digits][:2] for digits in names])
            self._find.append((index, max(entries[digits].distance for digits in names)))

    def match(self, hashed: PdqHash) -> Match | None:
        """The entry that this picture looks like; None for none."""
        best: Match | None = None
        for digits, limits, (index, most) in zip(
            self._digits, self._limits, self._find, strict=True
        ):
            numbers, distances = index.within(hashed.bits, most)
            for number, distance in zip(numbers.tolist(), distances.tolist(), strict=True):
                limit, quality = limits[number]
                if distance > limit or hashed.quality < quality:
                    continue
                if best is None or distance < best.distance:
                    best = Match(digits[number], distance, limit)
        return best
