"""A command line as the ledger stores it: without header values, credentials and inline files."""

from __future__ import annotations

import re
from collections.abc import Sequence

from moderate.text import printable

MAX_CHARACTERS = 2_000
"""Longest argument kept; what is longer ends in `…`."""

_MOST_URLS = 20  # in one argument; what follows them is not kept
_HEADER_OPTION = "--url-header"
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
# Of what is not a URL but was meant as one: `http:/user:password@host`, `//user:password@host`.
_USER = re.compile(r"(/[^\s/@:]*:)[^\s/@]+@")
_TAIL = re.compile(r"(://[^\s#]*)[\s#].*", re.DOTALL)  # a fragment, or what follows a blank
_SCHEME_BEFORE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,40}\Z")
_DATA = re.compile(r"(?<![A-Za-z0-9+.-])data:", re.IGNORECASE)


def mask_command(arguments: Sequence[str]) -> tuple[str, ...]:
    """`arguments` made safe to store and show: header values as `***`, everything else masked.

    What follows `--url-header` counts as its value, wherever that is: hiding a file name is better
    than showing a token.
    """
    masked = []
    header_expected = False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if header_expected:
            masked.append(_masked_header(argument))
        elif name == _HEADER_OPTION and equals:
            masked.append(f"{_HEADER_OPTION}={_masked_header(value)}")
        else:
            masked.append(mask_argument(argument))
        header_expected = argument == _HEADER_OPTION
    return tuple(masked)


def mask_argument(argument: str) -> str:
    """One argument, printable, its URLs as rows would show them, of at most MAX_CHARACTERS."""
    text = _USER.sub(r"\1***@", _masked_urls(_without_tails(printable(argument))))
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"


def _without_tails(text: str) -> str:
    return _TAIL.sub(r"\1 …", text)


def _masked_header(line: str) -> str:
    name, colon, _ = line.partition(":")
    known = colon and _HEADER_NAME.fullmatch(name.strip())
    return f"{name.strip()}: ***" if known else "***"


def _masked_urls(text: str) -> str:
    """Every URL in `text` masked; also one in the query, or behind the comma, of another."""
    from moderate.fetch.naming import shown

    done = ""
    for _ in range(_MOST_URLS):
        start = _first_url(text)
        if start is None:
            return done + text
        # First as a whole: a password may hold what looks like the next URL.
        url = shown(text[start:].encode()).decode()
        scheme, colon, rest = url.partition(":")
        done += text[:start] + scheme + colon
        text = rest.removeprefix("//")
        done += rest[: len(rest) - len(text)]
    return done + "…"


def _first_url(text: str) -> int | None:
    """Where the first URL of `text` starts."""
    starts = [match.start()] if (match := _DATA.search(text)) else []
    mark = text.find("://")
    while mark >= 0 and (not starts or mark < starts[0]):
        scheme = _SCHEME_BEFORE.search(text, max(0, mark - 41), mark)
        if scheme:
            starts.append(scheme.start())
            break
        mark = text.find("://", mark + 3)
    return min(starts, default=None)
