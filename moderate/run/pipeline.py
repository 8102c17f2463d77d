"""A scan on one machine: inputs are read on a thread, decoded in processes, scored in batches.

Everything in `LocalEngine` belongs to the caller's thread, but for the reader, which works on the
pool's reading thread. The threads of the pool are described in `moderate.decode.pool`.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar, Union, cast
from uuid import uuid4

from moderate.classify.device import Placement
from moderate.decode.batches import Batch, Passed
from moderate.decode.resize import Pixels
from moderate.decode.undecoded import Undecoded
from moderate.errors import ModerateError
from moderate.faults import internal_error
from moderate.fetch.fetcher import Fetcher
from moderate.places import read_places
from moderate.policy.batch import UndecidedRow
from moderate.policy.rows import decide_rows, failed_row
from moderate.run.hash_columns import with_hash
from moderate.run.highest import NOT_SCORED, ScoredImage
from moderate.run.inputs import Reader, name_claim
from moderate.run.interface import Engine, Job, is_sharded
from moderate.run.items import Block, Copy, Fetched, Item, row_count
from moderate.run.known_rows import Known, KnownRows
from moderate.run.local_files import UNREAD_CLAIM
from moderate.run.moments import moment
from moderate.run.opinion_counts import OpinionCounts
from moderate.run.outcomes import LASTING, merged_facts, scored_entries
from moderate.run.resources import Resources, make_sampler
from moderate.run.scopes import scopes
from moderate.run.second_opinions import SecondOpinions
from moderate.run.videos import VideoBegin, VideoEnd, VideoRows
from moderate.sources.hints import InputHints
from moderate.sources.subset import InputListing
from moderate.state.contents import Contents
from moderate.state.records import Outcome
from moderate.state.run_scores import RunScores
from moderate.state.scores import ScopeFacts, ScoreStore
from moderate.types import (
    UNSCORED,
    ImageError,
    ImageFacts,
    ImageRef,
    Origin,
    Row,
    Scores,
    Skipped,
)
from moderate.uris import working_directory

if TYPE_CHECKING:
    from moderate.classify.scorer import PendingScores, Scorer
    from moderate.run.row_batch import RowBatch  # which needs pyarrow

_Settled = UndecidedRow | KnownRows | Row | Skipped | VideoBegin | VideoEnd
_Decided = Union[Row, "RowBatch", Skipped, VideoBegin, VideoEnd]
_Result = _Settled | Copy

T = TypeVar("T")

log = logging.getLogger(__name__)

_PATIENCE = 0.2  # seconds to wait for another batch to compute beside those submitted
_PASSED_TOGETHER = 512  # rows without decoding after which they are committed


class LocalEngine(Engine):
    """See `Engine`. store has the scores of earlier runs, to which this run adds its own.

    Decoders and the model are started when there is an image for them, unless `at_once`: where
    every image is known, they are never started. `resources` are those that other runs use, too,
    and go on after this one; without, the engine has its own.
    """

    def __init__(
        self,
        job: Job,
        store: ScoreStore | None = None,
        *,
        at_once: bool = False,
        resources: Resources | None = None,
        run_id: str | None = None,
        unfinished_since: int | None = None,
        most_explained: int | None = None,
    ) -> None:
        """run_id is what rows have; None for an id of their own. most_explained is `Reader`'s.

        Outcomes that the store has from unfinished_since on (seconds since 1970) count as this
        run's own: the runs that they are of broke off, and their rows are in no results.
        """
        self._job = job
        self._carried_count, self._place_count = len(job.input_columns), job.place_count
        self._run_id = run_id or uuid4().hex
        self._store = store
        self._unfinished_since = unfinished_since
        self._most_explained = most_explained
        self._at_once = at_once or job.options.require_sandbox
        self._stack = ExitStack()
        self._shared = resources
        self._resources: Resources
        self._decoded: Iterator[Batch[Item] | Passed[Item]] = iter(())
        self._is_ready = False
        self._placement: Placement
        self._sandbox: tuple[str, ...] | None = None
        self._limited = False
        self._startup_seconds = 0.0
        self._scores: RunScores | None = None
        self._contents: Contents | None = None
        self._second: SecondOpinions | None = None
        self._hints: InputHints | None = None
        self._listing: InputListing | None = None

    def _cut(self) -> None:
        self._limited = True

    def __enter__(self) -> Self:
        """See `Engine`. Reading and decoding begin while the device is still being examined."""
        job = self._job
        begun = time.monotonic()
        with self._stack:
            if job.deduplicate:
                self._contents = Contents()
                self._stack.callback(self._contents.close)
            self._resources = self._shared or self._stack.enter_context(
                Resources(job, at_once=self._at_once)
            )
            if job.second:
                self._second = self._stack.enter_context(
                    SecondOpinions(
                        job, self._resources.of_second, self._store, self._unfinished_since
                    )
                )
            # Entered after the pool and so left before it, because the pool waits for what is on
            # its way.
            fetcher = self._stack.enter_context(Fetcher(job.options.limits, job.options.http))
            sampler = make_sampler(job)
            if sampler:
                self._stack.callback(sampler.close)
            reader = Reader(
                job,
                fetcher,
                sampler,
                self._contents,
                self._cut,
                most_explained=self._most_explained,
                wants=self._second.wants if self._second else None,
            )
            self._stack.callback(reader.stop)
            self._hints = reader.hints
            self._listing = reader.listing if is_sharded(job.sources) else None
            self._decoded = self._resources.pool.run(
                reader.images(), on_work=self._get_ready, row_count=row_count
            )
            if self._store is None:
                reader.begin(None)
            self._placement = self._resources.planned
            if self._store:
                self._scores = RunScores(
                    self._store,
                    scopes(job, self._placement),
                    rescore=job.options.rescore,
                    retry_errors=job.options.retry_errors,
                    hashed=job.hashes,
                )
                if earlier := self._scores.facts():
                    self._sandbox = earlier.sandbox
                    self._placement = replace(self._placement, backend=earlier.backend)
                reader.begin(self._scores)
            if self._at_once:
                self._get_ready()
            self._stack = self._stack.pop_all()
        self._startup_seconds = time.monotonic() - begun
        return self

    def _get_ready(self) -> None:
        """Get ready for the first image. Raises DeviceError or WeightsError."""
        if self._is_ready:
            return
        begun = time.monotonic()
        self._placement = self._resources.load().placement
        self._is_ready = True
        sandbox = self._resources.pool.sandbox()
        if sandbox is not None:
            self._sandbox = sandbox
            if self._scores:
                self._scores.facts(ScopeFacts(sandbox, self._placement.backend))
        self._startup_seconds += time.monotonic() - begun

    def __exit__(self, broken_off: object = None, *_: object) -> None:
        """See `Engine`. What was scored is kept, however the run ends."""
        try:
            if self._scores and broken_off is None:
                self._scores.finish()
            elif self._scores:
                self._scores.commit(everything=True)
            if self._second:
                self._second.write_down(at_end=broken_off is None)
        finally:
            self._stack.close()

    @property
    def placement(self) -> Placement:
        """See `Engine`."""
        return self._placement

    @property
    def sandbox(self) -> tuple[str, ...] | None:
        """See `Engine`."""
        return self._sandbox

    @property
    def startup_seconds(self) -> float:
        """See `Engine`."""
        return self._startup_seconds + sum(each.startup_seconds for each in self.second_opinions)

    @property
    def limited(self) -> bool:
        """See `Engine`."""
        return self._limited

    @property
    def input_notes(self) -> list[str]:
        """See `Engine`."""
        return self._hints.notes() if self._hints else []

    @property
    def listing(self) -> InputListing | None:
        """See `Engine`."""
        return self._listing

    @property
    def second_opinions(self) -> Sequence[OpinionCounts]:
        """See `Engine`."""
        return self._second.counts if self._second else ()

    @property
    def batch_limit(self) -> int | None:
        """See `Engine`."""
        classifier = self._resources.classifier
        return classifier.batch_limit if classifier else None

    def forward_rate(self, batch: tuple[Pixels, ...], times: int) -> float:
        """Inputs per second of the model alone on `batch`, submitted so many times.

        Those of all devices together. For an engine that was started `at_once`.
        """
        classifier = self._loaded
        # The first one allocates memory and plans kernels, on each device.
        for submitted in [classifier.submit(batch) for _ in range(max(1, classifier.depth))]:
            submitted.scored()
        begun = time.perf_counter()
        pending: deque[PendingScores] = deque()
        for _ in range(times):
            pending.append(classifier.submit(batch))
            while len(pending) > classifier.depth:
                pending.popleft().scored()
        for last in pending:
            last.scored()
        return times * len(batch[0]) / (time.perf_counter() - begun)

    @property
    def _loaded(self) -> Scorer:
        classifier = self._resources.classifier
        assert classifier is not None
        return classifier

    def rows(self) -> Iterator[Row | Skipped]:
        """See `Engine`."""
        for item in self.batches():
            if isinstance(item, Row | Skipped):
                yield item
            else:
                yield from item.one_by_one()

    def batches(self) -> Iterator[Row | RowBatch | Skipped]:
        """See `Engine`."""
        video = self._job.options.video
        videos = None
        if video:
            judge, levels = self._job.judge, self._job.level_labels
            videos = VideoRows(judge, self._run_id, video.stop_on, levels)
        ordered = self._ordered()
        if self._second:
            has_next = self._resources.pool.has_next
            ordered = self._second.applied(ordered, self._job.judge, has_next)
        for settled in ordered:
            yield from self._in_rows(settled, videos)

    def _ordered(self) -> Iterator[list[_Settled]]:
        """The results of all inputs, in their order."""
        early: dict[int, list[_Result]] = {}  # by place, until all before them are there
        turn = position = 0
        for scored in self._scored():
            early.update(scored)
            settled: list[_Settled] = []
            while turn in early and (next_settled := self._settled(early[turn])) is not None:
                del early[turn]
                settled += next_settled
                turn += 1
            settled = self._put_in_place(settled, position)
            position += sum(map(_row_count, settled))
            yield settled
        # The images that these are copies of never came in, which is a fault of this program. Each
        # still gets a row.
        for _, results in sorted(early.items()):
            yield [self._unsettled(result) for result in results]

    def _in_rows(
        self, settled: list[_Settled], videos: VideoRows | None
    ) -> Iterator[Row | RowBatch | Skipped]:
        """Decide results as one batch; the stills of a video become one row."""
        rows: Iterator[Row | RowBatch | Skipped]
        if videos:
            decided = self._decided(self._single(settled))
            rows = videos.take_all(cast("list[Row]", decided))
        else:  # without videos there is nothing else among them
            rows = iter(cast("list[Row | RowBatch]", self._decided(settled)))
        return map(self._with_hash, rows) if self._job.hashes else rows

    def _with_hash(self, item: T) -> T:
        """A row with the cells of its hash; anything else as it is."""
        if not isinstance(item, Row):
            return item
        return cast("T", with_hash(item, self._carried_count, self._place_count))

    def _scored(self) -> Iterator[list[tuple[int, list[_Result]]]]:
        """Results of inputs with their places, as they become known."""
        submitted: deque[tuple[Batch[Item], PendingScores]] = deque()
        passed: list[tuple[int, list[_Result]]] = []
        passed_rows = commits = 0
        for decoded in self._decoded:
            if isinstance(decoded, Passed):
                passed.append((decoded.place, self._passed(decoded)))
                passed_rows += row_count(decoded.item)
                # Those that are there by now are committed together: a commit is a transaction.
                if passed_rows < _PASSED_TOGETHER and self._resources.pool.has_next(0):
                    continue
            classifier = self._resources.classifier
            depth = classifier.depth if classifier else 0
            if passed:
                yield self._committed(passed)
                passed, passed_rows = [], 0
                commits += 1
                # Later rows wait for those of a batch, also while no other batch comes.
                if submitted and commits > depth:
                    yield self._finish(*submitted.popleft())
                    commits = 0
            if isinstance(decoded, Batch):
                if pending := self._submit(decoded):
                    submitted.append((decoded, pending))
                else:
                    yield self._finish(decoded, None)
                commits = 0
            # Rows must not wait for another batch: from a slow source, it may take hours. What is
            # there is taken and kept, because many batches may be with the replicas.
            while submitted and (
                len(submitted) > depth
                or submitted[0][1].is_ready()
                or not self._resources.pool.has_next(_PATIENCE)
            ):
                yield self._finish(*submitted.popleft())
        if passed:
            yield self._committed(passed)
        while submitted:
            yield self._finish(*submitted.popleft())

    def _submit(self, batch: Batch[Item]) -> PendingScores | None:
        """None for a batch without images to score."""
        pixels = batch.pixels()
        return self._loaded.submit(pixels) if len(pixels[0]) else None

    def _finish(
        self, batch: Batch[Item], pending: PendingScores | None
    ) -> list[tuple[int, list[_Result]]]:
        scored = pending.scored() if pending else []
        self._resources.pool.release(batch)
        labels, levels = self._job.labels, self._job.level_labels
        results: list[tuple[int, list[_Result]]] = [
            (entry.place, [self._contained(entry.item, entry.outcome, of_image)])
            for entry, of_image in scored_entries(batch, scored, labels, levels)
        ]
        return self._committed(results)

    def _passed(self, passed: Passed[Item]) -> list[_Result]:
        """The results of an input that needed no decoding."""
        self._resources.pool.release(passed)
        items = passed.item.items if isinstance(passed.item, Block) else [passed.item]
        return [
            self._noted(item)
            if isinstance(item, KnownRows)
            else self._contained(item, None, NOT_SCORED)
            for item in items
        ]

    def _noted(self, rows: KnownRows) -> KnownRows:
        if self._scores:
            for used in filter(None, rows.used):
                self._scores.add(None, used=used)
        return rows

    def _committed(
        self, results: list[tuple[int, list[_Result]]]
    ) -> list[tuple[int, list[_Result]]]:
        """The results, once the state has what is new in them."""
        if self._scores:
            self._scores.commit()
        return results

    def _contained(
        self,
        item: Item,
        outcome: ImageFacts | Undecoded | None,
        scored: ScoredImage,
    ) -> _Result:
        """The result of one input. What goes wrong with it becomes its error."""
        try:
            return self._result(item, outcome, scored)
        except ModerateError:
            raise
        except Exception as error:
            if not isinstance(item, (Known, Copy, Fetched)):
                raise
            failed = internal_error(item.ref, "recording", error)
            if isinstance(item, Fetched) and item.claimed and self._contents:
                # Its copies wait for it.
                self._contents.settle(item.claimed, Outcome(ImageFacts(), failed))
            return self._failed_row(item.ref, failed)

    def _result(
        self,
        item: Item,
        outcome: ImageFacts | Undecoded | None,
        scored: ScoredImage,
    ) -> _Result:
        if isinstance(item, Known):
            return self._known(item)
        if isinstance(item, Copy):
            if self._scores:
                self._scores.add(item.file)
            return item
        if isinstance(item, Block) or not isinstance(item, Fetched):
            return cast("_Settled", item)
        if item.error is not None:
            claim = UNREAD_CLAIM if item.unread else name_claim(item.ref)
            return self._new(item, ImageFacts(), item.error, claim=claim)
        if isinstance(outcome, Undecoded):
            return self._new(item, outcome.facts, ImageError(outcome.code, outcome.message))
        assert outcome is not None
        return self._new(item, outcome, scored.outcome, labels=scored.labels, places=scored.places)

    def _failed_row(self, ref: ImageRef, error: ImageError) -> Row:
        return failed_row(self._job.judge.policy, ref, error, self._run_id)

    def _known(self, item: Known) -> UndecidedRow:
        if self._scores and (item.file or item.used):
            self._scores.add(item.file, used=item.used)
        outcome, digest = item.outcome, item.sha256
        if self._second:
            self._second.keep(digest, item.ref, outcome.result, item.kept)
        return self._row(item.ref, item.facts, outcome, item.origin, item.duplicate_of, digest)

    def _new(
        self,
        item: Fetched,
        decoded: ImageFacts,
        result: Scores | ImageError,
        claim: str = "",
        labels: tuple[float, ...] = (),
        places: str = "",
    ) -> UndecidedRow:
        """The row of an image whose outcome is new, and is kept for later runs."""
        own = replace(item.facts, warnings=())
        now = int(time.time())
        outcome = Outcome(merged_facts(own, decoded), result, claim, labels, now, places)
        if item.sha256:
            if self._contents and item.claimed:
                self._contents.settle(item.claimed, outcome)
            if self._scores:
                lasting = not isinstance(result, ImageError) or result.code in LASTING
                self._scores.add(item.file, (item.sha256, outcome) if lasting else None)
        if item.unread and self._scores:
            kept = (item.unread.digest, outcome) if item.file else None
            self._scores.add(item.file, kept, item.unread.used)
        facts = merged_facts(item.facts, decoded)
        if self._second and item.sha256:
            self._second.keep(item.sha256, item.ref, result, item.kept)
        return self._row(item.ref, facts, outcome, item.origin, item.duplicate_of, item.sha256)

    def _settled(self, results: list[_Result]) -> list[_Settled] | None:
        """The results with rows for copies; None while a copy has to wait for its outcome."""
        settled: list[_Settled] = []
        for result in results:
            if not isinstance(result, Copy):
                settled.append(result)
                continue
            assert self._contents is not None
            outcome = self._contents.outcome(result.sha256)
            if outcome is None:  # the other image came in first, but has a later place
                return None
            settled.append(self._copied(result, outcome))
        return settled

    def _copied(self, copy: Copy, outcome: Outcome) -> UndecidedRow | Row:
        try:
            facts = merged_facts(copy.facts, outcome.facts)
            return self._row(copy.ref, facts, outcome, copy.origin, copy.duplicate_of, copy.content)
        except ModerateError:
            raise
        except Exception as error:  # noqa: BLE001 - no exception about one image ends a run
            return self._failed_row(copy.ref, internal_error(copy.ref, "recording", error))

    def _unsettled(self, result: _Result) -> _Settled:
        """A result that must not wait any longer."""
        if not isinstance(result, Copy):
            return result
        assert self._contents is not None
        if outcome := self._contents.outcome(result.sha256):
            return self._copied(result, outcome)
        missing = RuntimeError("the image that it is a copy of has no outcome")
        return self._failed_row(result.ref, internal_error(result.ref, "recording", missing))

    def _single(self, results: Sequence[_Settled]) -> list[_Settled]:
        """The results, with known rows one by one."""
        single: list[_Settled] = []
        for result in results:
            if isinstance(result, KnownRows):
                single += [self._contained_known(known) for known in result.known()]
            else:
                single.append(result)
        return single

    def _contained_known(self, known: Known) -> _Settled:
        return cast("_Settled", self._contained(known, None, NOT_SCORED))

    def _put_in_place(self, results: list[_Settled], position: int) -> list[_Settled]:
        """Correct which row is the first of each content, now that all rows before are known.

        position is that of the first of the results in the run. Which of two copies came in first
        is chance: origins follow the order of the input, too.
        """
        if self._contents is None or not self._contents.out_of_order:
            return results
        results = self._single(results)
        for index, result in enumerate(results):
            if isinstance(result, UndecidedRow) and result.facts.sha256:
                digest = bytes.fromhex(result.facts.sha256)
                first = self._contents.first(digest, position + index)
                origin = result.origin
                if origin in (Origin.NEW, Origin.DUPLICATE):
                    origin = Origin.NEW if first is None else Origin.DUPLICATE
                if (first, origin) != (result.duplicate_of, result.origin):
                    results[index] = result._replace(duplicate_of=first, origin=origin)
        return results

    def _row(
        self,
        ref: ImageRef,
        facts: ImageFacts,
        outcome: Outcome,
        origin: Origin,
        duplicate_of: bytes | None,
        content: bytes | None,
    ) -> UndecidedRow:
        result = outcome.result
        error = result if isinstance(result, ImageError) else None
        scores: Scores = UNSCORED if isinstance(result, ImageError) else result
        labels = {} if error else dict(zip(self._job.labels, outcome.labels, strict=True))
        scored_at = None if error or outcome.scored_at is None else moment(outcome.scored_at)
        if origin is Origin.REUSED and self._is_of_this_job(outcome):
            origin = Origin.NEW if duplicate_of is None else Origin.DUPLICATE
        return UndecidedRow(
            ref,
            facts,
            scores,
            error,
            labels,
            duplicate_of,
            origin,
            scored_at,
            read_places(outcome.places),
            content,
        )

    def _is_of_this_job(self, outcome: Outcome) -> bool:
        """Whether the outcome is of a run that broke off, and that this one finishes.

        Both times are whole seconds, rounded down: in doubt, an image is shown as new twice.
        """
        since, when = self._unfinished_since, outcome.scored_at
        return since is not None and when is not None and when >= since

    def _decided(self, results: Sequence[_Settled]) -> list[_Decided]:
        """The results with decisions, which are taken on all rows of a batch at once."""
        rows = iter(self._rows([each for each in results if isinstance(each, UndecidedRow)]))
        decided: list[_Decided] = []
        for each in results:
            if isinstance(each, UndecidedRow):
                decided.append(next(rows))
            elif isinstance(each, KnownRows):
                decided += self._decided_at_once(each)
            else:
                decided.append(each)
        return decided

    def _decided_at_once(self, known: KnownRows) -> Sequence[_Decided]:
        from moderate.run.row_batch import RowBatch  # pyarrow: only where there are known rows

        # Whether an outcome is of a run that broke off is looked at one by one.
        if self._unfinished_since is None:
            try:
                folder = working_directory()
                one_by_one = partial(self._decided_single, known)
                judge, labels = self._job.judge, self._job.labels
                return [RowBatch.of(known, judge, self._run_id, labels, folder, one_by_one)]
            except ModerateError:
                raise
            except Exception as error:
                log.debug("known images are decided one by one: %s", error, exc_info=error)
        return self._decided_single(known)

    def _decided_single(self, known: KnownRows) -> list[Row]:
        rows = cast("list[Row]", self._decided(self._single([known])))
        return list(map(self._with_hash, rows)) if self._job.hashes else rows

    def _rows(self, undecided: list[UndecidedRow]) -> list[Row]:
        try:
            return decide_rows(self._job.judge, undecided, self._run_id)
        except ModerateError:
            raise
        except Exception as error:  # noqa: BLE001 - no exception about one image ends a run
            if len(undecided) > 1:  # one by one, so that it costs that image alone
                return [row for each in undecided for row in self._rows([each])]
            ref = undecided[0].ref
            return [self._failed_row(ref, internal_error(ref, "recording", error))]


def _row_count(result: _Settled) -> int:
    return len(result) if isinstance(result, KnownRows) else 1
