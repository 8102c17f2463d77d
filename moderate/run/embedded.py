"""Embedded content in a run: pictures and videos in an image's file get rows of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from moderate.decode.embedded import VIDEOS, find_embedded, scored_by_itself
from moderate.decode.sniff import HEAD_BYTES, sniff
from moderate.decode.video import VideoSampler, video_kind
from moderate.fetch.local import OpenFile
from moderate.run.videos import VideoPart, video_parts
from moderate.types import ImageRef, Inline

_SUFFIXES = {"jpeg": "jpg", "heif": "heic", "quicktime": "mov", "matroska": "mkv"}


@dataclass(frozen=True, slots=True)
class EmbeddedFile:
    """Something inside an image's file, as a file of its own: its name and its bytes."""

    ref: ImageRef
    data: bytes
    is_video: bool


def embedded_files(ref: ImageRef, data: bytes, kinds: tuple[str, ...]) -> Iterator[EmbeddedFile]:
    """What is scored of what the file of `ref` holds, in the order in which it stands there.

    data is the whole file. Named like members of archives: `photo.jpg!/embedded-1.jpg`. What is
    inside an embedded file has no rows: that file's own row warns of it.
    """
    found = find_embedded(data, sniff(data[:HEAD_BYTES]) or "")
    for number, each in enumerate(scored_by_itself(found, kinds), 1):
        suffix = _SUFFIXES.get(each.kind, each.kind)
        path = ref.path + f"!/embedded-{number}.{suffix}".encode()
        # Without the bytes: rows wait in batches, and so many files are too much to hold.
        own = ImageRef(path, ref.warnings, location=Inline(b""), carried=ref.carried)
        yield EmbeddedFile(own, data[each.start : each.end], each.kind in VIDEOS)


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
