"""What a results file asks for: files with their decisions, and rows that stand for no file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from moderate.apply.contents import Content
from moderate.results.final import columns_of_final, decided
from moderate.results.read import Results
from moderate.text import path_text
from moderate.types import Decision

_COLUMNS = ("path", "path_bytes", "uri", "decision", "bytes", "sha256")
_INSIDE = b"!/"  # between a file and the name of what is in it
_SHA256_DIGITS = 64

NOT_LOCAL = "not a local file: a URL, an object in a store, or bytes in memory"
INSIDE = "inside of another file: an archive, a manifest, a video, an image"
NO_DIGEST = "no sha256 in its row, so that nobody can tell whether it is the same file"
NOT_PLAIN = "its path is not a plain one: '..' or a NUL byte in it"
DISAGREEING = "several rows of the same file do not agree"
HOLDS_WORSE = "decided more mildly than something that is in the file"


class File(NamedTuple):
    """A file that a row names: its absolute path, without `.` and `..` in it, and what it holds."""

    path: bytes
    decision: str
    sha256: bytes
    size: int


@dataclass(slots=True)
class Inside:
    """Rows of what is in a file: their counts by decision."""

    counts: Counter[str] = field(default_factory=Counter)

    @property
    def worst(self) -> Decision:
        """The most severe decision."""
        return max(map(Decision, self.counts), key=lambda decision: decision.severity)


@dataclass(slots=True)
class Plan:
    """All rows of a results file.

    files are those to be applied, in order. folder is the longest that all local files have in
    common, whatever was decided, so that it does not depend on what is asked for. refused has the
    paths of other rows with a decision that was asked for, by reason; paths are text. unasked are
    files by decision for which no folder was given. inside are the files, as absolute paths, that
    hold what has rows of its own; rows of those that have a row themselves are `covered`. again is
    how many rows name a file once more.
    """

    files: list[File] = field(default_factory=list)
    folder: bytes | None = None
    refused: dict[str, list[str]] = field(default_factory=dict)
    unasked: Counter[str] = field(default_factory=Counter)
    inside: dict[bytes, Inside] = field(default_factory=dict)
    rows: int = 0
    covered: int = 0
    again: int = 0

    def refuse(self, reason: str, path: bytes) -> None:
        """Note a row that cannot be applied."""
        self.refused.setdefault(reason, []).append(path_text(path))


def read_plan(results: Results, asked: Sequence[str], working: bytes) -> Plan:
    """Read all rows. asked are the decisions that are to be applied.

    Where people decided on a row, that is its decision. working is the folder that relative paths
    start from, unless their rows say where they were.
    Raises InputError for rows that no run of this tool wrote.
    """
    plan, reader = Plan(), _Reader(results, working)
    own: dict[bytes, File | None] = {}  # None: rows that do not agree
    members: list[tuple[bytes, bytes, str]] = []
    for shown, path, decision, size, digest in reader:
        plan.rows += 1
        if path is None:
            if decision in asked:
                plan.refuse(NOT_PLAIN if shown.startswith((b"/", b".")) else NOT_LOCAL, shown)
            else:
                plan.unasked[decision] += 1
            continue
        if (container := reader.container(path)) is not None:
            plan.inside.setdefault(container, Inside()).counts[decision] += 1
            members.append((shown, container, decision))
            continue
        named = File(path, decision, digest, size)
        if path not in own:
            own[path] = named
        elif own[path] == named:
            plan.again += 1
        else:
            for _ in range(1 if own[path] is None else 2):
                plan.refuse(DISAGREEING, shown)
            own[path] = None
    if folders := {os.path.dirname(path) for path in own}:
        plan.folder = os.path.commonpath(folders)
    for path, file in own.items():
        if file is None:
            continue  # refused above
        held = plan.inside.get(path)
        milder = held and held.worst.severity > Decision(file.decision).severity
        if held and milder and (held.worst in asked or file.decision in asked):
            plan.refuse(HOLDS_WORSE, path)
        elif file.decision not in asked:
            plan.unasked[file.decision] += 1
        elif not file.sha256:
            plan.refuse(NO_DIGEST, path)
        else:
            plan.files.append(file)
    for shown, container, decision in members:
        if _has_content(own.get(container)):
            plan.covered += 1
        elif decision in asked:
            plan.refuse(INSIDE, shown)
        else:
            plan.unasked[decision] += 1
    plan.inside = {
        path: held
        for path, held in plan.inside.items()
        if not _has_content(own.get(path)) and any(d in asked for d in held.counts)
    }
    return plan


def content_of(file: File) -> Content:
    """What the file has to hold."""
    return Content(file.size, file.sha256.hex())


def absolute(path: bytes, working: bytes) -> bytes | None:
    """An absolute path without `.` and `..`; None for one that has `..` other than at its start.

    Where a folder is a link, what `..` after it means cannot be told from the names.
    """
    if b"\0" in path:
        return None
    names = [] if path.startswith(b"/") else [n for n in working.split(b"/") if n]
    leads_up = not path.startswith(b"/")
    for name in path.split(b"/"):
        if name in (b"", b"."):
            continue
        if name == b"..":
            if not leads_up:
                return None
            names = names[:-1]
            continue
        leads_up = False
        names.append(name)
    return b"/" + b"/".join(names)


def located(shown: bytes, uri: str | None, working: bytes) -> bytes | None:
    """The absolute path of the local file that a row names; None of anything else.

    Where the scan ran in another folder, the row's URI says where the file was. It is believed as
    far as it ends as the path does.
    """
    if not shown.startswith((b"/", b"./")):
        return None
    path = absolute(shown, working)
    if path is None or shown.startswith(b"/") or not (uri or "").startswith("file:///"):
        return path
    assert uri is not None
    file, _, name = uri.partition("#")
    elsewhere = absolute(unquote_to_bytes(file.removeprefix("file://")), b"/")
    # The URI of what is in a file is that of the file, with its own name as the fragment.
    inside = _INSIDE + unquote_to_bytes(name)
    outermost = shown.removesuffix(inside) if name else shown
    if outermost == shown:
        inside = b""
    names = [each for each in outermost.split(b"/") if each not in (b".", b"..", b"")]
    agrees = elsewhere is not None and elsewhere.endswith(b"/" + b"/".join(names))
    return absolute(elsewhere + inside, b"/") if agrees and elsewhere is not None else path


def _has_content(file: File | None) -> bool:
    """Whether a file has a row by which it can be applied."""
    return file is not None and bool(file.sha256)


class _Reader:
    """The rows of a results file, as far as they matter."""

    def __init__(self, results: Results, working: bytes) -> None:
        self._results = results
        self._working = working
        self._folders: dict[bytes, bool] = {}

    def __iter__(self) -> Iterator[tuple[bytes, bytes | None, str, int, bytes]]:
        """The path as shown, the absolute one or None, the decision, size (bytes) and digest."""
        known = set(self._results.own)
        columns = [name for name in _COLUMNS if name in known]
        for parts in self._results.parts(columns, columns_of_final(self._results)):
            own = decided(self._results, *parts)
            cells = (own[name].to_pylist() if name in own else None for name in _COLUMNS)
            lists = [c if c is not None else [None] * len(own["path"]) for c in cells]
            for text, exact, uri, decision, size, sha256 in zip(*lists, strict=True):
                shown = exact if exact is not None else text.encode("utf-8", "surrogateescape")
                path = located(shown, uri, self._working) or self._member(shown, uri)
                yield shown, path, decision, *_content(size, sha256)

    def _member(self, shown: bytes, uri: str | None) -> bytes | None:
        """The path of what is in a file under a name with `..` in it; None of anything else.

        Only the file's own path is made absolute: such a name leads nowhere.
        """
        at = shown.find(_INSIDE)
        while at >= 0:
            file = located(shown[:at], uri and uri.partition("#")[0], self._working)
            if file is not None and self.container(file + _INSIDE) is not None:
                return file + shown[at:]
            at = shown.find(_INSIDE, at + 1)
        return None

    def container(self, path: bytes) -> bytes | None:
        """The file that a path leads into; None for a path of a file.

        A folder's name may end with `!`, too.
        """
        start = 0
        while (at := path.find(_INSIDE, start)) >= 0:
            folder = path[: at + 1]
            if folder not in self._folders:
                self._folders[folder] = os.path.isdir(folder)
            if not self._folders[folder]:
                return path[:at]
            start = at + 1
        return None


def _content(size: int | None, sha256: str | None) -> tuple[int, bytes]:
    """Size and digest; no digest where either is missing or none."""
    if size is None or size < 0 or sha256 is None or len(sha256) != _SHA256_DIGITS:
        return 0, b""
    try:
        return size, bytes.fromhex(sha256)
    except ValueError:
        return 0, b""
