"""Local files of a run: what the state knows of each, and whether that still holds."""

from __future__ import annotations

import os
import time
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

import numpy as np

from moderate.run.groups import Group
from moderate.sources.folder_files import FolderFiles
from moderate.state.filesystems import ChangeTimes
from moderate.state.known_files import (
    FileRecord,
    KnownFile,
    KnownFiles,
    UnchangedFiles,
    path_digest,
    path_digests,
)
from moderate.state.records import FileStat
from moderate.state.run_scores import RunScores
from moderate.types import ErrorCode, ImageRef, Skipped

# A file that is written again in the same tick of its clock looks unchanged, so one that was just
# changed is not remembered. ext4 and xfs tick every few milliseconds, FAT every two seconds.
_FINE_TICK, _COARSE_TICK = 50_000_000, 2_000_000_000  # ns

_TO_LOOK = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC

UNREAD = {
    code: sha256(b"not read: " + code.value.encode()).digest()
    for code in (ErrorCode.EMPTY_FILE, ErrorCode.FILE_TOO_LARGE, ErrorCode.NOT_A_REGULAR_FILE)
}
"""Digests that stand in the state for the content of files that are not read, per reason.

The error lasts as long as the file does not change.
"""

_TOO_LARGE = UNREAD[ErrorCode.FILE_TOO_LARGE]
UNREAD_CLAIM = "not read"
"""The claim of such an outcome, which no name has: every run finds the error anew."""


@dataclass(slots=True, eq=False)
class LocalFile:
    """A local file as it was at `seen_at` (ns since 1970), before it was read.

    trusted says that its content is unchanged if its size and times are.
    """

    path: bytes
    stat: FileStat
    seen_at: int
    trusted: bool
    known: KnownFile | None = None

    def has_other_content(self, digest: bytes) -> bool:
        """Whether the state knows it with other content than that of this digest."""
        known = self.known
        if known is None:
            return False
        if known.sha256 == digest:
            return digest == _TOO_LARGE and known.stat != self.stat
        # A file that is read or left unread only because the size limit differs has not changed.
        limits_differ = _TOO_LARGE in (known.sha256, digest)
        return known.stat != self.stat or not limits_differ

    def record(self, ref: ImageRef, digest: bytes) -> FileRecord | None:
        """The record that it has this content; None where it has changed since, or may have."""
        tick = _FINE_TICK if self.stat.ctime_ns % 10_000_000 else _COARSE_TICK
        settled = self.stat.ctime_ns + tick < self.seen_at
        status = _status(ref)
        if not settled or status is None or _stat(status) != self.stat:
            return None
        return FileRecord(self.path, digest, self.stat)


@dataclass(slots=True, eq=False)
class LookedUp:
    """The local files among a group of inputs, as they were at seen_at (ns since 1970).

    By columns: places are those in the group. known is None where the state knows nothing;
    recomputes says that what it knows of scores does not count, hashed that it does only with a
    hash of the picture.
    """

    count: int
    seen_at: int
    places: list[int] = field(default_factory=list)
    paths: list[bytes] = field(default_factory=list)
    statuses: list[os.stat_result] = field(default_factory=list)
    trusted: list[bool] = field(default_factory=list)
    known: KnownFiles | None = None
    recomputes: bool = False
    hashed: bool = False

    def __iter__(self) -> Iterator[LocalFile | None]:
        """The local file of each input of the group.

        None for an input that is not a local file, and for a file that cannot be reached.
        """
        index = 0
        for place in range(self.count):
            if index < len(self.places) and self.places[index] == place:
                yield self._local(index)
                index += 1
            else:
                yield None

    def __getitem__(self, place: int) -> LocalFile | None:
        index = bisect_left(self.places, place)
        there = index < len(self.places) and self.places[index] == place
        return self._local(index) if there else None

    def unchanged(self, label_count: int) -> UnchangedFiles | None:
        """The files whose scores are known and can be believed; places are those in the group.

        None where there are none.
        """
        if self.known is None or self.recomputes or not any(self.trusted):
            return None
        numbers = array("q")
        try:
            numbers.extend(
                [n for s in self.statuses for n in (s.st_size, s.st_mtime_ns, s.st_ctime_ns)]
            )
        except OverflowError:  # one has a time that the state cannot hold
            return None
        stats = np.frombuffer(numbers, np.int64).reshape(-1, 3)
        found = self.known.unchanged(self.paths, stats, label_count, hashed=self.hashed)
        if not all(self.trusted):
            mask = [self.trusted[index] for index in found.places]
            found = found.take(mask)
        if len(self.places) < self.count:
            found = replace(found, places=[self.places[index] for index in found.places])
        return found if len(found) else None

    def _local(self, index: int) -> LocalFile:
        path = self.paths[index]
        known = self.known.get(path) if self.known else None
        stat = _stat(self.statuses[index])
        return LocalFile(path, stat, self.seen_at, self.trusted[index], known)

    def add(
        self,
        places: Sequence[int],
        paths: Sequence[bytes],
        statuses: Sequence[os.stat_result],
        trusted: Sequence[bool],
    ) -> None:
        """Add files, by columns; paths are the digests of theirs."""
        self.places += places
        self.paths += paths
        self.statuses += statuses
        self.trusted += trusted


class LocalFiles:
    """Looks up the local files of a run in the state."""

    def __init__(self, *, verify: bool) -> None:
        """With verify, no file counts as unchanged by its size and times."""
        self._verify = verify
        self._folder = _working_folder()
        self._change_times = ChangeTimes()

    def look_up(self, group: Group, scores: RunScores | None) -> LookedUp:
        """Each input's local file as it is now, with what scores know of it."""
        looked_up = LookedUp(len(group), time.time_ns())
        if scores is None:
            return looked_up
        for place, part in group.parts():
            if isinstance(part, FolderFiles):
                self._look_at_files(place, part, looked_up)
            elif isinstance(part, ImageRef) and is_local(part):
                if (status := _status(part)) is None:
                    continue
                digest = path_digest(part.path, self._folder)
                trusted = self._trusts(part.path, status, part.follow_symlinks)
                looked_up.add([place], [digest], [status], [trusted])
        if looked_up.places:
            looked_up.known = scores.look_up(looked_up.paths)
            looked_up.recomputes = scores.recomputes
            looked_up.hashed = scores.hashed
        return looked_up

    def _look_at_files(self, first: int, files: FolderFiles, looked_up: LookedUp) -> None:
        """Look at files of a folder, of which the first is in this place."""
        statuses = _statuses(files)
        indices = [index for index, status in enumerate(statuses) if status is not None]
        there = [status for status in statuses if status is not None]
        if not there:
            return
        names, paths = files.names, files.paths
        digests = path_digests(paths[0].removesuffix(names[0]), names, self._folder)
        follow = files.follow_symlinks
        if len({status.st_dev for status in there}) == 1 and self._trusts(
            paths[indices[0]], there[0], follow
        ):
            trusted = [True] * len(there)
        else:
            trusted = [
                self._trusts(paths[index], status, follow)
                for index, status in zip(indices, there, strict=True)
            ]
        if len(there) < len(statuses):
            digests = [digests[index] for index in indices]
        looked_up.add([first + index for index in indices], digests, there, trusted)

    def _trusts(self, path: bytes, status: os.stat_result, follow_symlinks: bool) -> bool:
        return not self._verify and self._change_times.are_own(
            path, status.st_dev, follow_symlinks=follow_symlinks
        )


def is_local(entry: ImageRef | Skipped) -> bool:
    """Whether an input is a file of its own on this machine."""
    return isinstance(entry, Skipped) or (entry.location is None and entry.error is None)


def _status(ref: ImageRef) -> os.stat_result | None:
    """None for a file that is missing or out of reach: reading it gives the reason."""
    try:
        return os.stat(ref.path, follow_symlinks=ref.follow_symlinks)
    except (OSError, ValueError):
        return None


def _statuses(files: FolderFiles) -> list[os.stat_result | None]:
    """`_status` of files of a folder, which the system has to find only once."""
    follow = files.follow_symlinks
    try:
        folder = os.open(files.folder, _TO_LOOK)
    except (OSError, ValueError):
        return [_status(files.ref(index)) for index in range(len(files))]
    try:
        return [os.stat(name, dir_fd=folder, follow_symlinks=follow) for name in files.names]
    except (OSError, ValueError):
        return [_status(files.ref(index)) for index in range(len(files))]
    finally:
        os.close(folder)


def _stat(status: os.stat_result) -> FileStat:
    return FileStat(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _working_folder() -> bytes:
    """Empty where it was removed: there are no files with relative paths then."""
    try:
        return os.getcwdb()
    except OSError:
        return b""
