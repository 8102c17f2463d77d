"""A look ahead at a scan: what its inputs are and what is known of them. Nothing is scored."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from moderate.classify.device import Placement, place
from moderate.decode.sniff import HEAD_BYTES, claimed_format, refusal, sniff
from moderate.decode.video import video_kind
from moderate.decode.video_length import declared_seconds, frame_count
from moderate.errors import InputError
from moderate.fetch.fetcher import Fetcher
from moderate.fetch.local import FetchError, read_start, too_large
from moderate.run.highlights import Highlights
from moderate.run.input_counts import nothing_found, nothing_was_there
from moderate.run.inputs import Listed, Reader
from moderate.run.interface import Job
from moderate.run.items import Copy, Fetched
from moderate.run.known_rows import Known
from moderate.run.opinion_shares import OpinionShare, opinion_shares
from moderate.run.recorder import look_at_state
from moderate.run.resources import make_sampler
from moderate.run.scan import input_names
from moderate.run.scopes import scopes
from moderate.run.speeds import Estimate, estimate, known_speeds
from moderate.run.summary import EXAMPLES_KEPT, idle_note
from moderate.run.videos import VideoEnd, open_video
from moderate.sources.archive import ArchiveSource
from moderate.sources.hints import InputHints
from moderate.sources.interface import Source
from moderate.sources.resolve import FileSource
from moderate.sources.subset import FilteredSource, ShardedSource
from moderate.state.contents import Contents
from moderate.state.run_scores import RunScores
from moderate.text import one_line, path_text, printable
from moderate.types import (
    ErrorCode,
    ImageError,
    ImageRef,
    Inline,
    Skipped,
    StoredObject,
    Url,
)

MOST_INPUTS = 50
"""Inputs that are counted apart; the others are counted together."""

NOT_FETCHED, NOT_READ, UNKNOWN = "not fetched", "not read", "none"
"""The formats of images elsewhere, of those in the rows of Parquet files, and of what is none."""


@dataclass(slots=True)
class Amount:
    """How many images there are of something, how many bytes as far as that is known, and how many
    of them are known, so that nothing is scored for them."""

    images: int = 0
    nbytes: int = 0
    known: int = 0


@dataclass(slots=True)
class InputAmount:
    """The images of one input, or of all named files together."""

    name: str
    kind: str
    amount: Amount = field(default_factory=Amount)


@dataclass(slots=True)
class DryRun:
    """What a scan would find; the counts mean what those of `Summary` do. Sizes are in bytes.

    rows counts videos once; known are those of the rows whose outcome the state has, errors those
    that are known or foreseen to have no scores. unread counts rows that are fetched from
    elsewhere, and unread_rows those of Parquet files. copies is None where files are not read.
    video_frames is about how many frames videos have, but for unknown_videos, which do not say how
    long they are. to_score counts images and frames for which work is left, second opinions aside.
    """

    placement: Placement
    highlights: Highlights
    verified: bool
    may_be_empty: bool
    inputs: list[InputAmount] = field(default_factory=list)
    input_count: int = 0
    formats: dict[str, Amount] = field(default_factory=dict)
    rows: int = 0
    known: int = 0
    errors: int = 0
    to_score: int = 0
    unread: int = 0
    unread_rows: int = 0
    copies: int | None = None
    videos: int = 0
    video_frames: int = 0
    unknown_videos: int = 0
    limited: bool = False
    error_codes: Counter[str] = field(default_factory=Counter)
    error_examples: dict[str, list[str]] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    left_out_scored: int = 0
    missing_inputs: int = 0
    unreadable: list[str] = field(default_factory=list)
    unreadable_count: int = 0
    input_notes: list[str] = field(default_factory=list)
    estimate: Estimate | None = None
    second: tuple[OpinionShare, ...] = ()

    @property
    def scored(self) -> int:
        """Rows that are not known or foreseen to be errors."""
        return self.rows - self.errors

    @property
    def error_rate(self) -> float:
        """Share of rows that are known or foreseen to be errors, 0.0 to 1.0."""
        return self.errors / self.rows if self.rows else 0.0

    @property
    def nbytes(self) -> int:
        """Of all images whose size is known."""
        return sum(amount.nbytes for amount in self.formats.values())

    def count_skipped(self, skipped: Skipped) -> None:
        """Take one file that gets no row into the counts."""
        self.skipped[skipped.reason.value] += 1
        self.highlights.count_skipped(skipped)

    def count_error(self, ref: ImageRef, error: ImageError) -> None:
        """Take in that this row has no scores, or will have none."""
        self.errors += 1
        self.error_codes[error.code.value] += 1
        shown = path_text(ref.display)
        examples = self.error_examples.setdefault(error.code.value, [])
        if len(examples) < EXAMPLES_KEPT:
            examples.append(shown)
        if ref.whole_input:
            self.unreadable_count += 1
            self.missing_inputs += error.code is ErrorCode.NOT_FOUND
            if len(self.unreadable) < EXAMPLES_KEPT:
                self.unreadable.append(f"{printable(shown)} ({one_line(error.message)})")


@dataclass(slots=True)
class _Image:
    """What is seen of one image: its format and bytes, and the error that is foreseen.

    work is how many images or frames there are to score.
    """

    format: str
    nbytes: int = 0
    known: bool = False
    error: ImageError | None = None
    work: int = 1


def look_ahead(job: Job) -> DryRun:
    """List and sniff the inputs of a job, and look up what is known. Writes nothing.

    With job.options.verify, files are read to the end, as the run would; else archives give only
    the start of their members. Raises InputError where a run would find nothing, and what a run
    raises for inputs that cannot be read on.
    """
    options = job.options
    placement = place(options.device, options.precision, options.backend, job.bundle.kinds)
    names = input_names(options)
    found = DryRun(
        placement,
        Highlights.of(names, options.targets),
        options.verify,
        any(source.may_be_empty for source in job.sources),
        copies=0 if options.verify else None,
    )
    with ExitStack() as stack:
        store, ledger = stack.enter_context(look_at_state(options.state))
        contents = None
        if options.verify:
            contents = Contents()
            stack.callback(contents.close)
        scores = None
        if store:
            scores = RunScores(
                store,
                scopes(job, placement),
                rescore=options.rescore,
                retry_errors=options.retry_errors,
                hashed=job.hashes,
                read_only=True,
            )
        fetcher = stack.enter_context(Fetcher(options.limits, options.http))
        look = _Look(job, found, fetcher, scores, contents)
        sources = job.sources if options.verify else [_heads_only(each) for each in job.sources]
        for name, kind, group in _grouped(sources):
            if not look.count(name, kind, group):
                found.limited = True
                break
        found.input_notes = look.hints.notes()
        if idle := [n for n in job.bundle.card.own_categories if n not in job.judge.own]:
            found.input_notes.append(idle_note(job.policy.policy, idle))
        if nothing_was_there(found):
            raise InputError(nothing_found(found))
        fetched = 2 * found.unread > found.rows
        speeds = known_speeds(ledger, job, placement, fetched=fetched)
        found.estimate = estimate(speeds, found.to_score)
        found.second = opinion_shares(ledger, job)
    return found


class _Look:
    """Counts the inputs of a job, one source after the other."""

    def __init__(
        self,
        job: Job,
        found: DryRun,
        fetcher: Fetcher,
        scores: RunScores | None,
        contents: Contents | None,
    ) -> None:
        self._job = job
        self._found = found
        self._fetcher = fetcher
        self._scores = scores
        self._contents = contents
        self.hints = InputHints(job.options.reading.walk)
        """What went wrong with how inputs were named."""

    def count(self, name: str, kind: str, sources: Sequence[Source]) -> bool:
        """Count all images of one input. False where --limit is reached."""
        found = self._found
        found.input_count += 1
        if len(found.inputs) < MOST_INPUTS:
            found.inputs.append(InputAmount(name, kind))
        else:
            found.inputs[-1].name, found.inputs[-1].kind = "others", ""
        amount = found.inputs[-1].amount
        if self._contents is None and (rows := _rows_of(sources)) is not None:
            left = self._left()
            rows = rows if left is None else min(rows, left)
            self._add(amount, _Image(NOT_READ, work=rows), rows)
            found.unread_rows += rows
            return self._left() != 0
        sampler = make_sampler(self._job)
        job = replace(self._job, sources=sources)
        reader = Reader(job, self._fetcher, sampler, self._contents)
        reader.hints = self.hints
        reader.begin(self._scores)
        for listed in reader.listed():
            if isinstance(listed.entry, Skipped):
                found.count_skipped(listed.entry)
                continue
            image = self._image(listed.entry, listed, reader)
            self._add(amount, image, 1)
            if image.error:
                found.count_error(listed.entry, image.error)
            if self._left() == 0:
                break
        return self._left() != 0

    def _left(self) -> int | None:
        limit = self._job.options.limit
        return None if limit is None else limit - self._found.rows

    def _add(self, amount: Amount, image: _Image, rows: int) -> None:
        found = self._found
        found.rows += rows
        found.known += rows * image.known
        found.to_score += image.work
        for each in (amount, found.formats.setdefault(image.format, Amount())):
            each.images += rows
            each.nbytes += image.nbytes
            each.known += rows * image.known

    def _image(self, ref: ImageRef, listed: Listed, reader: Reader) -> _Image:
        if listed.known:
            return _known_image(listed.known)
        if ref.error:
            return _Image(UNKNOWN, error=ref.error, work=0)
        if isinstance(ref.location, Url | StoredObject):
            self._found.unread += 1
            return _Image(NOT_FETCHED)
        try:
            if isinstance(ref.location, Inline):
                data, size = ref.location.data, ref.location.start_of
                head, nbytes = data[:HEAD_BYTES], len(data) if size is None else size
            else:
                head, nbytes = read_start(ref.path, HEAD_BYTES, follow_symlinks=ref.follow_symlinks)
        except FetchError as error:
            explained = reader.hints.with_hint(ref, error.error)
            return _Image(UNKNOWN, error.size or 0, error=explained, work=0)
        image = self._sniffed(ref, head, nbytes)
        if self._contents is None or image.error or image.work != 1 or image.format == UNKNOWN:
            return image
        return self._examined(reader, listed, image)

    def _sniffed(self, ref: ImageRef, head: bytes, nbytes: int) -> _Image:
        """By its first bytes, with the errors that they show, as `Reader` has them."""
        kind, options = sniff(head), self._job.options
        shown = kind or UNKNOWN
        is_video = options.video and video_kind(kind, claimed_format(ref.name))
        if is_video and (frames := self._video_frames(ref)) is not None:
            return replace(frames, nbytes=nbytes)
        error = None
        if refused := refusal(kind, head, ref.name, options.formats):
            code, message = refused
            error = ImageError(ErrorCode(code), message)
        if nbytes > options.limits.max_file_bytes:
            error = too_large(nbytes, options.limits.max_file_bytes)
        elif not head:
            error = ImageError(ErrorCode.EMPTY_FILE, "the file is empty")
        return _Image(shown, nbytes, error=error, work=0 if error else 1)

    def _video_frames(self, ref: ImageRef) -> _Image | None:
        """A video with its frames; None for what is not a local video."""
        options = self._job.options.video
        assert options is not None
        opened = open_video(ref, options.max_bytes)
        if opened is None:
            return None
        self._found.videos += 1
        if isinstance(opened, VideoEnd):
            return _Image(opened.facts.format or UNKNOWN, error=opened.error, work=0)
        file, sniffed, kind = opened
        with os.fdopen(file.fd, "rb") as stream:
            try:
                seconds = declared_seconds(stream, kind)
            except OSError:
                seconds = None
        frames = 0 if seconds is None else frame_count(seconds, options)
        self._found.video_frames += frames
        self._found.unknown_videos += seconds is None
        return _Image(sniffed or kind, work=frames)

    def _examined(self, reader: Reader, listed: Listed, image: _Image) -> _Image:
        """The image after it was read to its end, and compared with the others."""
        item = reader.examined(listed, self._found.rows)
        match item:
            case Known():
                return replace(_known_image(item), nbytes=image.nbytes)
            case Copy():
                self._found.copies = (self._found.copies or 0) + 1
                return replace(image, work=0)
            case Fetched() if item.error:
                return replace(image, error=item.error, work=0)
        return image


def _known_image(known: Known) -> _Image:
    result = known.outcome.result
    return _Image(
        known.facts.format or UNKNOWN,
        known.facts.bytes or 0,
        known=True,
        error=result if isinstance(result, ImageError) else None,
        work=0,
    )


def _heads_only(source: Source) -> Source:
    """The source, which gives only the start of each member where it is an archive."""
    match source:
        case ArchiveSource():
            return replace(source, heads_only=True)
        case ShardedSource() | FilteredSource():
            return replace(source, source=_heads_only(source.source))
    return source


def _rows_of(sources: Sequence[Source]) -> int | None:
    return sources[0].image_count() if len(sources) == 1 else None


def _grouped(sources: Sequence[Source]) -> Iterator[tuple[str, str, list[Source]]]:
    """Name, kind and sources of each input; files that follow each other are one."""
    files: list[Source] = []
    for source in sources:
        inner = source
        while (wrapped := getattr(inner, "source", None)) is not None:
            inner = wrapped
        if isinstance(inner, FileSource):
            files.append(source)
            continue
        if files:
            yield *_of_files(files), files
            files = []
        name = path_text(inner.label) or "standard input"
        yield name, inner.kind, [source]
    if files:
        yield *_of_files(files), files


def _of_files(sources: Sequence[Source]) -> tuple[str, str]:
    if len(sources) == 1:
        return path_text(sources[0].label), "file"
    return f"{len(sources):,} named files", "files"
