"""Formats that are read only where the user asks for them, by `--formats`."""

from __future__ import annotations

from collections.abc import Iterable

from moderate.decode.sniff import OPTIONAL, SUPPORTED
from moderate.errors import UsageError


def parse_formats(texts: Iterable[str]) -> tuple[str, ...]:
    """The formats that `--formats` adds, in the order of their names. Raises UsageError.

    A text is `+tiff`, or several such with commas between them. There is no way to leave a format
    out that is always read: that would only turn scores into errors, and a policy can tell by the
    column `format`.
    """
    names = {name.strip() for text in texts for name in text.split(",")} - {""}
    for name in sorted(names):
        bare = name.lstrip("+-").lower()
        if name.startswith("-"):
            raise UsageError(f"--formats {name}: formats can only be added, as in +tiff")
        if not name.startswith("+") and bare in OPTIONAL:
            raise UsageError(f"--formats {name}: write +{bare}; it is read beside the others")
        if bare in SUPPORTED:
            raise UsageError(f"--formats {name}: {bare} is always read")
    return check_formats(name.lower() if name.startswith("+") else name for name in names)


def check_formats(names: Iterable[str]) -> tuple[str, ...]:
    """Names of formats that can be added, sorted, each with a `+` before it or without.

    Raises UsageError for any other.
    """
    names = sorted({name.removeprefix("+") for name in names})
    for name in names:
        if name not in OPTIONAL:
            there = ", ".join(f"+{each}" for each in sorted(OPTIONAL))
            raise UsageError(f"--formats {name!r} is not known; there is {there}")
    return tuple(names)
