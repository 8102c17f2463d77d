"""Shell globs on paths, matched segment by segment without ever going back.

A pattern is a small state machine: its state is the set of segments that may come next. Each part
of a path is held once against each segment of the pattern, so that time grows with the product of
their numbers however many `**` a pattern has.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

ANY_FOLDERS = b"**"
"""The segment that stands for any number of folders, also for none."""

GlobState = int
"""Bit N is set where the first N segments of a pattern have matched; 0 where nothing can match."""


@dataclass(frozen=True, slots=True)
class GlobPattern:
    """A shell pattern by its segments; `**` stands for any number of folders."""

    segments: tuple[bytes, ...]

    def matches(self, relative: bytes) -> bool:
        """Whether the whole of a path matches."""
        return self.accepts(self._after(relative.split(b"/")))

    def may_hold(self, relative: bytes) -> bool:
        """Whether something below this folder could match."""
        return self._after(relative.split(b"/")) != 0

    @property
    def asks_for_hidden(self) -> bool:
        """Whether its last part names a dot."""
        return self.segments[-1].startswith(b".")

    def start(self) -> GlobState:
        """The state before the first part of a path."""
        return self._without_folders(1)

    def step(self, state: GlobState, part: bytes) -> GlobState:
        """The state after one more part of the path."""
        following = 0
        for index, segment in enumerate(self.segments):
            if not state >> index & 1:
                continue
            if segment == ANY_FOLDERS:
                following |= 1 << index
            elif fnmatchcase(part, segment):
                following |= 1 << index + 1
        return self._without_folders(following)

    def accepts(self, state: GlobState) -> bool:
        """Whether the parts so far match as a whole."""
        return bool(state >> len(self.segments) & 1)

    def _after(self, parts: Sequence[bytes]) -> GlobState:
        state = self.start()
        for part in parts:
            if not state:
                break
            state = self.step(state, part)
        return state

    def _without_folders(self, state: GlobState) -> GlobState:
        """Adds the segments that come next where a `**` stands for no folder at all."""
        for index, segment in enumerate(self.segments):
            if segment == ANY_FOLDERS and state >> index & 1:
                state |= 1 << index + 1
        return state


def matches_any(parts: Sequence[bytes], patterns: Sequence[str]) -> bool:
    """Whether a pattern matches the last of `parts`, or, where it holds a slash, all of them."""
    path = b"/".join(parts)
    for pattern in map(_parsed, patterns):
        if len(pattern.segments) == 1:
            if parts and fnmatchcase(parts[-1], pattern.segments[0]):
                return True
        elif pattern.matches(path):
            return True
    return False


def matches_any_or_above(parts: Sequence[bytes], patterns: Sequence[str]) -> bool:
    """Whether `matches_any` holds for a path or for any of the folders above it, in one pass."""
    for pattern in map(_parsed, patterns):
        if len(pattern.segments) == 1:
            if any(fnmatchcase(part, pattern.segments[0]) for part in parts):
                return True
            continue
        state = pattern.start()
        for part in parts:
            state = pattern.step(state, part)
            if pattern.accepts(state):
                return True
            if not state:
                break
    return False


@lru_cache(maxsize=1024)
def _parsed(pattern: str) -> GlobPattern:
    segments = tuple(part for part in os.fsencode(pattern).split(b"/") if part)
    return GlobPattern(segments or (b"",))
