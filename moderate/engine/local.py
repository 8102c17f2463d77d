"""The line on one machine: files are read on a thread, decoded in processes, scored in batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Self

from moderate.classify.device import Placement, place
from moderate.decode.image import Decoded, Undecoded
from moderate.decode.pool import DecoderPool
from moderate.decode.sniff import HEAD_BYTES, SUPPORTED, claimed_format, refusal, sniff
from moderate.engine.interface import Engine, Job
from moderate.fetch.local import FetchError, read_file
from moderate.policy.decide import decide, views
from moderate.types import (
    UNSCORED,
    ErrorCode,
    ImageError,
    ImageFacts,
    ImageRef,
    Limits,
    Row,
    Scores,
    Skipped,
    Warn,
)

if TYPE_CHECKING:
    from moderate.classify.classifier import Classifier


@dataclass(frozen=True, slots=True)
class _Fetched:
    """An image on its way: what is known before decoding, and the error that ends its trip."""

    ref: ImageRef
    facts: ImageFacts
    error: ImageError | None = None


_Item = _Fetched | Skipped
_MAX_WAITING = 4096  # items, so that one image among a million errors does not hold them all
_Decoded = tuple[_Item, Decoded | Undecoded | None]


class LocalEngine(Engine):
    """See `Engine`."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._stack = ExitStack()
        self._decoded: Iterator[_Decoded] = iter(())
        self._classifier: Classifier
        self._placement: Placement

    def __enter__(self) -> Self:
        """See `Engine`. Decoding starts while torch is still being imported."""
        job = self._job
        window = 2 * job.batch_size + 2 * job.workers
        with self._stack:
            pool: DecoderPool[_Item] = self._stack.enter_context(
                DecoderPool(job.bundle.specs, job.limits, job.workers, window)
            )
            self._decoded = pool.run(_read(job))
            self._placement = place(job.device, job.precision)
            from moderate.classify.classifier import Classifier

            self._classifier = Classifier(job.bundle, self._placement)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """See `Engine`."""
        self._stack.close()

    @property
    def placement(self) -> Placement:
        """See `Engine`."""
        return self._placement

    def rows(self) -> Iterator[Row | Skipped]:
        """See `Engine`."""
        waiting: list[_Decoded] = []
        images = 0
        for item in self._decoded:
            waiting.append(item)
            images += isinstance(item[1], Decoded)
            # Errors and skips between two images wait with them: the order is the input's.
            if images == self._job.batch_size or not images or len(waiting) >= _MAX_WAITING:
                yield from self._finish(waiting)
                waiting, images = [], 0
        yield from self._finish(waiting)

    def _finish(self, items: list[_Decoded]) -> Iterator[Row | Skipped]:
        batch = [outcome.pixels for _, outcome in items if isinstance(outcome, Decoded)]
        scored = iter(self._classifier.score(batch) if batch else ())
        for item, outcome in items:
            if isinstance(item, Skipped):
                yield item
            elif item.error is not None:
                yield self._row(item.ref, item.facts, item.error)
            elif isinstance(outcome, Undecoded):
                error = ImageError(outcome.code, outcome.message)
                yield self._row(item.ref, _merge(item.facts, outcome.facts), error)
            elif outcome is not None:
                yield self._row(item.ref, _merge(item.facts, outcome.facts), next(scored))

    def _row(self, ref: ImageRef, facts: ImageFacts, outcome: Scores | ImageError) -> Row:
        policy = self._job.policy
        error = outcome if isinstance(outcome, ImageError) else None
        scores: Scores = UNSCORED if isinstance(outcome, ImageError) else outcome
        decision, reasons = decide(policy, scores, facts.warnings, error)
        derived = views(policy, scores)
        return Row(ref, facts, scores, decision, reasons, derived, error)


def _read(job: Job) -> Iterator[tuple[_Item, bytes | None]]:
    """Every input with its bytes, or without where there is nothing to decode."""
    rows = 0
    for found in chain.from_iterable(job.sources):
        if isinstance(found, Skipped):
            yield found, None
            continue
        yield _fetch(found, job.limits)
        rows += 1
        if rows == job.max_rows:
            return


def _fetch(ref: ImageRef, limits: Limits) -> tuple[_Fetched, bytes | None]:
    facts = ImageFacts(warnings=ref.warnings)
    if ref.error is not None:
        return _Fetched(ref, facts, ref.error), None
    try:
        data = read_file(ref.path, limits.max_file_bytes, follow_symlinks=ref.follow_symlinks)
    except FetchError as error:
        return _Fetched(ref, replace(facts, bytes=error.size), error.error), None
    head = data[:HEAD_BYTES]
    kind = sniff(head)
    facts = replace(facts, format=kind, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    if refused := refusal(head, ref.name):
        return _Fetched(ref, facts, ImageError(ErrorCode(refused[0]), refused[1])), None
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
