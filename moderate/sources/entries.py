"""What one line of a list or one value of a manifest names: a local file, a URL, an object."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import replace
from typing import Any

from moderate.fetch.local import FetchError
from moderate.fetch.naming import mask_text, scheme_of, shown
from moderate.sources.not_found import path_of_file_url
from moderate.text import one_line, path_text
from moderate.types import (
    ErrorCode,
    ImageError,
    ImageRef,
    Inline,
    Listing,
    StoredObject,
    Url,
)

MAX_ENTRY_BYTES = 1 << 16
"""Longest URL taken, and longest path that rows show as it is; `data:` URLs may be longer."""

MAX_PATH_BYTES = 4095
"""Longest path that the system opens: Linux's PATH_MAX without the NUL at its end."""

_ABRIDGED_BYTES = 200
_EXCERPT_CHARACTERS = 160
_JOINED_URLS = re.compile(r"[,;|\s] ?(https?|s3|gs)://", re.IGNORECASE)


def longest_line(start: bytes, max_file_bytes: int) -> int:
    """Most bytes of a list's line; a `data:` URL needs up to three bytes per byte of the file."""
    is_data = start.lstrip()[:5].lower() == b"data:"
    return MAX_ENTRY_BYTES + (3 * max_file_bytes if is_data else 0)


def entry_ref(
    value: bytes,
    *,
    listing: Listing | None = None,
    max_file_bytes: int,
    carried: tuple[Any, ...] = (),
    exact: bool = False,
    by_operator: bool = False,
) -> ImageRef:
    """The image that `value` names; a relative path is one below the base of `listing`.

    White space around a URL is dropped unless `exact`; a path is taken as it is, and one that is
    longer than MAX_PATH_BYTES comes with its error. `file://` is refused, as everything that comes
    with a scheme and is neither fetched nor stored. Unless it was written `by_operator`, a store's
    URI may not say where the store is: the machine's credentials would go there.

    Raises FetchError with `bad_input`, `bad_url`, or `path_too_long` (a path over MAX_ENTRY_BYTES),
    or with what is wrong with the bytes of a `data:` URL.
    """
    trimmed = value if exact else value.strip()
    scheme = scheme_of(trimmed)
    if not value or (not trimmed and not exact):
        raise _bad_input("it is empty")
    if len(value) > MAX_ENTRY_BYTES and scheme not in (None, "data"):
        raise _bad_input(f"longer than {MAX_ENTRY_BYTES} bytes")
    if b"\0" in value:
        raise _bad_input("it holds a NUL byte")
    if scheme is None:
        path = os.path.join(listing.base, value) if listing else value
        if not by_operator and b"://" in value and not os.path.lexists(path):
            # As a path it would be shown unmasked, with any credentials in it.
            raise _bad_input("it looks like a URL with something around it; write the URL alone")
        if len(path) > MAX_ENTRY_BYTES:
            raise FetchError(path_too_long(len(path)))
        if len(path) > MAX_PATH_BYTES:
            return ImageRef(path, error=path_too_long(len(path)), carried=carried)
        return ImageRef(path, carried=carried, listing=listing)
    try:
        text = trimmed.decode()
    except UnicodeDecodeError:
        raise _bad_url("a URL that is not UTF-8; percent-encode it") from None
    return replace(_remote(scheme, text, max_file_bytes, by_operator), carried=carried)


def joined_urls(text: str) -> str:
    """A hint where the text seems to be several URLs in one; else empty."""
    if _JOINED_URLS.search(text):
        return "it looks like several URLs; give each a line of its own"
    return ""


def bad_ref(
    path: bytes,
    place: str,
    error: ImageError,
    carried: tuple[Any, ...] = (),
    text: bytes = b"",
    within: ImageRef | None = None,
) -> ImageRef:
    """The row of a line or value that does not name an image.

    Its message starts with `place` and ends with the text itself, bounded and without secrets, so
    that whoever wrote the text finds it again.
    """
    message = one_line(f"{place}: {error.message}", 400)
    if text:
        message += f"; it reads: {_excerpt(text)}"
    found = ImageError(error.code, message)
    # With a location, as there is no file of that name.
    return ImageRef(path, error=found, location=Inline(b""), carried=carried, within=within)


def bad_line(
    name: str, number: int, error: ImageError, carried: tuple[Any, ...] = (), text: bytes = b""
) -> ImageRef:
    """The row of a bad line: its path is the file's name and the line's number; see `bad_ref`."""
    place = f"line {number} of {name}"
    return bad_ref(os.fsencode(f"{name}:{number}"), place, error, carried, text)


def _excerpt(text: bytes) -> str:
    """The start of a text on one line, as messages may show it."""
    if scheme_of(text.strip()) == "data":
        masked = path_text(shown(text))
    elif len(text) >= MAX_ENTRY_BYTES:
        # A URL that was cut may have lost the sign that its password is known by.
        masked = path_text(text[:_ABRIDGED_BYTES].partition(b"://")[0]) + "…"
    else:
        masked = mask_text(path_text(text))
    return one_line(masked, _EXCERPT_CHARACTERS)


def path_too_long(size: int) -> ImageError:
    """`path_too_long` for a name of `size` bytes, wherever it came from."""
    message = f"the name has {size} bytes; the system opens at most {MAX_PATH_BYTES}"
    return ImageError(ErrorCode.PATH_TOO_LONG, message)


def abridged(name: bytes) -> bytes:
    """How rows show a name that is too long: its start, and the digest of all of it."""
    digest = hashlib.sha256(name).hexdigest()
    return name[:_ABRIDGED_BYTES] + "…,sha256=".encode() + digest.encode()


def no_image(message: str) -> ImageError:
    """`bad_input` with its message."""
    return ImageError(ErrorCode.BAD_INPUT, message)


def empty_file() -> ImageError:
    """`empty_file` for bytes that came with the input."""
    return ImageError(ErrorCode.EMPTY_FILE, "there are no bytes")


def _remote(scheme: str, text: str, max_file_bytes: int, by_operator: bool) -> ImageRef:
    from moderate.fetch.store import STORE_SCHEMES, parse_store_uri
    from moderate.fetch.url import parse_url, read_data_url

    if scheme in STORE_SCHEMES:
        uri = parse_store_uri(text)
        if not by_operator:
            _check_store(uri.scheme, [name for name, _ in uri.options])
        return ImageRef(shown(text.encode()), location=StoredObject(uri.text))
    if scheme in ("http", "https"):
        parsed = parse_url(text)
        if isinstance(parsed, ImageError):
            hint = joined_urls(text)
            raise FetchError(replace(parsed, message=hint) if hint else parsed)
        return ImageRef(shown(text.encode()), location=Url(text))
    if scheme == "data":
        data = read_data_url(text, max_file_bytes)
        return ImageRef(shown(text.encode()), location=Inline(data))
    if scheme == "file":
        path = path_of_file_url(text.encode())
        shown_path = one_line(path_text(path))
        raise _bad_url(
            "file:// URLs are not followed; this one names another machine"
            if path == text.encode()
            else f"file:// URLs are not followed; give the path itself, {shown_path}"
        )
    raise _bad_url(
        f"{one_line(scheme, 40)}:// cannot be fetched; give a path, or a URL of http, https, "
        "data, or of an object store (s3, gs)"
    )


def _check_store(scheme: str, options: list[str]) -> None:
    """Raises FetchError for a list's URI that leads anywhere but to S3 or Google's store."""
    if scheme not in ("s3", "gs"):
        raise _bad_url(f"{scheme}:// is taken from the command line only, not from a list")
    if named := [name for name in options if name in ("endpoint_override", "scheme")]:
        raise _bad_url(
            f"a list may not set {' and '.join(named)}; set AWS_ENDPOINT_URL, or name the store "
            "on the command line"
        )


def _bad_input(message: str) -> FetchError:
    return FetchError(no_image(message))


def _bad_url(message: str) -> FetchError:
    return FetchError(ImageError(ErrorCode.BAD_URL, message))
