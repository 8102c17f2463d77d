"""Embedded content in a run: pictures and videos in an image's file get rows of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from moderate.decode.embedded import (
    PICTURES,
    VIDEOS,
    embedded_name,
    find_embedded,
    scored_by_itself,
)
from moderate.decode.sniff import HEAD_BYTES, sniff
from moderate.decode.video import VideoSampler, video_kind
from moderate.fetch.local import OpenFile
from moderate.run.videos import VideoPart, video_parts
from moderate.types import ErrorCode, ImageError, ImageRef, Inline

MOST_ROWS = 64
"""Embedded files of one file that are scored, those in others included."""

MOST_DEPTH = 4
"""How deep in one another embedded files are scored."""


@dataclass(frozen=True, slots=True)
class EmbeddedFile:
    """Something inside an image's file, as a file of its own: its name and its bytes.

    error is set, and stands for all that follows, where there is too much of it.
    """

    ref: ImageRef
    data: bytes
    is_video: bool = False
    error: ImageError | None = None


class EmbeddedFiles:
    """What is scored of what an image's file holds, in the order in which it stands there.

    Named like members of archives: `photo.jpg!/embedded-1.jpg`, and what is inside of that
    `photo.jpg!/embedded-1.jpg!/embedded-1.png`.
    """

    def __init__(self, ref: ImageRef, data: bytes, kinds: tuple[str, ...]) -> None:
        """data is the whole file, kinds those that are scored."""
        self._ref = ref
        self._data = data
        self._kinds = kinds
        self._rows_left = MOST_ROWS

    def __iter__(self) -> Iterator[EmbeddedFile]:
        """Each once, pictures before what is in them."""
        yield from self._inside(self._ref, self._data, 1)

    def _inside(self, ref: ImageRef, data: bytes, depth: int) -> Iterator[EmbeddedFile]:
        found = find_embedded(data, sniff(data[:HEAD_BYTES]) or "")
        for number, each in enumerate(scored_by_itself(found, self._kinds), 1):
            path = ref.path + f"!/{embedded_name(number, each.kind)}".encode()
            # Without the bytes: rows wait in batches, and so many files are too much to hold.
            own = ImageRef(
                path, ref.warnings, location=Inline(b""), carried=ref.carried, within=ref
            )
            self._rows_left -= 1
            if self._rows_left < 0 or depth > MOST_DEPTH:
                if self._rows_left >= -1 or depth > MOST_DEPTH:
                    yield EmbeddedFile(own, b"", error=_TOO_MUCH)
                return
            content = data[each.start : each.end]
            yield EmbeddedFile(own, content, each.kind in VIDEOS)
            if each.kind in PICTURES:
                yield from self._inside(own, content, depth + 1)


_TOO_MUCH = ImageError(
    ErrorCode.ARCHIVE_LIMIT,
    f"more is embedded in the file than is scored ({MOST_ROWS} pictures and videos, {MOST_DEPTH} "
    "deep in one another)",
)


def embedded_video(file: EmbeddedFile, sampler: VideoSampler) -> Iterator[VideoPart]:
    """The frames of an embedded video between their markers; see `video_parts`."""
    sniffed = sniff(file.data[:HEAD_BYTES])
    kind = video_kind(sniffed, None) or "mp4"
    fd = os.memfd_create("moderate-embedded", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as memory:
            memory.write(file.data)
    except BaseException:
        os.close(fd)
        raise
    return video_parts(file.ref, OpenFile(fd, len(file.data)), sniffed, kind, sampler)
