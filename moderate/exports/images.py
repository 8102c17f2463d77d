"""What exports for other people's tools share: where an image is, and which can be opened."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from moderate.uris import IN_URI, file_uri

WITHOUT_FOLDER = (
    "their paths are relative, and without the column uri nothing says from which folder they "
    "start; scan again, which writes that column, or make the paths in the results absolute"
)
"""Why rows that `is_relative` cannot be opened, and what to do."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_FETCHED = re.compile("(https?|s3|gs|gcs)://", re.IGNORECASE)


def image_uri(row: Mapping[str, Any]) -> str | None:
    """The URI of an image that is a file or object by itself, else None.

    None for what is in memory or lies in another file, which no viewer could open. Rows of results
    that have no column `uri` are named by their path, if that is absolute or a URL.
    """
    uri = row.get("uri") or _of_path(row)
    return None if uri is None or "#" in uri else str(uri)


def is_relative(row: Mapping[str, Any]) -> bool:
    """Whether a row without a URI names a file by a relative path.

    The folder from which that starts is known to the scan alone.
    """
    path = str(row["path"])
    return not (row.get("uri") or path.startswith("/") or "!/" in path or _SCHEME.match(path))


def local_path(uri: str) -> bytes | None:
    """The exact bytes of a local file's path; None for other URIs."""
    return unquote_to_bytes(uri.removeprefix("file://")) if uri.startswith("file:///") else None


def _of_path(row: Mapping[str, Any]) -> str | None:
    path = str(row["path"])
    if "!/" in path:
        return None
    if path.startswith("/"):
        exact = row.get("path_bytes")
        return file_uri(os.fsencode(path) if exact is None else exact)
    return quote(path, safe=IN_URI) if _FETCHED.match(path) else None
