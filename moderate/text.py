"""Makes untrusted names and messages safe to show and to store."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from datetime import UTC, datetime

# Controls (C0, DEL, C1), surrogates, line and paragraph separators, and bidirectional controls.
# The latter are category Cf, which also holds harmless joiners of emoji and Indic text.
_UNSHOWABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """`text` with every control, surrogate and direction-changing character as an escape."""
    if text.isascii() and text.isprintable():
        return text
    return _UNSHOWABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def for_terminal(text: str, kept: str = "\t\n") -> str:
    """Lines of text as a terminal may have them: as `printable`, but characters of `kept` stay.

    All escapes are of the form `\\uXXXX`, which in JSON stands for the same character as before.
    """
    return _UNSHOWABLE.sub(
        lambda found: found[0] if found[0] in kept else f"\\u{ord(found[0]):04x}", text
    )


def one_line(text: str, limit: int = 200) -> str:
    """`text` as one printable line of at most `limit` characters."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def shell_word(text: str) -> str:
    """`text` as one printable word of a command for bash, zsh and ksh, which is exactly it again.

    What cannot be shown stands as octal bytes in `$'...'`, the form that no digit after it changes.
    """
    if printable(text) == text:
        return shlex.quote(text)
    parts = (
        "".join(f"\\{byte:03o}" for byte in _exact(character))
        if character in "'\\" or _UNSHOWABLE.match(character)
        else character
        for character in text
    )
    return f"$'{''.join(parts)}'"


def _exact(character: str) -> bytes:
    """The bytes that stand for a character in a path, or in text that no path can be."""
    try:
        return os.fsencode(character)
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return character.encode("utf-8", "surrogatepass")


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


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The name among `known` that `name` is probably a misspelling of; None where none is near."""
    import difflib

    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def utc(moment: datetime) -> str:
    """ISO 8601 in UTC, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def timestamp(seconds: float) -> str:
    """HH:MM:SS.mmm"""
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}.{milliseconds % 1000:03}"
