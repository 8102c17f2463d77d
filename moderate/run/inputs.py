"""Reading: every input with its bytes, or with what an earlier run or row knows of them.

The reader works on the pool's reading thread. Bytes that are fetched from elsewhere are examined on
the thread that they come in on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256

import numpy as np

from moderate.decode.intake import Coming
from moderate.decode.sniff import HEAD_BYTES, SUPPORTED, claimed_format, refusal, sniff
from moderate.decode.video import VideoSampler, video_kind
from moderate.errors import ModerateError
from moderate.faults import internal_error
from moderate.fetch.fetcher import Fetcher
from moderate.fetch.local import FetchError
from moderate.policy.batch import Encoded
from moderate.run.embedded import EmbeddedFiles, embedded_video
from moderate.run.groups import Group, LocalRefs
from moderate.run.interface import Job, is_sharded
from moderate.run.items import Block, Copy, Fetched, Images, Item, Unread, row_count
from moderate.run.known_rows import Known, KnownRows
from moderate.run.local_files import UNREAD, LocalFile, LocalFiles, LookedUp, is_local
from moderate.run.videos import (
    VideoBegin,
    VideoEnd,
    VideoFrame,
    VideoPart,
    not_local,
    open_video,
    video_parts,
)
from moderate.sources.folder_files import FolderFiles
from moderate.sources.hints import InputHints
from moderate.sources.interface import Source
from moderate.sources.subset import INPUT_NUMBER, NO_CONTENT, InputListing, ShardedSource
from moderate.state.contents import Contents
from moderate.state.records import Outcome, ScoredContents
from moderate.state.run_scores import RunScores
from moderate.state.scores import MOST_KEYS
from moderate.text import path_text, printable
from moderate.types import (
    ErrorCode,
    ImageError,
    ImageFacts,
    ImageRef,
    Inline,
    Origin,
    Scores,
    Skipped,
    Warn,
)

log = logging.getLogger(__name__)

_LOOK_EVERY = 0.5  # seconds; whether the run is over, while bytes are waited for
_BLOCK_ROWS = 1024  # of inputs that need no decoding and travel together
_LOOKED_UP_TOGETHER = 1024  # inputs; MOST_KEYS after those that were all unchanged


@dataclass(frozen=True, slots=True)
class Listed:
    """An input that was not read: local is its file as the state knows it, known its outcome."""

    entry: ImageRef | Skipped
    local: LocalFile | None
    known: Known | None


class Reader:
    """Reads the inputs of a job, once.

    Belongs to the reading thread. The caller's thread calls `begin`, which `images` waits for, and
    `stop` at the end.
    `_arrive`, on the thread that fetched bytes come in on, uses only what is safe to share: the
    contents, the scores, and the hints for what is not local.
    """

    def __init__(
        self,
        job: Job,
        fetcher: Fetcher,
        sampler: VideoSampler | None = None,
        contents: Contents | None = None,
        on_limit: Callable[[], None] = lambda: None,
        *,
        most_explained: int | None = None,
        wants: Callable[[Scores | ImageError], bool] | None = None,
    ) -> None:
        """contents is None where copies need not be detected.

        wants says of an outcome whether there is to be a second opinion on it: then the item keeps
        bytes that cannot be read again. It is asked on any thread; None for no second opinions.
        most_explained is how many missing paths are looked into; None for the usual number.
        """
        self._job = job
        self._fetcher = fetcher
        self._sampler = sampler
        self._contents = contents
        self._on_limit = on_limit
        self._wants = wants
        self._embedded_kinds = job.decode_options.embedded_scored
        self._content: bytes | None = None  # of the file read last, where its kinds are scored
        self._begun = threading.Event()
        self._begun_at = 0  # seconds since 1970
        self._stopped = False  # set by the caller's thread
        self._scores: RunScores | None = None
        self._position = 0
        self._local_files = LocalFiles(verify=job.options.verify)
        self._unnoticed = False
        self._block: list[Known | KnownRows | Skipped] = []
        self._block_rows = 0
        self.hints = InputHints(job.options.reading.walk, most_explained)
        """What went wrong with how inputs were named. Complete after the last image."""
        self._group_size = _LOOKED_UP_TOGETHER
        self._sharded = is_sharded(job.sources)
        self.listing = InputListing()
        """All inputs, where they are read by shares. Complete after the last image."""

    def begin(self, scores: RunScores | None) -> None:
        """Let `images` read. scores is what earlier runs know; None where that is not used."""
        self._scores = scores
        self._begun_at = int(time.time())
        self._begun.set()

    def stop(self) -> None:
        """Let the reading thread end: the run is over, and what it used may be closed.

        The thread may be in the middle of an image, of which nothing more is to be said.
        """
        self._stopped = True
        self._begun.set()

    def images(self) -> Images:
        """Every input with its bytes, or their future; with None where nothing is to be decoded.

        Stops after job.options.limit images, and calls `on_limit` then. A video has the items that
        `video_parts` gives.
        """
        self._begun.wait()
        rows, limit = 0, self._job.options.limit
        block_rows = _BLOCK_ROWS if self._scores else 1
        for group in self._groups():
            looked_up = self._local_files.look_up(group, self._scores)
            runs = self._unchanged_runs(group, looked_up)
            all_unchanged = sum(map(len, runs.values())) == len(group)
            self._group_size = MOST_KEYS if all_unchanged else _LOOKED_UP_TOGETHER
            index = 0
            while index < len(group):
                if self._stopped:
                    return
                unchanged = runs.get(index)
                if unchanged is not None:
                    index += len(unchanged)
                    if limit is not None:
                        unchanged = unchanged.part(0, min(len(unchanged), limit - rows))
                    self._block.append(unchanged)
                    self._block_rows += len(unchanged)
                    rows += len(unchanged)
                elif isinstance(entry := group[index], Skipped):
                    index += 1
                    self.hints.note_skipped(entry)
                    self._block.append(entry)
                    self._block_rows += 1
                else:
                    index += 1
                    if self._sampler and self._sampler.closed:
                        return
                    local = looked_up[index - 1]
                    if known := self._known(entry, local):
                        self._block.append(known)
                        self._block_rows += 1
                    else:
                        yield from self._flush()
                        yield from self._contained(entry, self._unknown(entry, local))
                    rows += 1
                if rows == limit:
                    yield from self._flush()
                    self._on_limit()
                    return
                if self._block_rows >= block_rows:
                    yield from self._flush()
            if len(group) < _LOOKED_UP_TOGETHER:
                yield from self._flush()
        yield from self._flush()

    def _unchanged_runs(self, group: Group, looked_up: LookedUp) -> dict[int, KnownRows]:
        """Unchanged files of a group that follow each other, by the place of the first."""
        # A video has rows of its own, and what files carry or hold is looked at one by one.
        if self._embedded_kinds or self._sampler or self._job.input_columns:
            return {}
        try:
            return self._found_unchanged(group, looked_up)
        except Exception as error:  # noqa: BLE001 - they are looked at one by one then
            log.warning("what is known of unchanged files cannot be used at once: %s", error)
            return {}

    def _found_unchanged(self, group: Group, looked_up: LookedUp) -> dict[int, KnownRows]:
        files = looked_up.unchanged(len(self._job.labels))
        if files is None:
            return {}
        heads, limits = files.contents.heads, self._job.options.limits
        # As in `_may_use`; float64 is exact up to 2**53 pixels.
        pixels = np.maximum(heads["width"], 0) * np.maximum(heads["height"], 0).astype(float)
        usable = (heads["bytes"] <= limits.max_file_bytes) & (pixels <= limits.max_pixels)
        if not usable.all():
            files = files.take(usable)
        if not len(files):
            return {}
        refs = LocalRefs(group, files.places)
        used: list[tuple[bytes, bytes] | None] = []
        if any(files.stale):
            paths = dict(zip(looked_up.places, looked_up.paths, strict=True))
            used = [
                (paths[place], digest) if stale else None
                for place, digest, stale in zip(
                    files.places, files.sha256, files.stale, strict=True
                )
            ]
        warnings = _all_named(refs, files.contents, self._job.options.formats)
        rows = KnownRows(refs, files.sha256, files.contents, warnings, used)
        places = np.array(files.places)
        starts = np.flatnonzero(np.diff(places, prepend=-2) != 1).tolist()
        ends = [*starts[1:], len(rows)]
        return {
            files.places[start]: rows.part(start, end)
            for start, end in zip(starts, ends, strict=True)
        }

    def listed(self) -> Iterator[Listed]:
        """Every input as `images` would come to it, with what the state knows of it.

        No image is read or fetched. `begin` comes before.
        """
        for group in self._groups():
            looked_up = self._local_files.look_up(group, self._scores)
            for entry, local in zip(group, looked_up, strict=True):
                if isinstance(entry, Skipped):
                    self.hints.note_skipped(entry)
                    yield Listed(entry, None, None)
                else:
                    yield Listed(entry, local, self._known(entry, local))

    def examined(self, listed: Listed, position: int) -> Item:
        """What becomes of an image that is read, and compared with those at lower positions.

        It has to be on this machine.
        """
        assert isinstance(listed.entry, ImageRef)
        self._position = position
        item, _ = self._fetch(listed.entry, listed.local)
        return item

    def _groups(self) -> Iterator[Group]:
        """Inputs that are looked up together. One that may have to be waited for comes alone."""
        group = Group()
        columns = [column.name for column in self._job.input_columns]
        for source in self._job.sources:
            names = [column.name for column in source.columns]
            alone = self._scores is None or not _is_prompt(source)
            if alone and group:
                yield group
                group = Group()
            if not (alone or names or columns or self._sharded):
                for part in source.parts():
                    while isinstance(part, FolderFiles) and len(part) > (
                        room := self._group_size - len(group)
                    ):
                        group.add(part.part(0, room))
                        yield group
                        part, group = part.part(room, len(part)), Group()
                    group.add(part)
                    is_elsewhere = not (isinstance(part, FolderFiles) or is_local(part))
                    if is_elsewhere or len(group) == self._group_size:
                        yield group
                        group = Group()
                continue
            for entry, number in self._numbered(source):
                entry = with_columns(entry, names, columns, number)
                group.add(entry)
                if alone or len(group) == self._group_size or not is_local(entry):
                    yield group
                    group = Group()
        if group:
            yield group

    def _numbered(self, source: Source) -> Iterator[tuple[ImageRef | Skipped, int | None]]:
        """The inputs of a source, with their numbers where it is a share."""
        if isinstance(source, ShardedSource):
            yield from source.placed(self.listing)
        else:
            for entry in source:
                yield entry, None

    def _known(self, ref: ImageRef, local: LocalFile | None) -> Known | None:
        """The outcome of a file that is unchanged since; None where there is none to reuse.

        Nor where what is embedded in files has rows: for them, each file has to be read.
        """
        if self._embedded_kinds:
            return None
        try:
            return self._unchanged(ref, local)
        except Exception as error:  # noqa: BLE001 - it is read like any other file then
            log.warning("what is known of %s cannot be used: %s", _shown(ref), error)
            return None

    def _unchanged(self, ref: ImageRef, local: LocalFile | None) -> Known | None:
        known = local.known if local else None
        if local is None or known is None or known.outcome is None or known.stat != local.stat:
            return None
        if not local.trusted:
            return None
        outcome = known.outcome
        if not self._may_use(outcome, ref):
            return None
        facts = outcome.facts
        if warnings := _named(ref, facts, self._job.options.formats):
            facts = _facts(warnings, facts)
        used = (local.path, known.sha256) if known.stale else None
        return Known(ref, facts, outcome, known.sha256, used=used)

    def _contained(self, ref: ImageRef, items: Images) -> Images:
        """The items of one image or video. What goes wrong with them becomes its error."""
        video_is_open = False
        try:
            for item, data in items:
                video_is_open = isinstance(item, VideoBegin) or (
                    video_is_open and not isinstance(item, VideoEnd)
                )
                yield item, data
        except ModerateError:
            raise
        except Exception as error:  # noqa: BLE001 - no exception about one image ends a run
            if self._stopped:
                return
            facts = ImageFacts(warnings=ref.warnings)
            yield self._counted(Fetched(ref, facts, internal_error(ref, "reading", error))), None
            if video_is_open:  # one of its frames is missing, so that it cannot be approved
                incomplete = ImageFacts(warnings=(*ref.warnings, Warn.VIDEO_INCOMPLETE))
                yield self._counted(VideoEnd(ref, incomplete)), None

    def _unknown(self, ref: ImageRef, local: LocalFile | None) -> Images:
        """The items of one image or video."""
        parts = self._video(ref)
        if parts is None:
            item, data = self._fetch(ref, local)
            content, self._content = self._content, None
            yield self._counted(item), data
            if content is not None:
                yield from self._embedded(EmbeddedFiles(ref, content, self._embedded_kinds))
        else:
            for part in parts:
                item, data = self._part(part)
                yield self._counted(item), data

    def _embedded(self, files: EmbeddedFiles) -> Images:
        """The items of what is embedded in the file of an image, whose own item comes before."""
        for file in files:
            if file.error:
                failed = Fetched(file.ref, ImageFacts(warnings=file.ref.warnings), file.error)
                yield self._counted(failed), None
            elif file.is_video and self._sampler:
                for part in embedded_video(file, self._sampler):
                    item, data = self._part(part)
                    yield self._counted(item), data
            else:
                item, data = self._examine(file.ref, file.data, self._position, None)
                yield self._counted(item), data

    def _flush(self) -> Images:
        """The block of known images that has gathered, as one item."""
        items, self._block, self._block_rows = self._block, [], 0
        if not items:
            return
        position = self._position
        claimants: list[tuple[Known | KnownRows, int]] = []
        claims: list[tuple[bytes, int, bytes]] = []
        for item in items:
            if isinstance(item, Known):
                claims.append((item.sha256, position, item.ref.display))
                claimants.append((item, 1))
            elif isinstance(item, KnownRows):
                positions = range(position, position + len(item))
                claims += zip(item.sha256, positions, item.refs.shown, strict=True)
                claimants.append((item, len(item)))
            position += row_count(item)
        self._position = position
        found = (self._contents.claim_all(claims) if self._contents else None) or []
        start = 0
        for item, count in claimants if found else ():
            theirs = found[start : start + count]
            start += count
            if isinstance(item, KnownRows):
                item.note_claims(theirs)
                continue
            (claim,) = theirs
            item.duplicate_of = claim.first
            if not (claim.owner or claim.reused):
                item.origin = Origin.DUPLICATE
        yield Block(items), None

    def _counted(self, item: Item) -> Item:
        self._position += 1
        return item

    def _may_use(self, outcome: Outcome, ref: ImageRef) -> bool:
        """Whether this job, with its limits, would come to the same outcome."""
        facts, limits = outcome.facts, self._job.options.limits
        if (facts.bytes or 0) > limits.max_file_bytes:
            return False
        if isinstance(outcome.result, ImageError):
            if self._sampler and video_kind(facts.format, claimed_format(ref.name)):
                return False  # perhaps refused when it was no local file, but sampled as one
            return not outcome.claim or outcome.claim == name_claim(ref)
        return (facts.width or 0) * (facts.height or 0) <= limits.max_pixels

    def _video(self, ref: ImageRef) -> Iterator[VideoPart] | None:
        """The parts of a video; None for what is not a local video."""
        if self._sampler is None:
            return None
        opened = open_video(ref, self._sampler.options.max_bytes)
        if opened is None:
            return None
        if isinstance(opened, VideoEnd):
            return iter([opened])
        return video_parts(ref, *opened, self._sampler)

    def _part(self, part: VideoPart) -> tuple[Item, bytes | None]:
        if isinstance(part, VideoEnd):
            return replace(part, ref=self._of_content(part.ref, NO_CONTENT)), None
        if not isinstance(part, VideoFrame):
            return part, None
        if part.data is None:
            return Fetched(part.ref, part.facts, part.error), None
        ref = part.ref
        if self._sharded:
            digest = sha256(part.data).digest()
            content = sha256(part.scope + digest).digest() if part.scope else digest
            ref = self._of_content(ref, content.hex())
        item = Fetched(ref, part.facts)
        return self._deduplicated(item, part.data, self._position, None, scope=part.scope)

    def _of_content(self, ref: ImageRef, content: str) -> ImageRef:
        """The ref with what its row is a copy by, for a share's rows."""
        return replace(ref, carried=(*ref.carried[:-1], content)) if self._sharded else ref

    def _fetch(
        self, ref: ImageRef, local: LocalFile | None
    ) -> tuple[Item, bytes | Coming[Item] | None]:
        facts = ImageFacts(warnings=ref.warnings)
        if ref.error is not None:
            return Fetched(ref, facts, ref.error), None
        try:
            data = self._fetcher.fetch(ref)
            if self._embedded_kinds:
                # The rows of what is embedded come next, so that later images have to wait.
                data = self._content = self._awaited(data)
        except FetchError as error:
            return self._failed(ref, error, local), None
        if isinstance(ref.location, Inline):
            ref = replace(
                ref, location=replace(ref.location, data=b"")
            )  # so that its row does not keep the bytes
        if not isinstance(data, Future):
            return self._examine(ref, data, self._position, local)
        coming: Coming[Item] = Future()
        data.add_done_callback(partial(self._arrive, ref, coming, self._position))
        return Fetched(ref, facts), coming

    def _awaited(self, data: bytes | Future[bytes]) -> bytes:
        """The bytes, once they have come in. Raises FetchError."""
        while isinstance(data, Future) and not self._stopped:
            with contextlib.suppress(TimeoutError):
                data = data.result(timeout=_LOOK_EVERY)
        if isinstance(data, Future):
            raise FetchError(ImageError(ErrorCode.FETCH_FAILED, "the run is over"))
        return data

    def _arrive(
        self, ref: ImageRef, coming: Coming[Item], position: int, fetched: Future[bytes]
    ) -> None:
        """Called on the thread that the bytes came in on."""
        if self._stopped:
            return
        try:
            coming.set_result(self._examine(ref, fetched.result(), position, None))
        except FetchError as error:
            coming.set_result((self._failed(ref, error, None), None))
        except ModerateError as error:  # about the run, so raised where the run can be ended
            coming.set_exception(error)
        except Exception as error:  # noqa: BLE001 - no exception about one image ends a run
            if self._stopped:
                return
            facts = ImageFacts(warnings=ref.warnings)
            coming.set_result((Fetched(ref, facts, internal_error(ref, "fetching", error)), None))
        except BaseException as error:  # noqa: BLE001 - raised where the run can be ended
            coming.set_exception(error)

    def _failed(self, ref: ImageRef, error: FetchError, local: LocalFile | None) -> Fetched:
        facts = ImageFacts(warnings=ref.warnings, bytes=error.size)
        failed = Fetched(ref, facts, self.hints.with_hint(ref, error.error))
        digest = UNREAD.get(error.error.code)
        if local is None or digest is None:
            return failed
        known = local.known
        origin, used = Origin.NEW, None
        if local.has_other_content(digest):
            origin = Origin.CHANGED
        elif known and known.sha256 == digest and known.outcome:
            origin = Origin.REUSED
            used = (local.path, digest) if known.stale else None
        file = local.record(ref, digest) if origin != Origin.REUSED else None
        return replace(failed, file=file, origin=origin, unread=Unread(digest, used))

    def _examine(
        self, ref: ImageRef, data: bytes, position: int, local: LocalFile | None
    ) -> tuple[Item, bytes | None]:
        """What the bytes show before they are decoded."""
        head = data[:HEAD_BYTES]
        kind = sniff(head)
        digest = sha256(data)
        facts = ImageFacts(format=kind, bytes=len(data), sha256=digest.hexdigest())
        if isinstance(ref.location, Inline) and ref.location.from_pixels:
            facts = ImageFacts()
        facts = replace(facts, warnings=_named(ref, facts, self._job.options.formats))
        item = Fetched(ref, facts)
        if refused := refusal(kind, head, ref.name, self._job.options.formats):
            code, message = refused
            if self._sampler:
                message = not_local(kind, head, ref.name) or message
            item = replace(item, error=ImageError(ErrorCode(code), message))
        return self._deduplicated(item, data, position, local, digest.digest())

    def _deduplicated(
        self,
        item: Fetched,
        data: bytes,
        position: int,
        local: LocalFile | None,
        digest: bytes | None = None,
        *,
        scope: bytes = b"",
    ) -> tuple[Item, bytes | None]:
        """What becomes of a content: a known outcome, a copy of another image, or work.

        scope is that of `VideoFrame`: only images of the same scope count as copies.
        """
        if self._contents is None:
            return item, None if item.error else data
        digest = digest or sha256(data).digest()
        outcome = self._scores.by_content(digest) if self._scores else None
        if outcome and not self._may_use(outcome, item.ref):
            outcome = None
        claimed = sha256(scope + digest).digest() if scope else digest
        reused = outcome is not None
        claim = self._contents.claim(claimed, position, item.ref.display, reused=reused)
        changed = local is not None and local.has_other_content(digest)
        if changed and local and local.known and local.known.stat == local.stat:
            self._warn_of_unnoticed_change(item.ref)
        origin = Origin.NEW
        if changed:
            origin = Origin.CHANGED
        elif not claim.owner and not claim.reused:
            origin = Origin.DUPLICATE
        elif outcome and not (scope and (outcome.scored_at or 0) >= self._begun_at):
            origin = Origin.REUSED  # and not of another scope of this run
        file = local.record(item.ref, digest) if local else None
        # A refusal is not reused: its reason may depend on where the file came from.
        if outcome and not item.error:
            facts = _facts(item.facts.warnings, outcome.facts, item.facts)
            used = (b"", digest)
            kept = data if self._wants and self._wants(outcome.result) else None
            known = Known(item.ref, facts, outcome, digest, file, origin, claim.first, used)
            known.kept = None if is_local(item.ref) else kept
            return known, None
        # A copy must not wait for an outcome that was reused: if the state fails, nothing in this
        # run settles it any more.
        if claim.owner or claim.reused or item.error:
            item = replace(item, sha256=digest, file=file, origin=origin, duplicate_of=claim.first)
            if self._wants and not is_local(item.ref):
                item = replace(item, kept=data)
            return replace(item, claimed=claimed), None if item.error else data
        return Copy(item.ref, item.facts, claimed, file, origin, claim.first, digest), None

    def _warn_of_unnoticed_change(self, ref: ImageRef) -> None:
        """Name only the first such file, because all files may be of this sort."""
        if not self._unnoticed:
            self._unnoticed = True
            log.warning(
                "%s has another content than before, though its size and times are the same; it is "
                "scored as it is now, and so is every other such file (origin: changed)",
                _shown(ref),
            )


def _shown(ref: ImageRef) -> str:
    return printable(path_text(ref.display))


def with_columns(
    entry: ImageRef | Skipped,
    names: Sequence[str],
    columns: Sequence[str],
    number: int | None = None,
) -> ImageRef | Skipped:
    """The entry with a value for each of the run's columns, where its source has those of names.

    number is that of the input, where it is read by shares.
    """
    if isinstance(entry, Skipped) or names == columns:
        return entry
    values = {**dict(zip(names, entry.carried, strict=False)), INPUT_NUMBER: number}
    return replace(entry, carried=tuple(values.get(name) for name in columns))


def name_claim(ref: ImageRef) -> str:
    """The part of a name that a refusal may depend on; never empty."""
    return claimed_format(ref.name) or "-"


def _named(ref: ImageRef, facts: ImageFacts, formats: Sequence[str]) -> tuple[Warn, ...]:
    """The input's warnings, with that of a name that does not fit the file's format."""
    if facts.format in SUPPORTED or facts.format in formats:
        claimed = claimed_format(ref.name)
        if claimed and claimed != facts.format:
            return (*ref.warnings, Warn.EXTENSION_MISMATCH)
    return ref.warnings


def _all_named(
    refs: LocalRefs, contents: ScoredContents, formats: Sequence[str]
) -> Encoded[tuple[Warn, ...]]:
    """The warnings of unchanged files: `_named`, then those of decoding."""
    formats_known = [
        kind if kind in SUPPORTED or kind in formats else None for kind, _, _ in contents.texts
    ]
    cases = list(zip(refs.warnings, refs.claims, contents.text_codes.tolist(), strict=True))
    known: dict[tuple[tuple[Warn, ...], bool, int], int] = {}
    numbers = {}  # of the few different cases
    for case in dict.fromkeys(cases):
        own, claimed, code = case
        kind = formats_known[code]
        odd = kind is not None and claimed is not None and claimed != kind
        numbers[case] = known.setdefault((own, odd, code), len(known))
    codes = [numbers[case] for case in cases]
    values = [
        (*own, *((Warn.EXTENSION_MISMATCH,) if odd else ()), *contents.texts[code][1])
        for own, odd, code in known
    ]
    return Encoded(values, np.array(codes, np.int32))


def _facts(
    warnings: tuple[Warn, ...], decoded: ImageFacts, file: ImageFacts | None = None
) -> ImageFacts:
    """Facts of a known image: those of the outcome, with those of this file itself."""
    file = file or decoded
    return replace(
        decoded,
        format=file.format,
        bytes=file.bytes,
        sha256=file.sha256,
        warnings=warnings + decoded.warnings,
    )


def _is_prompt(source: Source) -> bool:
    """Whether the source gives its next input without having to wait for it."""
    return source.countable or (bool(source.files) and all(map(os.path.isfile, source.files)))
