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

_OLD_ENCODINGS = ("cp1252", "latin-1")
_UNQUOTED = "write names unquoted"
_PLAIN = "write plain paths"
_DRIVE = re.compile(rb"[A-Za-z]:[\\/]")
_FILE_URL = re.compile(rb"file:(?://(?:localhost(?=/)|(?=/)))?(?!//)", re.IGNORECASE)
_ESCAPED = re.compile(rb"\\([ '\"()\[\]&;$!*?#])")  # as a shell has such characters in a name
_REPLACEMENT = "\ufffd".encode()


class Mistake(NamedTuple):
    """One thing that is wrong with a path, in the same words for every path, and what to do.

    Where the file was found, what says how it is there: "without the quotes".
    """

    what: str
    remedy: str


class Finding(NamedTuple):
    """What is wrong with a path, and where the file is, None where that is not known."""

    mistakes: tuple[Mistake, ...]
    path: bytes | None = None

    @property
    def hint(self) -> str:
        """The finding for the message of a row."""
        what = " and ".join(mistake.what for mistake in self.mistakes)
        if self.path is None:
            return f"{what}; {self.mistakes[0].remedy}"
        return f"it is there {what}, as {one_line(path_text(self.path))}"


class _Repair(NamedTuple):
    mistake: Mistake
    apply: Callable[[bytes], bytes]


class _Attempt(NamedTuple):
    mistakes: tuple[Mistake, ...]
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
        return _plain("it is a symbolic link whose target is missing", "mend or remove the link")
    places = list(_other_places(base, listing))
    if not os.path.isabs(value):
        for place, elsewhere in places:
            if looks.exists(candidate := os.path.join(place, value)):
                return Finding((elsewhere,), candidate)
    for mistakes, repaired in _attempts(value):
        if looks.exists(candidate := os.path.join(base, repaired)):
            return Finding(mistakes, candidate)
        for place, elsewhere in () if os.path.isabs(repaired) else places:
            if looks.exists(candidate := os.path.join(place, repaired)):
                return Finding((*mistakes, elsewhere), candidate)
    return _by_its_form(value) or _by_its_folder(path, looks)


def _plain(what: str, remedy: str) -> Finding:
    return Finding((Mistake(what, remedy),))


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


def _other_places(base: bytes, listing: Listing | None) -> Iterator[tuple[bytes, Mistake]]:
    """The folders, besides `base`, that relative paths of a list may be meant to start from."""
    if listing is None:
        return
    tried = {_absolute(base)}
    folder = listing.folder
    if folder is not None and _absolute(folder) not in tried:
        tried.add(_absolute(folder))
        name = one_line(path_text(folder)) or "."
        yield (
            folder,
            Mistake(
                f"relative to the list's own folder ({name})",
                f"run from there, or give --relative-to {name}",
            ),
        )
    if _absolute(b"") not in tried:
        yield b"", Mistake("relative to the current folder", "give --relative-to .")


def _absolute(folder: bytes) -> bytes:
    try:
        return os.path.abspath(folder)
    except OSError:  # the current folder was removed
        return folder


def _attempts(value: bytes) -> Iterator[_Attempt]:
    """What the value may mean, the likeliest mistakes first; each differs from the value."""
    singles, mistakes, cleaned = [], [], value
    for mistake, apply in _CLEANING:
        singles.append(_Attempt((mistake,), apply(value)))
        if (further := apply(cleaned)) != cleaned:
            cleaned = further
            mistakes.append(mistake)
    together = tuple(mistakes)
    others = [_Attempt((*together, mistake), text) for mistake, text in _alternatives(cleaned)]
    tried = {value, b""}
    for attempt in [*singles, _Attempt(together, cleaned), *others]:
        if attempt.value not in tried:
            tried.add(attempt.value)
            yield attempt


def _alternatives(value: bytes) -> Iterator[tuple[Mistake, bytes]]:
    """Further spellings of a value. At most one of them is right."""
    if not value.isascii():
        yield from _other_encodings(value)
    if value.startswith(b"/"):
        yield Mistake("without the leading /", "write relative paths"), value.lstrip(b"/")
    more = Mistake(
        "without what follows in the line",
        "a list has one path per line; call a table .csv or .tsv, with --columns where its first "
        "line names no columns",
    )
    starts = [value.partition(mark)[0] for mark in (b"\t", b",", b";", b"|") if mark in value]
    for start in (*starts, value.rpartition(b" ")[0].rstrip()):
        yield more, start
    stem, suffix = os.path.splitext(value)
    for other in (suffix.lower(), suffix.upper()):
        if other != suffix:
            what = f"with the suffix {one_line(path_text(other), 20)}"
            yield Mistake(what, "names are told apart by case"), stem + other


def _other_encodings(value: bytes) -> Iterator[tuple[Mistake, bytes]]:
    """The same text in the other Unicode form, and as text that was decoded wrongly on the way."""
    advice = "names are compared byte by byte; list the files on this machine, with find or ls"
    utf8 = "save the list as UTF-8"
    try:
        text = value.decode()
    except UnicodeDecodeError:
        for encoding in _OLD_ENCODINGS:
            if (recoded := _recoded(value, encoding, "utf-8")) is not None:
                yield Mistake(f"as UTF-8 where the list is {encoding}", utf8), recoded
        return
    yield Mistake("in the Unicode form NFC", advice), unicodedata.normalize("NFC", text).encode()
    yield Mistake("in the Unicode form NFD", advice), unicodedata.normalize("NFD", text).encode()
    for encoding in _OLD_ENCODINGS:
        if (recoded := _recoded(value, "utf-8", encoding)) is None:
            continue
        if _recoded(recoded, "utf-8", "utf-8") is None:
            yield Mistake(f"in {encoding}, not in UTF-8 as in the list", advice), recoded
        else:
            yield Mistake(f"with the UTF-8 of its name not read as {encoding}", utf8), recoded
    for encoding in _OLD_ENCODINGS:
        if (recoded := _recoded(value, encoding, "utf-8")) is not None:
            yield Mistake(f"under a name that was once read as {encoding}", advice), recoded


def _recoded(value: bytes, source: str, target: str) -> bytes | None:
    try:
        return value.decode(source).encode(target)
    except UnicodeError:
        return None


def _by_its_form(value: bytes) -> Finding | None:
    """What the form of a path tells without any look at the disk."""
    start = value.lstrip(b" \t'\"")
    if start.startswith(b"\\\\"):
        return _plain("it is a Windows network path", "mount the share and list its files there")
    if _DRIVE.match(start):
        return _plain("it is a Windows path", "write the paths that the files have here")
    if value.startswith(b"~/"):
        return _plain("only a shell expands ~", "write the whole path")
    if _REPLACEMENT in value:
        return _plain(
            "the name holds U+FFFD, so it was damaged by a wrong encoding", "list the files again"
        )
    return None


def _by_its_folder(path: bytes, looks: _Looks) -> Finding | None:
    folder = os.path.dirname(path)
    if folder.strip(b"/") and looks.is_missing_folder(folder):
        return _plain(
            "its folder is missing too", f"check the folder {one_line(path_text(folder))}"
        )
    return None


def _unquoted(value: bytes) -> bytes:
    trimmed = value.strip()
    for mark in (b'"', b"'", b"`"):
        if len(trimmed) > 2 and trimmed.startswith(mark) and trimmed.endswith(mark):
            return trimmed[1:-1]
    return value


def _unescaped(value: bytes) -> bytes:
    return _ESCAPED.sub(rb"\1", value)


def _in_home(value: bytes) -> bytes:
    home = os.environb.get(b"HOME", b"")
    return home + value[1:] if home and value.startswith(b"~/") else value


def path_of_file_url(value: bytes) -> bytes:
    """The path of a `file:` URL of this machine; the value itself where it is not one."""
    start = _FILE_URL.match(value)
    return unquote_to_bytes(value[start.end() :]) if start else value


_CLEANING = (
    _Repair(Mistake("without the white space around it", "remove the spaces"), bytes.strip),
    _Repair(Mistake("without the quotes", _UNQUOTED), _unquoted),
    _Repair(Mistake("as a path instead of a file: URL", _PLAIN), path_of_file_url),
    _Repair(Mistake("without percent-encoding", _PLAIN), unquote_to_bytes),
    _Repair(Mistake("without the backslashes", _UNQUOTED), _unescaped),
    _Repair(
        Mistake("with / for \\", "write paths with /"), lambda value: value.replace(b"\\", b"/")
    ),
    _Repair(Mistake("with ~ expanded, which only a shell does", "write the whole path"), _in_home),
)
"""Repairs that can be applied one after the other."""
