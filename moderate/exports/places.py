"""Where images are, as CI systems name files: from the root of the repository."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, quote_from_bytes, unquote_to_bytes

from moderate.text import path_text

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|data:")
_KEPT_IN_URI = "%/:=&?~#+!$,;@()*[]'"  # what a URI may hold as it is


@dataclass(frozen=True, slots=True)
class Place:
    """Where an image is.

    name is its path as text, from the root where it lies below it, else absolute; or its URL. Bytes
    that are not UTF-8 are `\\xNN` in it. uri is the same as a URI reference, with the exact bytes
    percent-encoded. is_below says whether both are relative to the root.
    """

    name: str
    uri: str
    is_below: bool


@dataclass(frozen=True, slots=True)
class Root:
    """The root of a repository, and the current directory, from which paths of rows start."""

    root: bytes
    cwd: bytes

    @classmethod
    def here(cls) -> Root:
        """That of the repository that the current directory is in; itself where it is in none."""
        try:
            cwd = os.getcwdb()
        except OSError:  # it was removed
            return cls(b"/", b"/")
        folder = cwd
        while not os.path.lexists(os.path.join(folder, b".git")):
            parent = os.path.dirname(folder)
            if parent == folder:
                return cls(cwd, cwd)
            folder = parent
        return cls(folder, cwd)

    def place(self, row: Mapping[str, Any]) -> Place:
        """Where the image of a row is."""
        shown = str(row["path"])
        if _URI.match(shown):
            return Place(shown, quote(shown, safe=_KEPT_IN_URI, errors="backslashreplace"), False)
        exact = row.get("path_bytes")
        return self.place_of(exact or shown.encode("utf-8", "backslashreplace"))

    def place_of(self, path: bytes) -> Place:
        """Where a local file is; a relative path starts at the current directory."""
        whole = b"/" + os.path.normpath(os.path.join(self.cwd, path)).lstrip(b"/")
        root = self.root.rstrip(b"/") + b"/"
        if whole.startswith(root) and whole != root:
            below = whole[len(root) :]
            return Place(path_text(below), quote_from_bytes(below), True)
        return Place(path_text(whole), "file://" + quote_from_bytes(whole), False)

    def name_of_uri(self, uri: str) -> str:
        """The name of the place that a URI reference of a report stands for."""
        if uri.startswith("file://"):
            return self.place_of(unquote_to_bytes(uri[len("file://") :])).name
        return uri if _URI.match(uri) else path_text(unquote_to_bytes(uri))
