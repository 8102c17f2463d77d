"""Local files of a run: what the state knows of each, and whether that still holds."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from moderate.state.filesystems import ChangeTimes
from moderate.state.records import FileStat
from moderate.state.scores import FileRecord, KnownFile, RunScores, path_digest
from moderate.types import ErrorCode, ImageRef, Skipped

# A file that is written again in the same tick of its clock looks unchanged, so one that was just
# changed is not remembered. ext4 and xfs tick every few milliseconds, FAT every two seconds.
_FINE_TICK, _COARSE_TICK = 50_000_000, 2_000_000_000  # ns

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


class LocalFiles:
    """Looks up the local files of a run in the state."""

    def __init__(self, *, verify: bool) -> None:
        """With verify, no file counts as unchanged by its size and times."""
        self._verify = verify
        self._folder = _working_folder()
        self._change_times = ChangeTimes()

    def look_up(
        self, group: Sequence[ImageRef | Skipped], scores: RunScores | None
    ) -> list[LocalFile | None]:
        """For each input, its local file as it is now, with what scores know of it.

        None for an input that is not a local file, and for a file that cannot be reached.
        """
        if scores is None:
            return [None] * len(group)
        now = time.time_ns()
        looked_up: list[LocalFile | None] = []
        for entry in group:
            local = None
            if isinstance(entry, ImageRef) and is_local(entry) and (status := _status(entry)):
                trusted = not self._verify and self._change_times.are_own(
                    entry.path, status.st_dev, follow_symlinks=entry.follow_symlinks
                )
                path = path_digest(entry.path, self._folder)
                local = LocalFile(path, _stat(status), now, trusted)
            looked_up.append(local)
        files = [local for local in looked_up if local]
        known = scores.by_path([local.path for local in files]) if files else {}
        for local in files:
            local.known = known.get(local.path)
        return looked_up


def is_local(entry: ImageRef | Skipped) -> bool:
    """Whether an input is a file of its own on this machine."""
    return isinstance(entry, Skipped) or (entry.location is None and entry.error is None)


def _status(ref: ImageRef) -> os.stat_result | None:
    """None for a file that is missing or out of reach: reading it gives the reason."""
    try:
        return os.stat(ref.path, follow_symlinks=ref.follow_symlinks)
    except (OSError, ValueError):
        return None


def _stat(status: os.stat_result) -> FileStat:
    return FileStat(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _working_folder() -> bytes:
    """Empty where it was removed: there are no files with relative paths then."""
    try:
        return os.getcwdb()
    except OSError:
        return b""
