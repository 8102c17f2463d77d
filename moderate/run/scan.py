"""A whole scan: inputs to result files and a summary."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self, cast, get_args
from uuid import uuid4

from moderate.classify.backends import ir_cache
from moderate.classify.bundle import Bundle, load_bundle
from moderate.classify.coverage import Coverage
from moderate.decode.formats import check_formats
from moderate.decode.limits import MOST_IMAGES_PER_DECODER
from moderate.decode.parts import EmbeddedChoice, ViewChoice
from moderate.decode.sandbox import MIN_MEMORY_BYTES
from moderate.decode.sniff import HEAD_BYTES, sniff
from moderate.decode.video import require_pyav
from moderate.errors import (
    DeviceError,
    InputError,
    ModerateError,
    OutputError,
    PolicyError,
    ReaderGoneError,
    UsageError,
    WeightsError,
)
from moderate.exports.forms import check_exports, open_exports
from moderate.faults import internal_error
from moderate.fetch.address import make_guard
from moderate.fetch.local import FetchError, read_head
from moderate.folders import cache_outside_home
from moderate.levels import levels_text
from moderate.libraries import installed_version
from moderate.policy.described import HOW_TO_BUILD, check_described, check_thresholds
from moderate.policy.judge import Judge
from moderate.policy.load import load_policy
from moderate.policy.rows import failed_row
from moderate.regular import file_identity
from moderate.results.interface import ResultWriter
from moderate.results.targets import (
    check_overwriting,
    check_reports,
    check_stdout,
    check_targets,
    finishing,
    identities,
    is_page,
    open_texts,
    open_writers,
)
from moderate.run.highlights import Highlights
from moderate.run.input_counts import nothing_found, nothing_was_there
from moderate.run.interface import Engine, Executor, Job, is_sharded, run_columns
from moderate.run.listing import Listing
from moderate.run.load_second import load_second
from moderate.run.near_duplicates import NearDuplicates
from moderate.run.options import ScanOptions, StateOptions
from moderate.run.pipeline import LocalEngine
from moderate.run.recorder import (
    Recorder,
    State,
    begin,
    check_resumable,
    open_state,
)
from moderate.run.shard_facts import RowPlaces, facts_at_end, facts_at_start, places_alone
from moderate.run.speeds import opinion_settings, speed_settings
from moderate.run.summary import Audit, Summary, audit_facts, selection_facts
from moderate.run.thumbnails import make_thumbnails
from moderate.sources.interface import Source
from moderate.sources.memory import Input
from moderate.sources.resolve import NO_INPUT, resolve
from moderate.state.run_lock import exclusive
from moderate.state.scores import ScoreStore
from moderate.text import one_line, path_text, printable, utc
from moderate.types import Row, Skipped
from moderate.version import __version__

if TYPE_CHECKING:
    from moderate.run.row_batch import RowBatch  # which needs pyarrow

log = logging.getLogger(__name__)

SummaryText = Callable[[Summary, str], str]
"""Gives the text of a summary in the format of a target."""


MOST_BATCH = 4096
"""Largest batch_size."""

# Audit facts that only the end of a run knows for certain.
_KNOWN_LATE = frozenset({"device", "precision", "backend", "sandbox"})

NO_WEIGHTS = (
    "no weights chosen, and none are used unasked. "
    "Install some with 'moderate weights pull NAME' (see 'moderate weights list') and name them "
    "with --weights NAME, or try the pipeline on test cards with --weights testcard"
)


def plan(options: ScanOptions) -> Job:
    """Check everything that can be checked cheaply. Raises the errors under ModerateError."""
    if not (options.inputs or options.reading.files_from):
        raise InputError(NO_INPUT)
    reading = replace(
        options.reading,
        max_file_bytes=options.limits.max_file_bytes,
        max_pixels=options.limits.max_pixels,
    )
    return plan_sources(options, lambda: resolve(options.inputs, reading))


def plan_sources(options: ScanOptions, open_sources: Callable[[], Sequence[Source]]) -> Job:
    """`plan` for sources that are opened when what is quicker to check has been checked."""
    if not options.weights:
        raise WeightsError(NO_WEIGHTS)
    if options.video:
        options.video.check()
        require_pyav()
    _check_numbers(options)
    check_formats(options.formats)
    for name, choices in (("views", get_args(ViewChoice)), ("embedded", get_args(EmbeddedChoice))):
        if (value := getattr(options, name)) not in choices:
            there = ", ".join(repr(choice) for choice in choices)
            raise UsageError(f"--{name} {value!r}: use {there}")
    check_targets(options.out, options.partition_by)
    check_exports(options.exports)
    check_stdout([*options.out, *(each.target for each in options.exports)])
    check_reports("--summary", options.summary)
    if options.thumbnails and not any(map(is_page, options.summary)):
        raise UsageError("--thumbnails goes with --summary FILE.html")
    make_guard(options.http.allow_private, options.http.allowed_hosts)
    policy = load_policy(options.policy)
    sources = open_sources()
    baseline = options.export.baseline
    read = identities(file for source in sources for file in source.files)
    check_overwriting(
        options.out,
        options.summary,
        read | identities([*policy.files, *(baseline.files if baseline else ())]),
        force=options.force,
        exports=[each.target for each in options.exports],
    )
    bundle = load_bundle(options.weights)
    second = load_second(policy, bundle)
    carried = [column.name for column in run_columns(sources, second)]
    if taken := [name for name in bundle.card.own_categories if name in carried]:
        raise UsageError(
            f"--keep {taken[0]}: the weights {bundle.name} have a category of that name; give the "
            f"column another, as in --keep original_{taken[0]}={taken[0]}"
        )
    judge = Judge.of(policy, columns=carried, labels_there=bundle.level_labels)
    check_described(
        judge,
        bundle.card.levels,
        there=f"the weights {bundle.name} were built for",
        advice=f"build weights for this policy: {HOW_TO_BUILD}",
    )
    check_thresholds(judge, bundle.level_labels)
    scored, written = _labels(bundle, judge, keep=options.keep_labels)
    options = replace(
        options,
        formats=check_formats(options.formats),
        http=replace(options.http, max_bytes=options.limits.max_file_bytes),
    )
    job = Job(
        options=options,
        sources=sources,
        bundle=bundle,
        policy=policy,
        judge=judge,
        labels=scored,
        written_labels=written,
        level_labels=tuple(name for name in bundle.level_labels if name in scored),
        converted=_converted(options.state),
        second=second,
    )
    if options.near_duplicates and job.place_count:
        raise UsageError("--near-duplicates does not go with --shard: it compares all rows")
    _ = job.columns  # raises UsageError where two have one name
    if options.reading.keep and not any(source.columns for source in sources):
        raise UsageError("--keep: none of the inputs has columns; it goes with manifests")
    return job


def _labels(bundle: Bundle, judge: Judge, *, keep: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The own categories and labels that are scored and kept, and those of them that are written.

    Own categories always are. Where any labels are scored, all that --keep-labels writes are: what
    is kept for later runs then serves both. Raises PolicyError for what the weights do not have.
    """
    own = bundle.card.own_categories
    policy = f"policy {printable(judge.policy.name)}"
    if unfed := [name for name in judge.own if name not in own]:
        feed = f"of their own, they feed {', '.join(own)}" if own else "they have none of their own"
        raise PolicyError(
            f"{policy}: categories.own.{unfed[0]}: the weights {bundle.name} feed no such "
            f"category; {feed}"
        )
    asked = judge.labels
    if not (keep or asked):
        return own, own
    there = [name for names in bundle.labels for name in names]
    if missing := [name for name in asked if name not in there]:
        shown = one_line(", ".join(bundle.kept_labels), 400)
        raise PolicyError(
            f"{policy}: labels.{missing[0]!r}: the weights "
            f"{bundle.name} have no such label; they have {shown}"
        )
    if twice := [name for name, count in Counter(there).items() if count > 1]:
        raise WeightsError(
            f"the weights {bundle.name} have two labels called {one_line(twice[0], 60)!r}, which "
            "cannot be told apart; go without --keep-labels and without thresholds for labels"
        )
    scored = (*own, *dict.fromkeys([*bundle.kept_labels, *asked]))
    return scored, scored if keep else (*own, *asked)


def _converted(state: StateOptions | None) -> str | None:
    """The folder for converted models; without a state, or with one elsewhere, none in the home.

    A cache that the environment names outside the home serves runs with any state, and with none.
    """
    if cache := cache_outside_home():
        return os.path.join(cache, "openvino")
    if state is None:
        return None
    if state.required and state.folder:
        return os.path.join(os.path.abspath(state.folder), "openvino")
    return ir_cache.cache_folder()


def _check_numbers(options: ScanOptions) -> None:
    """Most are the command line's own checks too; Python callers may pass anything."""
    if options.limits.max_decoder_bytes < MIN_MEMORY_BYTES:
        raise UsageError(
            f"--max-decoder-memory: a decoder needs {MIN_MEMORY_BYTES >> 20}MB at the least"
        )
    if not 1 <= options.batch_size <= MOST_BATCH:
        raise UsageError(f"batch_size {options.batch_size}: use 1 to {MOST_BATCH}")
    if options.workers is not None and options.workers < 1:
        raise UsageError(f"workers {options.workers}: use 1 or more")
    if options.limit is not None and options.limit < 1:
        raise UsageError(f"limit {options.limit}: use 1 or more")
    if options.max_listed < 0:
        raise UsageError(f"max_listed {options.max_listed}: use 0 or more")
    if options.lock_wait is not None and not options.lock_wait >= 0:
        raise UsageError(f"lock_wait {options.lock_wait}: use seconds of 0 or more")
    if not 1 <= options.images_per_decoder <= MOST_IMAGES_PER_DECODER:
        raise UsageError(
            f"images_per_decoder {options.images_per_decoder}: use 1 to {MOST_IMAGES_PER_DECODER}"
        )
    if options.hourly_cost is not None and not 0 <= options.hourly_cost < float("inf"):
        raise UsageError(f"--hourly-cost {options.hourly_cost}: use an amount of 0 or more")
    if not 0 < options.limits.decode_timeout < float("inf"):
        raise UsageError(f"decode_timeout {options.limits.decode_timeout}: use seconds over 0")


class LocalExecutor(Executor):
    """Runs jobs on this machine."""

    def open_engine(
        self, job: Job, store: ScoreStore | None, run_id: str, unfinished_since: int | None
    ) -> Engine:
        """See `Executor`."""
        return LocalEngine(job, store, run_id=run_id, unfinished_since=unfinished_since)


def run(
    job: Job,
    on_item: Callable[[Row | RowBatch | Skipped], None],
    summary_text: SummaryText,
    on_wait: Callable[[str], None] = lambda line: None,
    executor: Executor | None = None,
) -> Summary:
    """Run a planned scan to its end; `on_item` is called for each item. See `iterate`.

    Rows that are known by columns come as a batch.
    """
    items = _iterate(job, summary_text, on_wait, executor, in_batches=True)
    try:
        while True:
            try:
                item = next(items)
            except StopIteration as end:
                summary: Summary = end.value
                return summary
            on_item(item)
    except BaseException as error:
        items.throw(error)  # what ends the run while it waits here is for it to record
        raise


def iterate(
    job: Job,
    summary_text: SummaryText,
    on_wait: Callable[[str], None] = lambda line: None,
    executor: Executor | None = None,
) -> Generator[Row | Skipped, None, Summary]:
    """Run a planned scan, write its files, and give the summary back. Without executor, it runs
    on this machine.

    Yields each row and each skipped file, in order. `summary_text` is called for each target of a
    summary, at the end; `on_wait` with a line when another run has to end first. No file is put
    under its name before all rows were taken. Raises the errors under ModerateError. What else
    ends it, such as a signal, gets a note on how to go on, if what was scored is kept.
    """
    items = _iterate(job, summary_text, on_wait, executor, in_batches=False)
    return (yield from cast("Generator[Row | Skipped, None, Summary]", items))


def _iterate(
    job: Job,
    summary_text: SummaryText,
    on_wait: Callable[[str], None],
    executor: Executor | None,
    *,
    in_batches: bool,
) -> Generator[Row | RowBatch | Skipped, None, Summary]:
    options = job.options
    started, run_id = datetime.now(UTC), uuid4().hex
    with open_state(options.state) as state:
        command = options.state.command if options.state else ()
        named = input_names(options)
        queued = options.lock is not None
        recorder = begin(state, run_id, started, command, named, options.targets, queued=queued)
        try:
            with ExitStack() as stack:
                if options.lock is not None:
                    lock = exclusive(options.lock, options.lock_wait, on_wait, run_id=run_id)
                    stack.enter_context(lock)
                    recorder.running()
                if not options.rescore:
                    check_resumable(state, run_id, job.bundle, options.out)
                recorder.save_policy(job.policy)
                recorder.settings = speed_settings(options) | opinion_settings(job)
                where = executor or LocalExecutor()
                summary = yield from _run(
                    job,
                    run_id,
                    started,
                    state,
                    recorder,
                    summary_text,
                    where,
                    in_batches=in_batches,
                )
        except BaseException as error:
            how = recorder.how_to_go_on(rescore=options.rescore)
            if how and not isinstance(error, Exception):
                error.add_note(how)
            recorder.end(error)
            if how and isinstance(error, OutputError) and not isinstance(error, ReaderGoneError):
                raise OutputError(f"{error}; {how}") from error
            if how and isinstance(error, DeviceError):
                raise DeviceError(f"{error}; {how}") from error
            raise
    return summary


def input_names(options: ScanOptions) -> list[str]:
    """The inputs as the ledger and summaries name them."""
    return [*map(_input_name, options.inputs), *options.reading.files_from]


def _input_name(item: Input) -> str:
    """What the ledger calls an input."""
    if isinstance(item, (str, os.PathLike)):
        return os.fspath(item)
    return f"({type(item).__name__} in memory)"


def _run(
    job: Job,
    run_id: str,
    started: datetime,
    state: State | None,
    recorder: Recorder,
    summary_text: SummaryText,
    executor: Executor,
    *,
    in_batches: bool,
) -> Generator[Row | RowBatch | Skipped, None, Summary]:
    options = job.options
    clock = time.monotonic()
    taken = _Taken.of(options.targets)
    with (
        ExitStack() as stack,
        open_writers(
            [each for each in options.out if each not in executor.owned],
            options.csv,
            options.partition_by,
        ) as row_writers,
        open_exports(options.exports, options.export) as exports,
        open_texts(options.summary) as summaries,
        executor.open_engine(
            job,
            state.scores if state else None,
            run_id,
            recorder.unfinished_since() if options.only else None,
        ) as engine,
    ):
        writers: list[ResultWriter] = [*row_writers, *engine.writers, *exports]
        audit = _audit(job, engine, run_id, started)
        own = job.bundle.card.own_categories
        summary = Summary(audit, job.policy.policy, job.judge, own=own)
        summary.hourly_cost = options.hourly_cost
        summary.highlights = Highlights.of(input_names(options), options.targets)
        summary.only, summary.max_listed = options.only, options.max_listed
        if any(map(is_page, options.summary)):
            summary.listing = Listing(job.policy.policy, own=own)
        summary.baseline = options.export.baseline
        summary.may_be_empty = any(source.may_be_empty for source in job.sources)
        recorder.counting(summary)
        known = {k: v for k, v in audit_facts(audit).items() if k not in _KNOWN_LATE}
        places = RowPlaces() if is_sharded(job.sources) else None
        of_share = facts_at_start(options) if places else {}
        known |= of_share
        for writer in writers:
            writer.start(known, job.columns, job.written_labels)
        near = None
        if options.near_duplicates:
            near = stack.enter_context(contextlib.closing(NearDuplicates()))
        # Where each row has to be looked at, nothing is gained by columns.
        in_batches = in_batches and not (exports or (taken and taken.images))
        in_batches = in_batches and summary.counts_batches() and places is None
        items = engine.batches() if in_batches else engine.rows()
        with contextlib.closing(items) as rows:  # type: ignore[type-var]
            for item in rows:
                if not isinstance(item, Row | Skipped):
                    recorded = _record_batch(item, summary, writers, job, near)
                    recorder.tick()
                    yield from recorded
                    continue
                if isinstance(item, Skipped):
                    summary.count_skipped(item)
                else:
                    if taken:
                        taken.check(item)
                    if places:
                        item = places.placed(item)
                    if near:
                        item = near.compared(item)
                    if summary.writes(item):
                        item = _record(item, summary, writers, of_share=places is not None)
                recorder.tick()
                yield item
        summary.audit = _audit(job, engine, run_id, started)
        summary.startup_seconds = engine.startup_seconds
        summary.batch_limit = engine.batch_limit
        summary.second_opinions = tuple(engine.second_opinions)
        summary.limit = options.limit if engine.limited else None
        summary.input_notes = engine.input_notes
        summary.ended, summary.seconds = datetime.now(UTC), time.monotonic() - clock
        if nothing_was_there(summary):
            raise InputError(nothing_found(summary))
        facts = {
            **audit_facts(summary.audit),
            **selection_facts(summary),
            **of_share,
            **facts_at_end(engine.listing, summary),
            "ended": utc(summary.ended),
        }
        if options.thumbnails and summary.listing:
            summary.listing.thumbnails = make_thumbnails(
                summary.listing, options.limits, require_sandbox=options.require_sandbox
            )
        # What takes its time comes first.
        for writer in writers:
            writer.seal(facts)
        summary.export_notes = [note for export in exports for note in export.notes]
        for file in summaries:
            file.seal(summary_text(summary, file.target))
        with finishing(options.targets):
            for writer in writers:
                recorder.outputs.update(writer.commit(facts))
            for file in summaries:
                recorder.outputs.update(file.commit())
            recorder.end(None)
    return summary


def _record_batch(
    batch: RowBatch,
    summary: Summary,
    writers: Sequence[ResultWriter],
    job: Job,
    near: NearDuplicates | None,
) -> Sequence[Row | RowBatch]:
    """Count and write many rows at once; one by one where they have no columns. See `_record`."""
    try:
        columns = batch.own_columns(job.written_labels)
        hashes = batch.hash_columns() if job.hashes else []
    except ModerateError:
        raise
    except Exception as error:
        log.debug("known images are written one by one: %s", error, exc_info=error)
        rows = batch.one_by_one()
        if near:
            rows = [near.compared(row) for row in rows]
        return [_record(row, summary, writers) for row in rows]
    if near:
        hashes.append(near.column(batch.known))
    summary.count_batch(batch, columns)
    for writer in writers:
        writer.write_columns(list(columns.values()), hashes)
    return [batch]


def _record(
    row: Row, summary: Summary, writers: Sequence[ResultWriter], *, of_share: bool = False
) -> Row:
    """Count and write a row; one that cannot be written as it is becomes an error row.

    Nothing is written before every writer has found a cell for each of its values, so that all
    results say the same. Raises OutputError.
    """
    try:
        prepared = [writer.prepare(row) for writer in writers]
        summary.count(row)
    except ModerateError:
        raise
    except Exception as error:  # noqa: BLE001 - no exception about one image ends a run
        failed = internal_error(row.ref, "writing", error)
        # What it carries may be the reason.
        ref = replace(row.ref, carried=places_alone(row.ref.carried) if of_share else ())
        row = failed_row(summary.policy, ref, failed, summary.audit.run_id)
        prepared = [writer.prepare(row) for writer in writers]
        summary.count(row)
    for writer, cells in zip(writers, prepared, strict=True):
        writer.put(cells)
    return row


@dataclass(frozen=True, slots=True)
class _Taken:
    """What stands under targets' names already, which must not turn out to be among the images.

    Results and summaries are no images, so that it is enough to look at the rows of those that are
    none, unless somebody has named an image like a result.
    """

    identities: frozenset[tuple[int, int]]
    images: bool

    @classmethod
    def of(cls, targets: Sequence[str]) -> Self | None:
        """None where there is nothing yet."""
        found = {name: identity for name in targets if (identity := file_identity(name))}
        if not found:
            return None
        heads = [_head(name) for name in found]
        return cls(frozenset(found.values()), any(sniff(head) for head in heads))

    def check(self, row: Row) -> None:
        """Raises UsageError where the row's file would be replaced by the results."""
        if row.ref.location is not None or not (row.error or self.images):
            return
        if file_identity(row.ref.path) in self.identities:
            name = printable(path_text(row.ref.display))
            raise UsageError(f"{name} is an input; write the results elsewhere")


def _head(name: str) -> bytes:
    try:
        return read_head(os.fsencode(name), HEAD_BYTES)
    except FetchError:
        return b""


def _audit(job: Job, engine: Engine, run_id: str, started: datetime) -> Audit:
    placement = engine.placement
    return Audit(
        version=__version__,
        run_id=run_id,
        weights=job.bundle.name,
        weights_sha256=job.bundle.sha256,
        weights_purpose=job.bundle.card.purpose,
        weights_models=tuple(model.summary() for model in job.bundle.models),
        policy=job.policy.policy.name,
        policy_sha256=job.policy.sha256,
        policy_json=job.policy.policy.model_dump_json(),
        policy_file=job.policy.shown_file,
        device=placement.shown,
        precision=placement.precision,
        backend=placement.backend,
        sandbox=engine.sandbox,
        exact_decode=all(spec.exact for spec in job.specs),
        torch=installed_version("torch"),
        timm=installed_version("timm"),
        started=started,
        config=job.options.config,
        coverage=Coverage.of_card(job.bundle.card),
        looked_at=job.options.looked_at,
        levels=levels_text(job.bundle.card.levels) if job.level_labels else "",
        second_weights=tuple((each.bundle.name, each.bundle.sha256) for each in job.second),
        second_opinion=json.dumps([each.opinion.model_dump(mode="json") for each in job.second]),
    )
