"""The mark that reports carry in every format: that this tool wrote them, and the digest of them.

With it a command can tell its own earlier report, which it replaces, from one that somebody has
changed since, and from any other file.
"""

from __future__ import annotations

import hashlib
import re

_LABEL = "moderate report sha256:"
_BLANK = "0" * 64
_MARK = re.compile(_LABEL.encode() + rb"([0-9a-f]{64})")

MARK = _LABEL + _BLANK
"""What a renderer puts near the start of a text, before all that is of untrusted origin."""


def sign(text: str) -> bytes:
    """A text as UTF-8, with the digest of it in its mark, if it has one."""
    # Names of files may hold what UTF-8 has no bytes for.
    data = text.encode("utf-8", "backslashreplace")
    return _with_digest(data, hashlib.sha256(data).hexdigest()) if MARK in text else data


def is_marked(data: bytes) -> bool:
    """Whether a file has a mark, intact or not."""
    return _MARK.search(data) is not None


def is_unchanged(data: bytes) -> bool:
    """Whether a file is, to the byte, as `sign` returned it."""
    found = _MARK.search(data)
    blank = _with_digest(data, _BLANK)
    return found is not None and hashlib.sha256(blank).hexdigest().encode() == found[1]


def _with_digest(data: bytes, digest: str) -> bytes:
    return _MARK.sub((_LABEL + digest).encode(), data, count=1)
