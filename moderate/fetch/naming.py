"""How rows and messages name an image: a path as it is, a URL without its secrets."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re

from moderate.fetch.local import FetchError
from moderate.text import path_text, printable

_URI = re.compile(rb"(data):|([A-Za-z][A-Za-z0-9+.-]*)://", re.IGNORECASE)
_SHOWN_DATA = re.compile(
    rb"data:([A-Za-z0-9.+-]{1,40}/[A-Za-z0-9.+-]{1,80})?,sha256=[0-9a-f]{64}", re.IGNORECASE
)
_DATA_TYPE = re.compile(rb"data:[A-Za-z0-9.+-]{1,40}/[A-Za-z0-9.+-]{1,80}", re.IGNORECASE)

_MOST_URLS = 20  # in one text; what follows them is not kept
# Of what is not a URL but was meant as one: `http:/user:password@host`, `//user:password@host`.
_USER = re.compile(r"(/[^\s/@:]*:)[^\s/@]+@")
_TAIL = re.compile(r"(://[^\s#]*+)[\s#].*", re.DOTALL)  # a fragment, or what follows a blank
_SCHEME_BEFORE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,40}\Z")
_DATA = re.compile(r"(?<![A-Za-z0-9+.-])data:", re.IGNORECASE)


def is_uri(value: bytes) -> bool:
    """Whether a value is a URL or an object's URI rather than a path."""
    return scheme_of(value.strip()) is not None


def shown(value: bytes) -> bytes:
    """How rows call a path or URL: without credentials, a `data:` URL by type and digest alone."""
    trimmed = value.strip()
    scheme = scheme_of(trimmed)
    if scheme is None:
        return value
    if scheme == "data":
        if _SHOWN_DATA.fullmatch(trimmed):
            return trimmed  # as a row has it
        kind = _DATA_TYPE.match(trimmed)
        digest = hashlib.sha256(trimmed).hexdigest()
        return (kind.group() if kind else b"data:") + b",sha256=" + digest.encode()
    from moderate.fetch.store import STORE_SCHEMES, parse_store_uri
    from moderate.fetch.url import mask_secrets

    text = trimmed.decode("utf-8", "surrogateescape")
    with contextlib.suppress(FetchError):
        if scheme in STORE_SCHEMES:
            text = parse_store_uri(text).shown
    return mask_secrets(text).encode("utf-8", "surrogateescape")


def scheme_of(value: bytes) -> str | None:
    """The scheme of a URI in lower case; None for a path."""
    match = _URI.match(value)
    return (match[1] or match[2]).decode().lower() if match else None


def shown_text(name: str) -> str:
    """A path or URL as somebody writes it, as the text that rows have for it."""
    return path_text(shown(os.fsencode(name)))


def mask_text(text: str) -> str:
    """Any text, printable, with every URL in it as rows would show it.

    Cut is what follows a URL's blank or fragment, where it may still belong to a password.
    """
    return _USER.sub(r"\1***@", _masked_urls(_without_tails(printable(text))))


def _without_tails(text: str) -> str:
    # Where the first URL has no tail, no other has one, as it would end both. To look at them all
    # would take time that grows with the square of the text, which may be anybody's.
    first = text.find("://")
    match = _TAIL.match(text, first) if first >= 0 else None
    return text[:first] + _without_tail(match) if match else text


def _without_tail(match: re.Match[str]) -> str:
    """The start of a URL that has a blank or fragment; `***` where that may be in a password."""
    start, tail = match[1], match[0][len(match[1]) :]
    authority = re.split(r"[/?]", start.removeprefix("://"), maxsplit=1)[0]
    _, colon, password = authority.partition(":")
    is_whole = len(authority) + len("://") < len(start)
    if colon and "@" in tail and "@" not in start and not (is_whole and password.isdecimal()):
        return "://*** …"
    return f"{start} …"


def _masked_urls(text: str) -> str:
    """Every URL in `text` masked; also one in the query, or behind the comma, of another."""
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
