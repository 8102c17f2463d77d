"""The URI of an image, by which other programs find it again."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import quote

from moderate.types import ErrorCode, ImageRef

_URI = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*):")
_NOT_FETCHED = frozenset({b"memory", b"data"})
_UNNAMED = frozenset({ErrorCode.BAD_INPUT, ErrorCode.BAD_URL, ErrorCode.PATH_TOO_LONG})
"""Errors of inputs that name nothing which could be opened."""

_IN_PATH = "/!$&'()*+,;=:@~"
_PLAIN = re.compile(rb"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*").fullmatch
"""Matches a path that is the same in a URI, and that has no part such as `..`."""
_PLAIN_CHARACTERS = bytes(c for c in range(128) if chr(c).isalnum() or chr(c) in "_.-/")
_ODD_PART = re.compile(rb"[/\n][./\n-]").search
"""Finds a part of paths in lines that is empty or begins in a way that `_PLAIN` does not match."""
_IN_FRAGMENT = _IN_PATH + "?"
IN_URI = _IN_FRAGMENT + "#[]%"
"""What stays as it is in a URI (RFC 3986), also what is percent-encoded already."""


def uri_of(ref: ImageRef, folder: bytes | None = None) -> str | None:
    """The absolute `file://` URI of a local file, or the URL or object URI as rows show it.

    All are percent-encoded from the exact bytes, so that the text is ASCII. What lies in another
    file has the URI of that file, and its own name as the fragment. A relative path starts at
    `folder`, by default the working directory. None where nothing can be opened by a URI: for an
    image in memory, the text of a `data:` URL, a line of a list that names no image.
    """
    if ref.error is not None and ref.error.code in _UNNAMED:
        return None
    outermost = ref
    while outermost.within is not None:
        outermost = outermost.within
    uri = _own_uri(outermost, folder)
    if uri is None or outermost is ref or ref.path == outermost.path:
        return uri
    inside = ref.path.removeprefix(outermost.path).removeprefix(b"!/")
    return f"{uri.partition('#')[0]}#{quote(inside, safe=_IN_FRAGMENT)}"


def _own_uri(ref: ImageRef, folder: bytes | None) -> str | None:
    scheme = _URI.match(ref.path)
    if ref.location is None:
        # A URL that is none has no location: it is an error, not a file of that name.
        return None if scheme is not None and ref.error is not None else file_uri(ref.path, folder)
    # The name of bytes in memory is no more than what the caller calls them.
    if scheme is None or scheme[1].lower() in _NOT_FETCHED:
        return None
    return quote(ref.path, safe=IN_URI)


def file_uri(path: bytes, folder: bytes | None = None) -> str | None:
    """The URI of a local file by the exact bytes of its path.

    None where the path is relative to a working directory that was removed.
    """
    if not path.startswith(b"/"):
        folder = folder or working_directory()
        if folder is None:
            return None
        path = path.removeprefix(b"./")
        if _PLAIN(path):  # most names are: the rest would take as long as all else for known rows
            return _quoted(folder) + path.decode("ascii")
        path = folder + b"/" + path
    elif _PLAIN(path[1:]):
        return "file://" + path.decode("ascii")
    if b"/../" in path or path.endswith(b"/.."):
        # Programs take `..` out of a URI as text, which is wrong behind a symbolic link.
        upper, last, rest = path.rpartition(b"/..")
        path = _without_links(upper + last) + rest
    return "file://" + quote(b"/" + os.path.normpath(path).lstrip(b"/"), safe=_IN_PATH)


def file_uris(paths: Sequence[bytes], folder: bytes | None = None) -> list[str | None]:
    """`file_uri` of each path."""
    folder = folder or working_directory()
    from_root = all(path.startswith(b"/") for path in paths)
    lines = b"\n".join([path[1:] if from_root else path.removeprefix(b"./") for path in paths])
    if (
        folder is None
        or lines.translate(None, _PLAIN_CHARACTERS) != b"\n" * (len(paths) - 1)
        or _ODD_PART(b"/" + lines + b"/")
    ):
        return [file_uri(path, folder) for path in paths]
    start = _quoted(b"/" if from_root else folder)
    return [start + line for line in lines.decode("ascii").split("\n")]


def working_directory() -> bytes | None:
    """None where it was removed."""
    try:
        return os.getcwdb()
    except OSError:
        return None


@lru_cache(maxsize=4)
def _quoted(folder: bytes) -> str:
    """The start of the URIs of files in a folder; the root folder has a slash already."""
    return "file://" + quote(folder.rstrip(b"/") + b"/", safe=_IN_PATH)


@lru_cache(maxsize=1024)
def _without_links(folder: bytes) -> bytes:
    return os.path.realpath(folder)
