"""Which rows an override is for: a glob on their path, or the value of a carried column."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moderate.fetch.naming import shown_text
from moderate.globs import ANY_FOLDERS, GlobPattern, GlobState
from moderate.types import LABEL_PREFIX

_COLUMN = re.compile(r"(\S.*?)\s+(!?=)(?:\s+(\S.*?))?\s*", re.DOTALL)
_WILD = re.compile(rb"[*?\[]")


@dataclass(frozen=True, slots=True)
class PathCondition:
    """A glob by the rules of --include, on the whole path or on what is below any folder of it.

    Without a slash it is held against the name. One that starts with `/`, `./` or `SCHEME://` is
    held against the whole path from its start; URLs count without query. What holds for an archive
    or a video holds for its members and frames.
    """

    glob: GlobPattern
    start: bytes | None
    literal: bytes

    def holds(self, path: bytes, columns: Mapping[str, Any]) -> bool:
        """Whether the row of this display path is meant."""
        if self.literal not in path:
            return False
        if self.start is not None and _start(path) != self.start:
            return False
        if not path.startswith((b"/", b"./")) and b"://" in path:
            path = re.split(rb"[?#]", path, maxsplit=1)[0]
        *above, last = path.split(b"/")
        state = self.glob.start()
        for part in above:
            # `dump.zip` of `dump.zip!/a.jpg`, and whatever else the path is in.
            if part.endswith(b"!") and self.glob.accepts(self._after(state, part[:-1])):
                return True
            state = self._after(state, part)
        return self.glob.accepts(self._after(state, last))

    def _after(self, state: GlobState, part: bytes) -> GlobState:
        return state if part in (b"", b".") else self.glob.step(state, part)


@dataclass(frozen=True, slots=True)
class ColumnCondition:
    """`column = text` or `column != text`. Null, and no such column, are as empty text."""

    column: str
    value: str
    equal: bool
    shown: str  # the value as rows have it: a URL without its secrets

    def holds(self, path: bytes, columns: Mapping[str, Any]) -> bool:
        """Whether the row that carries these values is meant."""
        return (column_text(columns.get(self.column)) in (self.value, self.shown)) == self.equal


Condition = PathCondition | ColumnCondition


def parse_when(text: str) -> Condition:
    """What the text of an override's `when` means. Raises ValueError, saying what to write."""
    if found := _COLUMN.fullmatch(text):
        column, sign, value = found[1], found[2], found[3] or ""
        if column.startswith(LABEL_PREFIX):
            raise ValueError(f"{column} is a column of the results: thresholds of labels go under "
                             "[labels]")  # fmt: skip
        if column in _own_columns():
            raise ValueError(f"{column} is a column of the results, none that an input carries")
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            raise ValueError(f"write the value without quotes: {column} {sign} {value[1:-1]}")
        return ColumnCondition(column, value, sign == "=", shown_text(value))
    if "/" not in text and "=" in text.replace("[=]", ""):
        raise ValueError(
            f"{text!r} is neither a condition on a column, which has spaces around its sign "
            "('column = value', 'column != value'), nor a glob ('[=]' stands for '=' in a name)"
        )
    pattern = os.fsencode(text)
    if pattern.endswith(b"/"):
        raise ValueError(f"a folder's files are {text + '**'!r}")
    start = _start(pattern)
    segments = [part for part in pattern.split(b"/") if part not in (b"", b".")]
    if not segments:
        raise ValueError("an empty glob matches nothing; '**' matches everything")
    literal = max((part for part in segments if not _WILD.search(part)), key=len, default=b"")
    if start is None:
        segments.insert(0, ANY_FOLDERS)
    once = [part for part, last in zip(segments, [b"", *segments], strict=False)
            if not part == last == ANY_FOLDERS]  # fmt: skip
    return PathCondition(GlobPattern(tuple(once)), start, literal)


def _own_columns() -> set[str]:
    from moderate.results.schema import COLUMNS

    return {column.name for column in COLUMNS}


def _start(path: bytes) -> bytes | None:
    """How a path that is given from its start begins: `/`, `./`, `SCHEME:`; None for others."""
    if path.startswith((b"/", b"./")):
        return path[: path.index(b"/") + 1]
    scheme, colon, _ = path.partition(b"://")
    return scheme + b":" if colon else None


def column_text(value: Any) -> str:
    """A carried value as results in CSV have it, so that all formats decide alike."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    from moderate.results.cells import plain, plain_text

    return plain_text(plain(value))
