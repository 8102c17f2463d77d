"""Second opinions: rows whose scores are in a band are scored by other weights, too.

A light model screens all images, a heavy one those that are in doubt. Rows wait in their order
until there are enough of them in a band. Then those images are decoded once more, as the second
model wants its pixels, and scored, by decoders and a model that stay ready from the first such
image on. What was scored is kept in the state under the second weights' own scope, as if they had
scored the image alone.

All of it belongs to the caller's thread, but for `_Opinions._images`, which the second decoders'
reading thread draws, and for `SecondOpinions.wants`, which reading threads of the run call.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from moderate.classify.device import place
from moderate.decode.batches import Batch, Passed
from moderate.decode.undecoded import Undecoded
from moderate.errors import ModerateError
from moderate.faults import internal_error
from moderate.fetch.local import FetchError, read_file
from moderate.places import read_places
from moderate.policy.batch import UndecidedRow
from moderate.policy.judge import Judge
from moderate.policy.rows import judge_rows
from moderate.results.schema import shortest
from moderate.run.interface import Job, Second
from moderate.run.local_files import is_local
from moderate.run.moments import moment
from moderate.run.opinion_columns import SECOND_ERROR, SECOND_WEIGHTS, first_score
from moderate.run.opinion_counts import OpinionCounts
from moderate.run.outcomes import LASTING, scored_entries
from moderate.run.scopes import scopes
from moderate.state.contents import Contents
from moderate.state.records import Outcome
from moderate.state.run_scores import RunScores
from moderate.state.scores import ScopeFacts, ScoreStore
from moderate.types import (
    Category,
    ErrorCode,
    ImageError,
    ImageFacts,
    ImageRef,
    Origin,
    Scores,
    Warn,
)

if TYPE_CHECKING:
    from moderate.classify.scorer import PendingScores, Scorer
    from moderate.run.resources import Resources

log = logging.getLogger(__name__)

T = TypeVar("T")

_FEWEST_AT_ONCE = 64  # images; fresh decoders are started for each lot of them
_MOST_WAITING = 4096  # rows, in a band or not
_MOST_BYTES = 64 << 20  # of images that are kept, as they cannot be read again
_PATIENCE = 1.0  # seconds to wait for more rows: from a slow source, the next may take hours


@dataclass(slots=True, eq=False)
class _Image:
    """An image on its way to a second opinion: where its bytes are, and what is known of them.

    data is None where they are to be read from the file that ref names.
    """

    digest: bytes
    ref: ImageRef
    facts: ImageFacts
    data: bytes | None
    error: ImageError | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    """A second opinion. fresh: this run, or one that it finishes, has scored the image for it."""

    outcome: Outcome
    fresh: bool


class SecondOpinions:
    """The second opinions of a run; a context manager.

    Entering raises DeviceError where one of the models cannot run on this machine. A model is
    loaded when the first image asks for it.
    """

    def __init__(
        self,
        job: Job,
        resources: Callable[[Second], Resources],
        store: ScoreStore | None,
        unfinished_since: int | None = None,
    ) -> None:
        """resources gives decoders and model of one; the others are those of `LocalEngine`."""
        self._job = job
        self._kept: dict[bytes, bytes] = {}
        self._kept_bytes = 0
        self._stack = ExitStack()
        self._opinions = [
            _Opinions(job, second, resources, store, unfinished_since) for second in job.second
        ]
        names = [column.name for column in job.input_columns]
        self._width = len(names)
        self._places = {name: place for place, name in enumerate(names)}

    def __enter__(self) -> SecondOpinions:
        with self._stack:
            for each in self._opinions:
                self._stack.callback(each.contents.close)
            for each in self._opinions:
                each.begin()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Forget what is kept of this run alone. `write_down` comes before."""
        self._stack.close()

    def write_down(self, *, at_end: bool) -> None:
        """Keep what was scored in the state; at the end of a run, wait for other processes."""
        for each in self._opinions:
            each.write_down(at_end=at_end)

    @property
    def counts(self) -> Sequence[OpinionCounts]:
        """What they did, in the policy's order."""
        return [each.counts for each in self._opinions]

    def wants(self, scores: Scores | ImageError) -> bool:
        """Whether an image with these scores is to have a second opinion. Any thread may ask."""
        return not isinstance(scores, ImageError) and self._asked(scores) is not None

    def keep(self, digest: bytes, ref: ImageRef, scores: Scores | ImageError, data: Any) -> None:
        """Keep the bytes of an image until its second opinion, where they cannot be read again."""
        if data is None or digest in self._kept or is_local(ref) or not self.wants(scores):
            return
        self._kept[digest] = data
        self._kept_bytes += len(data)

    def applied(
        self, ordered: Iterable[list[T]], judge: Judge, has_next: Callable[[float], bool]
    ) -> Iterator[list[T | UndecidedRow]]:
        """Rows in their order, those in a band with their second opinion.

        has_next says whether more comes within so many seconds.
        """
        enough = max(2 * self._job.options.batch_size, _FEWEST_AT_ONCE)
        waiting: list[T | UndecidedRow] = []
        asked: dict[int, _Opinions] = {}
        for settled in ordered:
            for each in settled:
                if isinstance(each, UndecidedRow) and (opinions := self._asked(each.scores)):
                    asked[len(waiting)] = opinions
                waiting.append(each)
            if (
                asked
                and len(asked) < enough
                and len(waiting) < _MOST_WAITING
                and self._kept_bytes < _MOST_BYTES
                and has_next(_PATIENCE)
            ):
                continue
            self._give(waiting, asked, judge)
            yield waiting
            waiting, asked = [], {}
        if waiting:
            self._give(waiting, asked, judge)
            yield waiting

    def _asked(self, scores: Scores) -> _Opinions | None:
        """The first whose band one of the scores is in."""
        return next((each for each in self._opinions if each.asks(scores)), None)

    def _give(self, rows: list[Any], asked: dict[int, _Opinions], judge: Judge) -> None:
        """Put the second opinions into rows: those of the indices in asked."""
        for opinions in self._opinions:
            indices = [index for index, each in asked.items() if each is opinions]
            if not indices:
                continue
            before: list[UndecidedRow] = [rows[index] for index in indices]
            answers = opinions.answers(before, self._kept)
            after = [
                self._contained(opinions, row, answers.get(row.content or b"")) for row in before
            ]
            opinions.count(before, after, judge)
            for index, row in zip(indices, after, strict=True):
                rows[index] = row
        for index in asked:
            if data := self._kept.pop(rows[index].content or b"", None):
                self._kept_bytes -= len(data)

    def _contained(
        self, opinions: _Opinions, row: UndecidedRow, answer: _Answer | None
    ) -> UndecidedRow:
        try:
            return self._with(opinions, row, answer)
        except ModerateError:
            raise
        except Exception as error:  # noqa: BLE001 - no exception about one image ends a run
            failed = internal_error(row.ref, "taking a second opinion", error)
            return self._with(opinions, row, _Answer(Outcome(ImageFacts(), failed), fresh=True))

    def _with(self, opinions: _Opinions, row: UndecidedRow, answer: _Answer | None) -> UndecidedRow:
        outcome = answer.outcome if answer else Outcome(ImageFacts(), _GONE)
        result, facts = outcome.result, row.facts
        columns: dict[str, Any] = {SECOND_WEIGHTS: opinions.counts.weights}
        columns |= {
            first_score(category): None if score is None else float(shortest(score))
            for category, score in row.scores.items()
        }
        if isinstance(result, ImageError):
            columns[SECOND_ERROR] = f"{result.code.value}: {result.message}"
            facts = _with_warnings(facts, [Warn.NO_SECOND_OPINION])
            return row._replace(facts=facts, ref=self._carrying(row.ref, columns))
        scores, places = opinions.combined(row, result, read_places(outcome.places))
        own = outcome.facts
        # What neither of the two saw enough of stays so, whichever of them decides.
        shares = [share for share in (facts.unseen, own.unseen) if share is not None]
        facts = replace(_with_warnings(facts, own.warnings), unseen=max(shares) if shares else None)
        origin = row.origin
        if answer and answer.fresh and origin is Origin.REUSED:
            origin = Origin.NEW if row.duplicate_of is None else Origin.DUPLICATE
        times = [row.scored_at, None if outcome.scored_at is None else moment(outcome.scored_at)]
        return row._replace(
            ref=self._carrying(row.ref, columns),
            facts=facts,
            scores=scores,
            places=places,
            origin=origin,
            scored_at=max((time for time in times if time is not None), default=None),
        )

    def _carrying(self, ref: ImageRef, columns: dict[str, Any]) -> ImageRef:
        carried = list(ref.carried or (None,) * self._width)
        for name, value in columns.items():
            if (place := self._places.get(name)) is not None:
                carried[place] = value
        return replace(ref, carried=tuple(carried))


class _Opinions:
    """The second opinions of one bundle of weights."""

    def __init__(
        self,
        job: Job,
        second: Second,
        resources: Callable[[Second], Resources],
        store: ScoreStore | None,
        unfinished_since: int | None,
    ) -> None:
        self._job = job.of_second(second)
        self._second = second
        self._make_resources = resources
        self._store = store
        self._unfinished_since = unfinished_since
        self._resources: Resources | None = None
        self._scores: RunScores | None = None
        self._limits = job.options.limits
        self._noted = False
        # Scores are float32, and bounds are compared with them as such: see `reaches`.
        opinion = second.opinion
        self._band = (float(np.float32(opinion.lower)), float(np.float32(opinion.upper)))
        self.contents = Contents()
        """What this run has scored for them, by content."""
        self.counts = OpinionCounts(
            second.opinion, second.bundle.name, second.bundle.sha256, second.bundle.card.purpose
        )

    def begin(self) -> None:
        """Find the device, and what earlier runs have scored. Raises DeviceError."""
        options = self._job.options
        planned = place(options.device, options.precision, options.backend, self._job.bundle.kinds)
        if self._store is not None:
            self._scores = RunScores(
                self._store,
                scopes(self._job, planned),
                rescore=options.rescore,
                retry_errors=options.retry_errors,
            )

    def write_down(self, *, at_end: bool) -> None:
        """Keep what was scored in the state."""
        if self._scores and at_end:
            self._scores.finish()
        elif self._scores:
            self._scores.commit(everything=True)

    def asks(self, scores: Scores) -> bool:
        """Whether one of the scores is in the band, its bounds included."""
        low, high = self._band
        return any(
            (score := scores[category]) is not None and low <= score <= high
            for category in self._second.opinion.categories
        )

    def combined(
        self, row: UndecidedRow, second: Scores, places: dict[str, str]
    ) -> tuple[Scores, dict[str, str]]:
        """The scores that count, and where in the file they are."""
        scores: dict[Category, float | None] = dict(row.scores)
        kept = dict(row.places)
        for category, score in second.items():
            first = scores[category]
            if score is None or (
                self._second.opinion.combine == "max" and first is not None and first >= score
            ):
                continue
            scores[category] = score
            kept.pop(category.value, None)
            if place_of := places.get(category.value):
                kept[category.value] = place_of
        return scores, kept

    def count(
        self, before: Sequence[UndecidedRow], after: Sequence[UndecidedRow], judge: Judge
    ) -> None:
        """Count what became of rows."""
        self.counts.rows += len(after)
        self.counts.failed += sum(Warn.NO_SECOND_OPINION in row.facts.warnings for row in after)
        try:
            decisions = [judge_rows(judge, rows) for rows in (before, after)]
        except ModerateError:
            raise
        except Exception as error:  # the rows say it themselves, one by one
            log.debug("changes of decisions are not counted: %s", error, exc_info=error)
            return
        for one, other in zip(*decisions, strict=True):
            if one.decision is not other.decision:
                self.counts.changed[one.decision.value, other.decision.value] += 1

    def answers(
        self, rows: Sequence[UndecidedRow], kept: dict[bytes, bytes]
    ) -> dict[bytes, _Answer]:
        """The second opinion on each content; kept has bytes that cannot be read again.

        Raises what loading a model raises, and DeviceError where the device does not work any more.
        """
        found: dict[bytes, _Answer] = {}
        missing: dict[bytes, _Image] = {}
        for row in rows:
            digest = row.content
            if digest is None or digest in found or digest in missing:
                continue
            if known := self._known(digest):
                found[digest] = known
            else:
                missing[digest] = _Image(digest, row.ref, row.facts, kept.get(digest))
        if missing:
            begun, starting = time.monotonic(), self.counts.startup_seconds
            for image, outcome in self._scored(list(missing.values())):
                found[image.digest] = _Answer(outcome, fresh=True)
                self._settle(image, outcome)
            starting = self.counts.startup_seconds - starting
            self.counts.seconds += time.monotonic() - begun - starting
        if self._scores:
            self._scores.commit()
        return found

    def _known(self, digest: bytes) -> _Answer | None:
        if outcome := self.contents.outcome(digest):
            return _Answer(outcome, fresh=True)
        outcome = self._scores.by_content(digest) if self._scores else None
        if self._scores is None or outcome is None:
            return None
        self._scores.add(None, used=(b"", digest))
        since, when = self._unfinished_since, outcome.scored_at
        return _Answer(outcome, fresh=since is not None and when is not None and when >= since)

    def _settle(self, image: _Image, outcome: Outcome) -> None:
        if image.error is not None:  # about this file alone, not about its content
            return
        self.contents.claim(image.digest, 0, b"")
        self.contents.settle(image.digest, outcome)
        result = outcome.result
        if self._scores and (not isinstance(result, ImageError) or result.code in LASTING):
            self._scores.add(None, (image.digest, outcome))

    def _scored(self, images: Sequence[_Image]) -> Iterator[tuple[_Image, Outcome]]:
        """Decode and score images, in any order."""
        if self._resources is None:
            self._resources = self._make_resources(self._second)
        pool = self._resources.pool
        submitted: deque[tuple[Batch[Any], PendingScores | None]] = deque()
        for result in pool.run(self._images(images), on_work=self._get_ready):
            if isinstance(result, Passed):
                pool.release(result)
                image: Any = result.item
                yield image, Outcome(ImageFacts(), image.error)
                continue
            submitted.append((result, self._submit(result)))
            while len(submitted) > self._model.depth:
                yield from self._finish(*submitted.popleft())
        while submitted:
            yield from self._finish(*submitted.popleft())

    def _images(self, images: Sequence[_Image]) -> Iterator[tuple[Any, bytes | None]]:
        """Each with its bytes; None where there are none any more. On the reading thread."""
        for image in images:
            data = image.data
            if data is None:
                try:
                    data = self._read(image)
                except FetchError as error:
                    image.error = error.error
                except Exception as error:  # noqa: BLE001 - no exception about one image ends a run
                    image.error = internal_error(image.ref, "reading", error)
            yield image, data

    def _read(self, image: _Image) -> bytes:
        """The bytes of a file once more. Raises FetchError where they are others by now."""
        ref = image.ref
        if not is_local(ref):
            raise FetchError(_GONE)
        data = read_file(ref.path, self._limits.max_file_bytes, follow_symlinks=ref.follow_symlinks)
        if hashlib.sha256(data).digest() != image.digest:
            raise FetchError(_CHANGED)
        return data

    @property
    def _model(self) -> Scorer:
        assert self._resources is not None
        return self._resources.load()

    def _get_ready(self) -> None:
        """Load the model, and note what its decoders run under."""
        if self._noted or self._resources is None:
            return
        begun = time.monotonic()
        model, sandbox = self._model, self._resources.pool.sandbox()
        self.counts.startup_seconds += time.monotonic() - begun
        if sandbox is not None and self._scores:
            self._scores.facts(ScopeFacts(sandbox, model.placement.backend))
        self._noted = True

    def _submit(self, batch: Batch[Any]) -> PendingScores | None:
        begun = time.monotonic()
        pixels = batch.pixels()
        pending = self._model.submit(pixels) if len(pixels[0]) else None
        self.counts.model_seconds += time.monotonic() - begun
        return pending

    def _finish(
        self, batch: Batch[Any], pending: PendingScores | None
    ) -> Iterator[tuple[_Image, Outcome]]:
        assert self._resources is not None
        begun = time.monotonic()
        scored = pending.scored() if pending else []
        self.counts.model_seconds += time.monotonic() - begun
        self._resources.pool.release(batch)
        for entry, of_image in scored_entries(batch, scored, ()):
            self.counts.scored += 1
            image, decoded, now = entry.item, entry.outcome, int(time.time())
            if isinstance(decoded, Undecoded):
                failed = ImageError(decoded.code, decoded.message)
                yield image, Outcome(_of_content(image, decoded.facts), failed, scored_at=now)
                continue
            assert decoded is not None
            yield (
                image,
                Outcome(
                    _of_content(image, decoded),
                    of_image.outcome,
                    scored_at=now,
                    places=of_image.places,
                ),
            )


_GONE = ImageError(ErrorCode.READ_ERROR, "its bytes are not at hand any more")
_CHANGED = ImageError(ErrorCode.READ_ERROR, "the file has changed since it was first scored")


def _of_content(image: _Image, decoded: ImageFacts) -> ImageFacts:
    """What a run by the second weights alone would know of the content, its name aside."""
    facts = image.facts
    return replace(decoded, format=facts.format, bytes=facts.bytes, sha256=facts.sha256)


def _with_warnings(facts: ImageFacts, more: Iterable[Warn]) -> ImageFacts:
    new = tuple(warning for warning in more if warning not in facts.warnings)
    return replace(facts, warnings=facts.warnings + new) if new else facts
