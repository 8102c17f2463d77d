"""The bytes of scanned images, found again by what the rows say of them."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future
from enum import Enum
from hashlib import sha256
from typing import Any
from urllib.parse import unquote_to_bytes

from moderate.decode.embedded import embedded_name, find_embedded
from moderate.decode.sniff import HEAD_BYTES, sniff
from moderate.decode.video import (
    LEAST_EVERY,
    VideoError,
    VideoOptions,
    VideoSampler,
    require_pyav,
    video_kind,
)
from moderate.errors import ModerateError, UsageError
from moderate.fetch.fetcher import Fetcher
from moderate.fetch.local import FetchError, open_regular, read_file, read_head
from moderate.installing import how_to_install
from moderate.sources.archive import ArchiveSource, is_archive, local_opener
from moderate.sources.entries import entry_ref
from moderate.text import one_line, timestamp
from moderate.types import ErrorCode, ImageError, ImageRef, Limits

FRAME_SECONDS = 120.0
"""CPU time for finding a frame of a video again."""

_EMBEDDED = re.compile(rb"!/(embedded-[1-9][0-9]{0,3}(\.[a-z0-9]+))\Z")
_FRAME = re.compile(rb"!/([0-9]{2,6}):([0-5][0-9]):([0-5][0-9])\.([0-9]{3})\Z")


class Problem(Enum):
    """Why there are no bytes, in the fewest words."""

    NO_DIGEST = "no digest"
    CHANGED = "changed since the scan"
    GONE = "cannot be read any more"
    ELSEWHERE = "not a local file"


class OriginalError(Exception):
    """Why an image cannot be shown, in words for a reviewer.

    code is that of the row which a scan would write now; None where it would write another one.
    """

    def __init__(
        self, message: str, problem: Problem = Problem.GONE, code: ErrorCode | None = None
    ) -> None:
        super().__init__(message)
        self.problem = problem
        self.code = code


class Originals:
    """Reads images again, for any number of threads.

    The fetcher, whose life is the caller's to end, is for what is not a file on this machine; None:
    such images are not read. limits are those of files, members and frames of videos.
    """

    def __init__(self, limits: Limits, fetcher: Fetcher | None = None) -> None:
        self._limits = limits
        self._fetcher = fetcher
        self._fetching = threading.Lock()  # a fetcher is asked by one thread at a time

    def read(self, row: Mapping[str, Any]) -> bytes:
        """The bytes that were scanned, and no others. Raises OriginalError.

        Those of a frame of a video are a file that is made of it, as in the scan. row has the
        columns path and sha256, and may have path_bytes and uri.
        """
        digest = row.get("sha256")
        if digest is None:
            raise OriginalError(
                "the results hold no digest, so that it could be another image", Problem.NO_DIGEST
            )
        path = row.get("path_bytes") or os.fsencode(row["path"])
        reasons: list[OriginalError] = []
        # Whichever it is, the digest says whether it holds the scanned bytes.
        for place in dict.fromkeys((path, *_by_uri(path, row.get("uri") or ""))):
            try:
                for data in self._candidates(place):
                    if sha256(data).hexdigest() == digest:
                        return data
                reasons.append(_changed(place))
            except FetchError as error:
                reasons.append(OriginalError(error.error.message, code=error.error.code))
            except OriginalError as error:
                reasons.append(error)
            except (ModerateError, OSError) as error:
                reasons.append(OriginalError(one_line(str(error), 200)))
        raise next((each for each in reasons if each.problem is Problem.CHANGED), reasons[0])

    def _candidates(self, path: bytes) -> Iterator[bytes]:
        """What may be meant by a path, of which the digest tells the right one.

        So it is with what is embedded: which number it has goes by the kinds that were scored.
        """
        embedded, frame = _EMBEDDED.search(path), _FRAME.search(path)
        inner = embedded or frame
        if inner is None or os.path.lexists(path) or _is_archive(path[: inner.start()]):
            yield self._whole(path)
        elif embedded:
            for outer in self._candidates(path[: embedded.start()]):
                for each in find_embedded(outer, sniff(outer[:HEAD_BYTES]) or "").others:
                    if embedded_name(1, each.kind).endswith(embedded[2].decode()):
                        yield outer[each.start : each.end]
        elif frame:
            hours, minutes, seconds, milliseconds = map(int, frame.groups())
            time = hours * 3600 + minutes * 60 + seconds + milliseconds / 1000
            yield from self._frames(path[: frame.start()], time)

    def _frames(self, path: bytes, seconds: float) -> Iterator[bytes]:
        """The frame of a video at that time, as `VideoSampler` gives it."""
        try:
            require_pyav()
        except UsageError:
            raise OriginalError(
                f"it is a frame of a video, which needs PyAV: {how_to_install('video')}"
            ) from None
        if os.path.isfile(path):
            with contextlib.closing(self._stills(open_regular(path).fd, path, seconds)) as stills:
                yield from stills
            return
        # An embedded video, or a member of an archive.
        for video in self._candidates(path):
            fd = os.memfd_create("moderate-embedded", os.MFD_CLOEXEC)
            with open(fd, "wb", closefd=False) as memory:
                memory.write(video)
            with contextlib.closing(self._stills(fd, path, seconds)) as stills:
                yield from stills

    def _stills(self, fd: int, path: bytes, seconds: float) -> Generator[bytes, None, None]:
        """The still at that time of the video that is open as fd, which is closed."""
        # The second still of a video that has one every so many seconds, else the first.
        options = VideoOptions(every=max(seconds, LEAST_EVERY), timeout=FRAME_SECONDS, max_frames=2)
        try:
            sniffed = sniff(os.pread(fd, HEAD_BYTES, 0))
            suffix = os.path.splitext(path)[1][1:].decode("ascii", "replace").lower()
            kind = video_kind(sniffed, suffix)
            if kind is None:
                raise OriginalError("it was a frame of a file that is no longer a video",
                                    Problem.CHANGED)  # fmt: skip
            with contextlib.closing(VideoSampler(options, self._limits).sample(fd, kind)) as stills:
                for still in stills:
                    if timestamp(still.seconds) == timestamp(seconds):
                        yield still.data
                        return
        except VideoError as error:
            raise OriginalError(f"the video cannot be read again: {error}") from None
        finally:
            os.close(fd)

    def _whole(self, path: bytes) -> bytes:
        """The bytes of a file, of a member of an archive, or of what a URI names."""
        if (member := self._member(path)) is not None:
            return member
        if b"***" in path and b"://" in path:
            raise OriginalError(
                "its URL was signed or held a password, which results do not keep",
                Problem.ELSEWHERE,
            )
        limit = self._limits.max_file_bytes
        ref = entry_ref(path, max_file_bytes=limit, exact=True)
        if ref.error:
            raise FetchError(ref.error)
        if ref.location is None:
            return read_file(ref.path, limit, follow_symlinks=ref.follow_symlinks)
        if self._fetcher is None:
            raise OriginalError("it is not a file on this machine", Problem.ELSEWHERE)
        with self._fetching:
            data = self._fetcher.fetch(ref)
        return data.result() if isinstance(data, Future) else data

    def _member(self, path: bytes) -> bytes | None:
        """The bytes of a member of an archive; None for what is none."""
        for archive, member in _splits(path):
            if not os.path.isfile(archive):
                continue
            if not _is_archive(archive):
                raise OriginalError("it is part of another file, which holds nothing of that name")
            source = ArchiveSource(ImageRef(archive).display, local_opener(archive))
            data = source.read_member(member, self._limits.max_file_bytes)
            if data is None:
                missing = ImageError(ErrorCode.NOT_FOUND, "the archive has no such member any more")
                raise FetchError(missing)
            return data
        return None


def _is_archive(path: bytes) -> bool:
    return os.path.isfile(path) and is_archive(path, read_head(path, HEAD_BYTES))


def _changed(path: bytes) -> OriginalError:
    if _FRAME.search(path):
        return OriginalError(
            "the video, or what decodes it, has changed since it was scanned", Problem.CHANGED
        )
    if _EMBEDDED.search(path):
        return OriginalError(
            "the file that it was embedded in has changed since it was scanned", Problem.CHANGED
        )
    return OriginalError("the file has changed since it was scanned", Problem.CHANGED)


def _by_uri(path: bytes, uri: str) -> Iterator[bytes]:
    """The path that a URI has, which serves in any folder; none where it is no local file's."""
    if os.path.isabs(path) or not uri.startswith("file:///"):
        return
    file, _, inside = uri.removeprefix("file://").partition("#")
    yield unquote_to_bytes(f"{file}!/{inside}" if inside else file)


def _splits(path: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The ways to take a path apart into an archive and its member."""
    at = path.find(b"!/")
    while at >= 0:
        yield path[:at], path[at + 2 :]
        at = path.find(b"!/", at + 1)
