"""The line on one machine: files are read on a thread, decoded in processes, scored in batches."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Self

from moderate.classify.device import Placement, place
from moderate.decode.image import Undecoded
from moderate.decode.pool import Batch, Coming, DecoderPool
from moderate.decode.resize import Pixels
from moderate.decode.sniff import HEAD_BYTES, SUPPORTED, claimed_format, refusal, sniff
from moderate.decode.video import VideoSampler
from moderate.engine.interface import Engine, Job
from moderate.engine.videos import (
    VideoBegin,
    VideoEnd,
    VideoFrame,
    VideoRows,
    not_local,
    open_video,
    video_parts,
)
from moderate.fetch.fetcher import Fetcher
from moderate.fetch.local import FetchError
from moderate.policy.decide import decide, views
from moderate.types import (
    UNSCORED,
    ErrorCode,
    ImageError,
    ImageFacts,
    ImageRef,
    Inline,
    Limits,
    Row,
    Scores,
    Skipped,
    Warn,
)

if TYPE_CHECKING:
    from moderate.classify.classifier import Classifier, Pending


@dataclass(frozen=True, slots=True)
class _Fetched:
    """An image on its way: what is known before decoding, and the error that ends its trip."""

    ref: ImageRef
    facts: ImageFacts
    error: ImageError | None = None


Item = _Fetched | Skipped | VideoBegin | VideoEnd
"""What travels with an image's bytes."""

_PATIENCE = 0.2  # seconds for another batch to be computed beside those under way
NICENESS = 5
"""Of decoders that share the cores with the model: the model goes first, they fill what is left."""


class LocalEngine(Engine):
    """See `Engine`."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._stack = ExitStack()
        self._pool: DecoderPool[Item]
        self._batches: Iterator[Batch[Item]] = iter(())
        self._classifier: Classifier
        self._placement: Placement
        self._protections: tuple[str, ...] = ()
        self._limited = False

    def _cut(self) -> None:
        self._limited = True

    def __enter__(self) -> Self:
        """See `Engine`. Decoding starts while torch is still being imported."""
        job = self._job
        with self._stack:
            self._pool = self._stack.enter_context(
                DecoderPool(
                    job.specs,
                    _decoding_limits(job),
                    job.workers,
                    job.batch_size,
                    niceness=NICENESS,
                    require_sandbox=job.require_sandbox,
                )
            )
            # Entered last, so that it is left first: the pool waits for what is on its way.
            fetcher = self._stack.enter_context(Fetcher(job.limits, job.http))
            sampler = make_sampler(job)
            if sampler:
                self._stack.callback(sampler.close)
            images = read_images(job, fetcher, sampler, self._cut)
            self._batches = self._pool.run(images)
            self._placement = place(job.device, job.precision, job.backend)
            from moderate.classify.classifier import Classifier

            self._classifier = self._stack.enter_context(
                Classifier(
                    job.bundle, self._placement, batch_size=job.batch_size, compile=job.compile
                )
            )
            self._placement = self._classifier.placement  # the backend may not suit the model
            self._classifier.pin(self._pool.buffers)
            self._protections = self._pool.protections()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """See `Engine`."""
        self._stack.close()

    @property
    def placement(self) -> Placement:
        """See `Engine`."""
        return self._placement

    @property
    def protections(self) -> tuple[str, ...]:
        """See `Engine`."""
        return self._protections

    @property
    def limited(self) -> bool:
        """See `Engine`."""
        return self._limited

    @property
    def batch_limit(self) -> int | None:
        """See `Engine`."""
        return self._classifier.batch_limit

    def forward_rate(self, batch: tuple[Pixels, ...], times: int) -> float:
        """Images per second of the model alone on `batch`, submitted so many times."""
        self._classifier.submit(batch).result()  # the first finds memory and plans its kernels
        begun = time.perf_counter()
        pending: deque[Pending] = deque()
        for _ in range(times):
            pending.append(self._classifier.submit(batch))
            while len(pending) > self._classifier.depth:
                pending.popleft().result()
        for last in pending:
            last.result()
        return times * len(batch[0]) / (time.perf_counter() - begun)

    def rows(self) -> Iterator[Row | Skipped]:
        """See `Engine`."""
        early: dict[int, list[_Result]] = {}
        turn = 0
        videos = VideoRows(self._job.policy)
        for number, results in self._scored():
            early[number] = results
            while turn in early:
                for result in early.pop(turn):
                    item = result if isinstance(result, Skipped) else videos.take(result)
                    if item is not None:
                        yield item
                turn += 1

    def _scored(self) -> Iterator[tuple[int, list[_Result]]]:
        """Rows of each batch with its number, in the order in which batches are complete."""
        submitted: deque[tuple[Batch[Item], Pending | None]] = deque()
        for batch in self._batches:
            pixels = batch.pixels()
            scorable = bool(pixels) and len(pixels[0]) > 0
            submitted.append((batch, self._classifier.submit(pixels) if scorable else None))
            # Rows must not wait for a batch that a slow source may not have for hours.
            while submitted and (
                len(submitted) > self._classifier.depth or not self._pool.has_next(_PATIENCE)
            ):
                yield self._finish(*submitted.popleft())
        while submitted:
            yield self._finish(*submitted.popleft())

    def _finish(self, batch: Batch[Item], pending: Pending | None) -> tuple[int, list[_Result]]:
        scored = iter(pending.result() if pending else ())
        self._pool.release(batch)
        rows: list[_Result] = []
        for entry in batch.entries:
            item, outcome = entry.item, entry.outcome
            if not isinstance(item, _Fetched):
                rows.append(item)
            elif item.error is not None:
                rows.append(self._row(item.ref, item.facts, item.error))
            elif isinstance(outcome, Undecoded):
                error = ImageError(outcome.code, outcome.message)
                rows.append(self._row(item.ref, _merge(item.facts, outcome.facts), error))
            elif outcome is not None:
                rows.append(self._row(item.ref, _merge(item.facts, outcome), next(scored)))
        return batch.number, rows

    def _row(self, ref: ImageRef, facts: ImageFacts, outcome: Scores | ImageError) -> Row:
        policy = self._job.policy
        error = outcome if isinstance(outcome, ImageError) else None
        scores: Scores = UNSCORED if isinstance(outcome, ImageError) else outcome
        decision, reasons = decide(policy, scores, facts.warnings, error)
        derived = views(policy, scores)
        return Row(ref, facts, scores, decision, reasons, derived, error)


_Result = Row | Skipped | VideoBegin | VideoEnd
_Images = Iterator[tuple[Item, "bytes | Coming[Item] | None"]]


def make_sampler(job: Job) -> VideoSampler | None:
    """What samples the job's videos, if it has them sampled."""
    if job.video is None:
        return None
    return VideoSampler(
        job.video,
        job.limits,
        exact=job.exact_decode,
        niceness=NICENESS,
        require_sandbox=job.require_sandbox,
    )


def _decoding_limits(job: Job) -> Limits:
    """A frame of a video is no compressed file: --max-file-size is not meant for it."""
    sampler = make_sampler(job)
    most = max(job.limits.max_file_bytes, sampler.still_bytes if sampler else 0)
    return replace(job.limits, max_file_bytes=most)


def read_images(
    job: Job,
    fetcher: Fetcher,
    sampler: VideoSampler | None = None,
    on_limit: Callable[[], None] = lambda: None,
) -> _Images:
    """Every input with its bytes, with their future, or without where there is nothing to decode.

    Stops after job.max_rows images and says so to `on_limit`. A video has as many items as
    `video_parts` gives.
    """
    rows = 0
    columns = [column.name for column in job.columns]
    for source in job.sources:
        names = [column.name for column in source.columns]
        for found in source:
            if isinstance(found, Skipped):
                yield found, None
                continue
            if names != columns:
                values = dict(zip(names, found.carried, strict=False))
                found = replace(found, carried=tuple(values.get(name) for name in columns))
            if sampler and sampler.closed:
                return
            parts = _video(found, sampler) if sampler else None
            if parts is None:
                yield _fetch(found, fetcher, videos=sampler is not None)
            else:
                yield from parts
            rows += 1
            if rows == job.max_rows:
                on_limit()
                return


def _video(ref: ImageRef, sampler: VideoSampler) -> _Images | None:
    """The items of a video, None for what is no local video."""
    opened = open_video(ref, sampler.options.max_bytes)
    if opened is None:
        return None
    if isinstance(opened, VideoEnd):
        return iter([(opened, None)])
    return map(_part, video_parts(ref, *opened, sampler))


def _part(part: VideoBegin | VideoFrame | VideoEnd) -> tuple[Item, bytes | None]:
    if isinstance(part, VideoFrame):
        return _Fetched(part.ref, part.facts, part.error), part.data
    return part, None


def _fetch(
    ref: ImageRef, fetcher: Fetcher, *, videos: bool = False
) -> tuple[Item, bytes | Coming[Item] | None]:
    facts = ImageFacts(warnings=ref.warnings)
    if ref.error is not None:
        return _Fetched(ref, facts, ref.error), None
    try:
        data = fetcher.fetch(ref)
    except FetchError as error:
        return _failed(ref, error), None
    if isinstance(ref.location, Inline):
        ref = replace(ref, location=Inline(b""))  # rows wait for their turn, bytes need not
    if not isinstance(data, Future):
        return _examine(ref, data, videos)
    coming: Coming[Item] = Future()
    data.add_done_callback(partial(_arrive, ref, coming, videos))
    return _Fetched(ref, facts), coming


def _arrive(ref: ImageRef, coming: Coming[Item], videos: bool, fetched: Future[bytes]) -> None:
    """On the thread that the bytes came in on."""
    try:
        coming.set_result(_examine(ref, fetched.result(), videos))
    except FetchError as error:
        coming.set_result((_failed(ref, error), None))
    except BaseException as error:  # noqa: BLE001 - raised where the run can be ended
        coming.set_exception(error)


def _failed(ref: ImageRef, error: FetchError) -> _Fetched:
    return _Fetched(ref, ImageFacts(warnings=ref.warnings, bytes=error.size), error.error)


def _examine(ref: ImageRef, data: bytes, videos: bool) -> tuple[Item, bytes | None]:
    """What the bytes say before they are decoded. videos: whether they are sampled elsewhere."""
    head = data[:HEAD_BYTES]
    kind = sniff(head)
    digest = hashlib.sha256(data).hexdigest()
    facts = ImageFacts(warnings=ref.warnings, format=kind, bytes=len(data), sha256=digest)
    if refused := refusal(head, ref.name):
        message = (not_local(head, ref.name) if videos else None) or refused[1]
        return _Fetched(ref, facts, ImageError(ErrorCode(refused[0]), message)), None
    claimed = claimed_format(ref.name)
    if kind in SUPPORTED and claimed and claimed != kind:
        facts = replace(facts, warnings=(*facts.warnings, Warn.EXTENSION_MISMATCH))
    return _Fetched(ref, facts), data


def _merge(known: ImageFacts, decoded: ImageFacts) -> ImageFacts:
    return replace(
        known,
        width=decoded.width,
        height=decoded.height,
        frames=decoded.frames,
        warnings=(*known.warnings, *decoded.warnings),
    )
