"""Names and messages of strangers, made safe to show and to store."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

# Bidirectional controls are category Cf, which also holds harmless joiners of emoji and Indic text.
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_UNSHOWABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})


def printable(text: str) -> str:
    """`text` with every control, surrogate and direction-changing character as an escape."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char.encode("unicode_escape").decode("ascii")
        if char in _BIDI or unicodedata.category(char) in _UNSHOWABLE
        else char
        for char in text
    )


def one_line(text: str, limit: int = 200) -> str:
    """`text` as one printable line of at most `limit` characters."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def path_text(path: bytes) -> str:
    """A path as text: UTF-8 as it is, other bytes as `\\xNN`."""
    return path.decode("utf-8", "backslashreplace")


def first_repeated(names: Iterable[str]) -> str | None:
    """The first of `names` that was there before; None where each is there once."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
