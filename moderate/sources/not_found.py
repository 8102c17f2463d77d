"""Why a path may not be there: the usual mistakes in lists, each checked by looking for the file.

Files are looked for with lstat alone: nothing is opened, and no link is followed at a path's end.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterator
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from moderate.text import one_line, path_text
from moderate.types import Listing

MAX_LOOKS = 16
"""Most calls of lstat for a path: each may be a round trip to a file server."""

_DRIVE = re.compile(rb"[A-Za-z]:[\\/]")
_FILE_URL = re.compile(rb"file:(?://(?:localhost)?(?=/))?(?=/)", re.IGNORECASE)
_ESCAPED = re.compile(rb"\\([^A-Za-z0-9])")
_REPLACEMENT = "\ufffd".encode()


class Finding(NamedTuple):
    """What is wrong with a path, as the end of a sentence that says that nothing is there.

    mistake is the same for all paths with the same mistake; remedy says what to do about it. path
    is where the file is, None where that is not known.
    """

    mistake: str
    remedy: str
    path: bytes | None = None

    @property
    def hint(self) -> str:
        """The finding for the message of a row."""
        if self.path is None:
            return f"{self.mistake}; {self.remedy}"
        return f"it is there {self.mistake}, as {one_line(path_text(self.path))}"


class _Repair(NamedTuple):
    mistake: str
    remedy: str
    apply: Callable[[bytes], bytes]


class _Attempt(NamedTuple):
    mistake: str
    remedy: str
    value: bytes


def explain(path: bytes, listing: Listing | None = None) -> Finding | None:
    """Look for the file that a missing path probably means; None where nothing explains it.

    listing is the list or manifest with that path, None for an argument of the command line.
    """
    base = listing.base if listing else b""
    prefix = os.path.join(base, b"") if base else b""
    value = path.removeprefix(prefix)
    looks = _Looks(folders=listing is None)
    if b"\0" in path:
        return None
    if looks.is_link(path):
        return Finding("it is a symbolic link whose target is missing", "mend or remove the link")
    places = list(_other_places(base, listing))
    if not os.path.isabs(value):
        for place, mistake, remedy in places:
            if looks.exists(candidate := os.path.join(place, value)):
                return Finding(mistake, remedy, candidate)
    for mistake, remedy, repaired in _attempts(value):
        for place, elsewhere, _ in [(base, "", ""), *places]:
            if looks.exists(candidate := os.path.join(place, repaired)):
                where = f"{mistake} and {elsewhere}" if elsewhere else mistake
                return Finding(where, remedy, candidate)
    return _by_its_form(value) or _by_its_folder(path, looks)


class _Looks:
    """Looks for files, a limited number of times."""

    def __init__(self, *, folders: bool) -> None:
        """With `folders`, a folder counts as well as a file."""
        self._folders = folders
        self._left = MAX_LOOKS

    def exists(self, path: bytes) -> bool:
        """Whether what may be scanned is at this path."""
        mode = self._mode(path)
        wanted = (stat.S_ISREG, stat.S_ISLNK, *((stat.S_ISDIR,) if self._folders else ()))
        return mode is not None and any(test(mode) for test in wanted)

    def is_link(self, path: bytes) -> bool:
        """Whether a symbolic link is at this path."""
        mode = self._mode(path)
        return mode is not None and stat.S_ISLNK(mode)

    def is_missing_folder(self, path: bytes) -> bool:
        """Whether nothing is at this path; False where that is not known."""
        return self._left > 0 and self._mode(path) is None

    def _mode(self, path: bytes) -> int | None:
        if not self._left:
            return None
        self._left -= 1
        try:
            return os.lstat(path).st_mode
        except (OSError, ValueError):
            return None


def _other_places(base: bytes, listing: Listing | None) -> Iterator[tuple[bytes, str, str]]:
    """The folders, besides `base`, that relative paths of a list may be meant to start from."""
    if listing is None:
        return
    tried = {os.path.abspath(base)}
    folder = listing.folder
    if folder is not None and os.path.abspath(folder) not in tried:
        tried.add(os.path.abspath(folder))
        name = one_line(path_text(folder))
        remedy = f"run from there, or give --relative-to {name}"
        yield folder, f"relative to the list's own folder ({name})", remedy
    if os.path.abspath(b"") not in tried:
        yield b"", "relative to the current folder", "give --relative-to ."


def _attempts(value: bytes) -> Iterator[_Attempt]:
    """What the value may mean, the likeliest mistakes first; each differs from the value."""
    tried = {value, b""}
    cleaned, mistakes, remedies = value, [], []
    singles = []
    for mistake, remedy, apply in _CLEANING:
        if (single := apply(value)) not in tried:
            singles.append(_Attempt(mistake, remedy, single))
        if (further := apply(cleaned)) != cleaned:
            cleaned = further
            mistakes.append(mistake)
            remedies.append(remedy)
    together = _Attempt(" and ".join(mistakes), "; ".join(remedies), cleaned)
    others = [_Attempt(*other) for other in _alternatives(cleaned)]
    for attempt in [*singles, together, *others]:
        if attempt.value not in tried:
            tried.add(attempt.value)
            yield attempt


def _alternatives(value: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Further spellings of a value. At most one of them is right."""
    if not value.isascii():
        yield from _other_encodings(value)
    if _ESCAPED.search(value):
        yield "without the backslashes", "write names unquoted", _ESCAPED.sub(rb"\1", value)
    if value.startswith(b"/"):
        yield "without the leading /", "write relative paths", value.lstrip(b"/")
    starts = [value.partition(mark)[0] for mark in (b"\t", b",", b";", b"|") if mark in value]
    for start in (*starts, value.rpartition(b" ")[0].rstrip()):
        yield (
            "without what follows in the line",
            "a list has one path per line; call a table .csv or .tsv, with --columns where its "
            "first line names no columns",
            start,
        )
    stem, suffix = os.path.splitext(value)
    for other in (suffix.lower(), suffix.upper()):
        if other != suffix:
            yield "with another case of the suffix", "case matters here", stem + other


def _other_encodings(value: bytes) -> Iterator[tuple[str, str, bytes]]:
    """The same text in the other Unicode form, and as text that was decoded wrongly on the way."""
    advice = "names are compared byte by byte; list them with find or ls on this machine"
    utf8 = "save the list as UTF-8"
    try:
        text = value.decode()
    except UnicodeDecodeError:
        for encoding in ("cp1252", "latin-1"):
            if (recoded := _recoded(value, encoding, "utf-8")) is not None:
                yield f"as UTF-8 where the list is {encoding}", utf8, recoded
        return
    for form in ("NFC", "NFD"):
        yield (
            f"in the Unicode form {form}",
            advice,
            unicodedata.normalize("NFC" if form == "NFC" else "NFD", text).encode(),
        )
    for encoding in ("cp1252", "latin-1"):
        if (recoded := _recoded(value, "utf-8", encoding)) is not None:
            is_utf8 = _recoded(recoded, "utf-8", "utf-8") is not None
            how = f"as UTF-8 that the list has read as {encoding}" if is_utf8 else f"in {encoding}"
            yield how, utf8 if is_utf8 else advice, recoded
    for encoding in ("cp1252", "latin-1"):
        if (recoded := _recoded(value, encoding, "utf-8")) is not None:
            yield f"under a name that was once read as {encoding}", advice, recoded


def _recoded(value: bytes, source: str, target: str) -> bytes | None:
    try:
        return value.decode(source).encode(target)
    except UnicodeError:
        return None


def _by_its_form(value: bytes) -> Finding | None:
    """What the form of a path tells without any look at the disk."""
    start = value.lstrip(b" \t'\"")
    if start.startswith(b"\\\\"):
        return Finding("it is a Windows network path", "mount the share and list its files there")
    if _DRIVE.match(start):
        return Finding("it is a Windows path", "write the paths that the files have here")
    if _REPLACEMENT in value:
        return Finding(
            "the name holds U+FFFD, so it was damaged by a wrong encoding", "list the files again"
        )
    return None


def _by_its_folder(path: bytes, looks: _Looks) -> Finding | None:
    folder = os.path.dirname(path)
    if folder.strip(b"/") and looks.is_missing_folder(folder):
        return Finding("its folder is missing too", f"check {one_line(path_text(folder))}")
    return None


def _unquoted(value: bytes) -> bytes:
    trimmed = value.strip()
    for mark in (b'"', b"'", b"`"):
        if len(trimmed) > 2 and trimmed.startswith(mark) and trimmed.endswith(mark):
            return trimmed[1:-1]
    return value


def _in_home(value: bytes) -> bytes:
    home = os.environb.get(b"HOME", b"")
    return home + value[1:] if home and value.startswith(b"~/") else value


def _from_file_url(value: bytes) -> bytes:
    path = _FILE_URL.sub(b"", value, count=1) if _FILE_URL.match(value) else value
    return value if path is value else unquote_to_bytes(path)


_CLEANING = (
    _Repair("without the white space around it", "remove the spaces", bytes.strip),
    _Repair("without the quotes", "write names unquoted", _unquoted),
    _Repair("as a path instead of a file: URL", "write plain paths", _from_file_url),
    _Repair("without percent-encoding", "write plain paths", unquote_to_bytes),
    _Repair("with / for \\", "write paths with /", lambda value: value.replace(b"\\", b"/")),
    _Repair("with ~ expanded, which only a shell does", "write the whole path", _in_home),
)
"""Repairs that can be applied one after the other."""
