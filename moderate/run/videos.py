"""Videos in a run: a file becomes its frames between two markers, their rows become its row."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from moderate.decode.sniff import HEAD_BYTES, claimed_format, refusal, sniff
from moderate.decode.video import (
    PassedOverError,
    Still,
    VideoError,
    VideoSampler,
    video_kind,
)
from moderate.fetch.local import FetchError, OpenFile, open_regular, os_error
from moderate.policy.batch import Judged, UndecidedRow
from moderate.policy.judge import Judge
from moderate.policy.reasons import at_place, label_term
from moderate.policy.rows import decided_row, judge_rows
from moderate.types import (
    CATEGORIES,
    UNSCORED,
    Category,
    Decision,
    ErrorCode,
    ImageError,
    ImageFacts,
    ImageRef,
    Inline,
    Origin,
    Row,
    Skipped,
    Warn,
)

_REASONS_KEPT = 3  # of frames that no score explains
_HASHED_AT_ONCE = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class VideoBegin:
    """The rows from here to the next VideoEnd are those of frames of one video."""


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """A frame to decode like any image, or why there is none at its time."""

    ref: ImageRef
    facts: ImageFacts
    data: bytes | None
    error: ImageError | None = None


@dataclass(frozen=True, slots=True)
class VideoEnd:
    """What is known of the video itself. error is for a video without any frame."""

    ref: ImageRef
    facts: ImageFacts
    error: ImageError | None = None


VideoPart = VideoBegin | VideoFrame | VideoEnd


def open_video(ref: ImageRef, max_bytes: int) -> tuple[OpenFile, str | None, str] | VideoEnd | None:
    """A local file that is a video: open, what `sniff` calls it, and the kind to read it as.

    None for everything else; VideoEnd where it is too large or cannot be read. The caller closes
    the file.
    """
    if ref.error is not None or ref.location is not None:
        return None
    try:
        file = open_regular(ref.path, follow_symlinks=ref.follow_symlinks)
    except FetchError:
        return None  # said by whoever reads images
    is_video = False
    try:
        head = os.pread(file.fd, HEAD_BYTES, 0)
        sniffed = sniff(head)
        kind = video_kind(sniffed, claimed_format(ref.name)) if head else None
        if kind is None or _is_plainly_other(sniffed, head, ref.name):
            return None
        facts = ImageFacts(warnings=ref.warnings, format=sniffed, bytes=file.size)
        if file.size > max_bytes:
            message = f"{file.size} bytes is over the limit of {max_bytes}"
            message = f"{message}; raise it with --max-video-size"
            return VideoEnd(ref, facts, ImageError(ErrorCode.FILE_TOO_LARGE, message))
        is_video = True
        return file, sniffed, kind
    except OSError:
        return None
    finally:
        if not is_video:
            os.close(file.fd)


def video_parts(
    ref: ImageRef, file: OpenFile, sniffed: str | None, kind: str, sampler: VideoSampler
) -> Iterator[VideoPart]:
    """The frames of an open video, which is closed at the end, between their markers.

    Where the video breaks off after some frames, the last of them is the error.
    """
    try:
        facts = ImageFacts(warnings=ref.warnings, format=sniffed, bytes=file.size)
        try:
            facts = replace(facts, sha256=_sha256(file.fd))
        except OSError as failed:
            yield VideoBegin()
            yield VideoEnd(ref, facts, os_error(failed))
            return
        yield VideoBegin()
        yield from _sampled(ref, facts, sampler, file.fd, kind)
    finally:
        os.close(file.fd)


def _sampled(
    ref: ImageRef, facts: ImageFacts, sampler: VideoSampler, fd: int, kind: str
) -> Iterator[VideoPart]:
    count = 0
    still: Still | None = None
    frame_facts = ImageFacts(warnings=ref.warnings, format=facts.format)
    error: ImageError | None = None
    try:
        for still in sampler.sample(fd, kind):
            if count == 0:
                facts = replace(facts, width=still.width, height=still.height)
            count += 1
            yield VideoFrame(_frame_ref(ref, still.seconds), frame_facts, still.data)
    except VideoError as broke:
        error = ImageError(broke.code, str(broke))
        if count:
            facts = replace(facts, warnings=(*facts.warnings, Warn.VIDEO_INCOMPLETE))
        if count and still and not isinstance(broke, PassedOverError):
            broken_at = _frame_ref(ref, still.seconds + sampler.options.every)
            yield VideoFrame(broken_at, frame_facts, None, error)
    if count == 0 and error is None:
        error = ImageError(ErrorCode.CORRUPT_IMAGE, "there is no frame in it")
    yield VideoEnd(ref, replace(facts, frames=count or None), None if count else error)


def not_local(kind: str | None, head: bytes, name: bytes) -> str | None:
    """Why a video that did not come from a local file is refused where others are sampled."""
    if video_kind(kind, claimed_format(name)) and not _is_plainly_other(kind, head, name):
        return "videos are read from local files only"
    return None


@dataclass(slots=True)
class VideoRows:
    """Follows the rows of a run in their order, and gives each video its own."""

    judge: Judge
    run_id: str = ""
    _frames: list[Row] | None = None

    def take_all(
        self, items: Iterable[Row | Skipped | VideoBegin | VideoEnd]
    ) -> Iterator[Row | Skipped]:
        """What to put out for items, in order; see `take`."""
        for item in items:
            row = item if isinstance(item, Skipped) else self.take(item)
            if row is not None:
                yield row

    def take(self, item: Row | VideoBegin | VideoEnd) -> Row | None:
        """The row to put out for an item: itself, none, or that of the video that ends."""
        if isinstance(item, VideoBegin):
            self._frames = []
            return None
        if isinstance(item, VideoEnd):
            frames, self._frames = self._frames or [], None
            video = Video.of(item, frames)
            (judged,) = judge_rows(self.judge, [video.row])
            return video.decided(judged, self.run_id)
        if self._frames is not None:
            self._frames.append(item)
        return item


@dataclass(frozen=True, slots=True)
class Video:
    """A video whose frames are decided.

    row has the maximum of each category and label, and at which time it was, or an error where no
    frame was scored.
    """

    row: UndecidedRow
    frames: list[Row]

    @classmethod
    def of(cls, end: VideoEnd, frames: list[Row]) -> Video:
        """The video that ends after these frames."""
        good = [row for row in frames if row.error is None]
        if not good:
            error = end.error or _none_scored(frames)
            return cls(UndecidedRow(end.ref, end.facts, UNSCORED, error), frames)
        facts = end.facts
        if len(good) < len(frames) and Warn.VIDEO_INCOMPLETE not in facts.warnings:
            facts = replace(facts, warnings=(*facts.warnings, Warn.VIDEO_INCOMPLETE))
        scores: dict[Category, float | None] = dict(UNSCORED)
        times: dict[str, str] = {}
        for category in CATEGORIES:
            if highest := _highest((row.scores[category], row) for row in good):
                scores[category], times[category.value] = highest
        labels: dict[str, float | None] = {}
        for name in good[0].labels:
            if highest := _highest((row.labels.get(name), row) for row in good):
                labels[name], times[label_term(name)] = highest
        return cls(
            UndecidedRow(
                end.ref,
                facts,
                scores,
                labels=labels,
                origin=_origin(good),
                scored_at=max((row.scored_at for row in good if row.scored_at), default=None),
                places=times,
            ),
            frames,
        )

    def decided(self, judged: Judged, run_id: str = "") -> Row:
        """The video's row: the worst decision, and when.

        judged is what the policy makes of `row`. The decision is the worst of that and of the
        frames' own, among which those that failed have on_error; or that of the list which the file
        is on.
        """
        row = decided_row(self.row, judged, run_id)
        if row.error is not None or judged.listed:
            return row
        decision = row.decision
        reasons = list(row.reasons)
        worst = max((frame.decision for frame in self.frames), key=lambda one: one.severity)
        if worst.severity > decision.severity:
            decision, reasons = worst, []
        if decision is not Decision.APPROVE:
            reasons += _of_frames(decision, self.frames)
        return replace(row, decision=decision, reasons=tuple(reasons))


def _origin(frames: list[Row]) -> Origin:
    """New where any frame is: a video itself is looked at in every run."""
    origins = {row.origin for row in frames}
    if origins & {Origin.NEW, Origin.CHANGED}:
        return Origin.NEW
    return Origin.REUSED if Origin.REUSED in origins else Origin.DUPLICATE


def _highest(scored: Iterable[tuple[float | None, Row]]) -> tuple[float, str] | None:
    """The highest score and its time, the first of equals; None where there is no score."""
    known = [(score, row) for score, row in scored if score is not None]
    if not known:
        return None
    score, row = max(known, key=lambda pair: pair[0])
    return score, _time_of(row)


def _of_frames(decision: Decision, frames: list[Row]) -> list[str]:
    """Reasons of frames' own that the maxima do not show: errors and warnings."""
    own = [
        at_place(reason, _time_of(row))
        for row in frames
        if row.decision is decision
        for reason in row.reasons
        if reason.startswith(("error ", "warning "))
    ]
    more = len(own) - _REASONS_KEPT
    return own[:_REASONS_KEPT] + ([f"the same of {more} more frames"] if more > 0 else [])


def _none_scored(frames: list[Row]) -> ImageError:
    first = next(row.error for row in frames if row.error is not None)
    return ImageError(first.code, f"none of {len(frames)} frames could be scored: {first.message}")


def _frame_ref(ref: ImageRef, seconds: float) -> ImageRef:
    """Without the bytes: rows wait in batches, and so many images are too much to hold."""
    path = ref.path + b"!/" + timestamp(seconds).encode()
    return ImageRef(path, ref.warnings, location=Inline(b""), carried=ref.carried)


def timestamp(seconds: float) -> str:
    """HH:MM:SS.mmm"""
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}.{milliseconds % 1000:03}"


def _time_of(row: Row) -> str:
    return row.ref.path.rpartition(b"!/")[2].decode()


def _is_plainly_other(kind: str | None, head: bytes, name: bytes) -> bool:
    refused = refusal(kind, head, name)
    return refused is not None and refused[0] == ErrorCode.NOT_AN_IMAGE


def _sha256(fd: int) -> str:
    digest = hashlib.sha256()
    position = 0
    while block := os.pread(fd, _HASHED_AT_ONCE, position):
        digest.update(block)
        position += len(block)
    return digest.hexdigest()
