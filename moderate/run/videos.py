"""Videos in a run: a file becomes its frames between two markers, their rows become its row."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from moderate.decode.sniff import HEAD_BYTES, claimed_format, refusal, sniff
from moderate.decode.video import (
    PassedOverError,
    Still,
    StopLevel,
    VideoError,
    VideoSampler,
    video_kind,
)
from moderate.fetch.local import FetchError, OpenFile, open_regular, os_error
from moderate.levels import most_severe
from moderate.policy.batch import Judged, UndecidedRow
from moderate.policy.judge import Judge
from moderate.policy.reasons import BLOCK_LIST, at_place, label_term
from moderate.policy.rows import decided_row, judge_rows
from moderate.run.segments import frame_seconds, segments
from moderate.text import timestamp
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
    """The rows from here to the next VideoEnd are those of frames of one video.

    Whoever has set `stopped` wants no further frame; those on their way still come.
    """

    stopped: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """A frame to decode like any image, or why there is none at its time.

    scope is empty, or tells the videos of a run apart: then frames of other videos do not count as
    copies of this one.
    """

    ref: ImageRef
    facts: ImageFacts
    data: bytes | None
    error: ImageError | None = None
    scope: bytes = b""


@dataclass(frozen=True, slots=True)
class VideoEnd:
    """What is known of the video itself. error is for a video without any frame.

    every is how far apart its frames are, in seconds; 0 where it has none.
    """

    ref: ImageRef
    facts: ImageFacts
    error: ImageError | None = None
    every: float = 0.0


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
        yield from _sampled(ref, facts, sampler, file.fd, kind)
    finally:
        os.close(file.fd)


def _sampled(
    ref: ImageRef, facts: ImageFacts, sampler: VideoSampler, fd: int, kind: str
) -> Iterator[VideoPart]:
    begin = VideoBegin()
    yield begin
    count = 0
    still: Still | None = None
    frame_facts = ImageFacts(warnings=ref.warnings, format=facts.format)
    error: ImageError | None = None
    # Of a video that ends early, some frames are read that get no row, more or fewer of them as
    # chance has it: the row of no other video may name one as that which it is a copy of.
    may_stop = sampler.options.stop_on != "never"
    scope = hashlib.sha256(ref.path).digest() + os.urandom(16) if may_stop else b""
    try:
        with contextlib.closing(sampler.sample(fd, kind)) as stills:
            for still in stills:
                if count == 0:
                    facts = replace(facts, width=still.width, height=still.height)
                count += 1
                frame_ref = _frame_ref(ref, still.seconds)
                yield VideoFrame(frame_ref, frame_facts, still.data, scope=scope)
                # Set by the thread that decides on rows; this thread goes on reading meanwhile.
                if begin.stopped.is_set():
                    break
    except VideoError as broke:
        error = ImageError(broke.code, str(broke))
        if count:
            facts = replace(facts, warnings=(*facts.warnings, Warn.VIDEO_INCOMPLETE))
        if count and still and not isinstance(broke, PassedOverError):
            broken_at = _frame_ref(ref, still.seconds + still.every)
            yield VideoFrame(broken_at, frame_facts, None, error)
    if still is None:
        no_frame = ImageError(ErrorCode.CORRUPT_IMAGE, "there is no frame in it")
        yield VideoEnd(ref, facts, error or no_frame)
        return
    seconds = sampler.seconds
    duration = still.seconds + still.every if seconds is None else seconds
    yield VideoEnd(ref, replace(facts, frames=count, duration=duration), every=still.every)


def not_local(kind: str | None, head: bytes, name: bytes) -> str | None:
    """Why a video that did not come from a local file is refused where others are sampled."""
    if video_kind(kind, claimed_format(name)) and not _is_plainly_other(kind, head, name):
        return "videos are read from local files only"
    return None


@dataclass(slots=True)
class VideoRows:
    """Follows the rows of a run in their order, and gives each video its own.

    Belongs to the thread that decides on rows. A video that is to end with the first frame whose
    decision is as severe as stop_on is told so here. Which frames after that one are on their way
    by then is chance, so none of them gets a row: the rows are the same in every run.
    """

    judge: Judge
    run_id: str = ""
    stop_on: StopLevel = "never"
    level_labels: tuple[str, ...] = ()
    _frames: list[Row] | None = None
    _begin: VideoBegin | None = None
    _has_stopped: bool = False

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
            self._begin, self._frames, self._has_stopped = item, [], False
            return None
        if isinstance(item, VideoEnd):
            frames, self._frames = self._frames or [], None
            end = _as_stopped(item, frames) if self._has_stopped else item
            video = Video.of(end, frames, self.level_labels)
            self._begin, self._has_stopped = None, False
            (judged,) = judge_rows(self.judge, [video.row])
            return video.decided(judged, self.judge, self.run_id)
        if self._frames is not None:
            if self._has_stopped:
                return None
            self._frames.append(item)
            if self._begin and self._ends_video(item):
                self._begin.stopped.set()
                self._has_stopped = True
        return item

    def _ends_video(self, row: Row) -> bool:
        """Whether the rest of the video is not to be scored. An error ends none by itself."""
        if self.stop_on == "never" or row.error is not None:
            return False
        return row.decision.severity >= Decision(self.stop_on).severity


def _as_stopped(end: VideoEnd, frames: list[Row]) -> VideoEnd:
    """The end of a video after these frames, without what was found out in the frames after."""
    facts = replace(
        end.facts,
        frames=len(frames),
        warnings=(*end.ref.warnings, Warn.VIDEO_STOPPED),
        duration=round(frame_seconds(frames[-1]) + end.every, 3),
    )
    return VideoEnd(end.ref, facts, every=end.every)


@dataclass(frozen=True, slots=True)
class Video:
    """A video whose frames are decided.

    row has the maximum of each category and label, and at which time it was, or an error where no
    frame was scored. Its scores of rating levels are those of the frame with the most severe level.
    """

    row: UndecidedRow
    frames: list[Row]

    @classmethod
    def of(cls, end: VideoEnd, frames: list[Row], level_labels: Sequence[str] = ()) -> Video:
        """The video that ends after these frames. level_labels are those of rating levels."""
        good = [row for row in frames if row.error is None]
        if not good:
            error = end.error or _none_scored(frames)
            return cls(UndecidedRow(end.ref, end.facts, UNSCORED, error), frames)
        facts = end.facts
        if len(good) < len(frames) and Warn.VIDEO_INCOMPLETE not in facts.warnings:
            facts = replace(facts, warnings=(*facts.warnings, Warn.VIDEO_INCOMPLETE))
        facts = replace(facts, frames_scored=len(good))
        scores: dict[Category, float | None] = dict(UNSCORED)
        times: dict[str, str] = {}
        for category in CATEGORIES:
            if highest := _highest((row.scores[category], row) for row in good):
                scores[category], times[category.value] = highest
        labels: dict[str, float | None] = {}
        decisive = _most_severe(good, level_labels)
        for name in good[0].labels:
            rows = [decisive] if decisive and name in level_labels else good
            if highest := _highest((row.labels.get(name), row) for row in rows):
                labels[name], times[label_term(name)] = highest
        return cls(
            UndecidedRow(
                end.ref,
                facts,
                scores,
                labels=labels,
                origin=video_origin(row.origin for row in good),
                scored_at=max((row.scored_at for row in good if row.scored_at), default=None),
                places=times,
            ),
            frames,
        )

    def decided(self, judged: Judged, judge: Judge, run_id: str = "") -> Row:
        """The video's row: the worst decision, and when.

        judged is what the policy of `judge` makes of `row`. The decision is the worst of that and
        of the frames' own, among which those that failed have on_error; or that of the list which
        the file is on.
        """
        row = decided_row(self.row, judged, run_id)
        if row.error is not None:
            return row
        row = replace(row, segments=segments(judge, row, self.frames))
        if judged.listed:
            return row
        decision = row.decision
        reasons = list(row.reasons)
        worst = max((frame.decision for frame in self.frames), key=lambda one: one.severity)
        if worst.severity > decision.severity:
            decision, reasons = worst, []
        if decision is not Decision.APPROVE:
            reasons += _of_frames(decision, self.frames)
        if Warn.VIDEO_STOPPED in row.facts.warnings:
            reasons.append(at_place("stopped by --video-stop-on", _time_of(self.frames[-1])))
        return replace(row, decision=decision, reasons=tuple(reasons))


def video_origin(frames: Iterable[Origin]) -> Origin:
    """That of a video, by its frames': new where any is, as it is looked at in every run."""
    origins = set(frames)
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


def _most_severe(frames: Sequence[Row], level_labels: Sequence[str]) -> Row | None:
    """The frame with the most severe rating level; None where no frame has scores of levels."""
    rated: list[tuple[Row, list[float]]] = []
    for row in frames:
        shares = [row.labels.get(name) for name in level_labels]
        known = [share for share in shares if share is not None]
        if known and len(known) == len(level_labels):
            rated.append((row, known))
    return rated[most_severe([shares for _, shares in rated])][0] if rated else None


def _of_frames(decision: Decision, frames: list[Row]) -> list[str]:
    """Reasons of frames' own that the maxima do not show: errors, warnings, lists."""
    own = [
        at_place(reason, _time_of(row))
        for row in frames
        if row.decision is decision
        for reason in row.reasons
        if reason.startswith(("error ", "warning ", BLOCK_LIST))
    ]
    more = len(own) - _REASONS_KEPT
    return own[:_REASONS_KEPT] + ([f"the same of {more} more frames"] if more > 0 else [])


def _none_scored(frames: list[Row]) -> ImageError:
    first = next(row.error for row in frames if row.error is not None)
    return ImageError(first.code, f"none of {len(frames)} frames could be scored: {first.message}")


def _frame_ref(ref: ImageRef, seconds: float) -> ImageRef:
    """Without the bytes: rows wait in batches, and so many images are too much to hold."""
    path = ref.path + b"!/" + timestamp(seconds).encode()
    return ImageRef(path, ref.warnings, location=Inline(b""), carried=ref.carried, within=ref)


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
