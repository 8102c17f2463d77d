"""How rows and messages name an image: a path as it is, a URL without its secrets."""

from __future__ import annotations

import contextlib
import hashlib
import re

from moderate.fetch.local import FetchError

_URI = re.compile(rb"(data):|([A-Za-z][A-Za-z0-9+.-]*)://", re.IGNORECASE)
_DATA_TYPE = re.compile(rb"data:[A-Za-z0-9.+-]{1,40}/[A-Za-z0-9.+-]{1,80}", re.IGNORECASE)


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
