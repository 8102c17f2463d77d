"""Keeps the most severe of many findings, for forms whose readers take a limited number."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from moderate.exports.findings import Finding
from moderate.types import Decision

T = TypeVar("T")


@dataclass(slots=True)
class MostSevere(Generic[T]):
    """At most `most` items of at most `most_bytes` in all: those that matter most.

    New findings come before those that the baseline has, then the worse decision, then the higher
    score, then the earlier row. left_out counts the others by decision.
    """

    most: int
    most_bytes: int
    left_out: Counter[str] = field(default_factory=Counter)
    _heap: list[tuple[tuple[bool, int, float], int, str, int, T]] = field(default_factory=list)
    _bytes: int = 0
    _seen: int = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, finding: Finding, item: T, size: int, *, known: bool = False) -> None:
        """Take what stands for a finding, of this size; `known` to the baseline."""
        key = (not known, finding.decision.severity, finding.score or 0.0)
        # Of two alike, the later one goes first.
        heapq.heappush(self._heap, (key, -self._seen, finding.decision.value, size, item))
        self._seen += 1
        self._bytes += size
        while len(self._heap) > self.most or (self._bytes > self.most_bytes and len(self) > 1):
            self.drop(1)

    def drop(self, count: int) -> None:
        """Leave out the least severe ones, though never the last of all."""
        for _ in range(min(count, len(self._heap) - 1)):
            _, _, decision, size, _ = heapq.heappop(self._heap)
            self._bytes -= size
            self.left_out[decision] += 1

    def in_order(self) -> list[T]:
        """What is kept, in the order of the rows."""
        return [entry[4] for entry in sorted(self._heap, key=lambda entry: -entry[1])]

    def worst_first(self) -> list[T]:
        """What is kept, the most severe first."""
        return [entry[4] for entry in sorted(self._heap, key=lambda entry: entry[:2], reverse=True)]

    def left_out_text(self) -> str:
        """How many were left out, by decision; empty where none was."""
        order = [each.value for each in reversed(Decision)]
        return ", ".join(f"{self.left_out[name]:,} {name}" for name in order if self.left_out[name])
