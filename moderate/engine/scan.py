"""A whole scan: inputs to result files and a summary."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from uuid import uuid4

from moderate.classify.bundle import Bundle, load_bundle
from moderate.cores import available_cores
from moderate.decode.sandbox import MIN_MEMORY_BYTES
from moderate.decode.video import LEAST_EVERY, VideoOptions, require_pyav
from moderate.engine.interface import Engine, Job
from moderate.engine.local import LocalEngine
from moderate.errors import InputError, UsageError, WeightsError
from moderate.fetch.address import make_guard
from moderate.fetch.options import HttpOptions
from moderate.policy.load import LoadedPolicy, load_policy
from moderate.report.files import check_summary_targets, write_summary
from moderate.report.summary import Audit, Summary, audit_facts, utc
from moderate.results.open import check_targets, has_metadata, open_writers, to_stdout
from moderate.results.remote import is_remote, shown_target, target_name
from moderate.results.text_writers import metadata_path
from moderate.sources.resolve import NO_INPUT, InputOptions, file_identity, resolve
from moderate.text import path_text, printable
from moderate.types import ErrorCode, Limits, Row, Skipped
from moderate.version import __version__

MOST_BATCH = 4096
"""Largest batch_size."""

NO_WEIGHTS = (
    "no weights chosen, and none are used unasked. "
    "Install some with 'moderate weights pull NAME' (see 'moderate weights list') and name them "
    "with --weights NAME, or try the pipeline on test cards with --weights testcard"
)


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """What a scan is asked to do; the defaults are those of the command line."""

    inputs: Sequence[str | os.PathLike[str]]
    weights: str | None = None
    policy: str = "balanced"
    out: Sequence[str] = ()
    summary: Sequence[str] = ()
    reading: InputOptions = field(default_factory=InputOptions)
    http: HttpOptions = field(default_factory=HttpOptions)
    limits: Limits = field(default_factory=Limits)
    device: str = "auto"
    precision: str = "auto"
    backend: str = "auto"
    compile: bool = False
    require_sandbox: bool = False
    exact_decode: bool = False
    batch_size: int = 32
    workers: int | None = None
    limit: int | None = None
    hourly_cost: float | None = None
    video: VideoOptions | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A scan whose every option was found to make sense, before any image is opened."""

    options: ScanOptions
    bundle: Bundle
    policy: LoadedPolicy
    job: Job


def plan(options: ScanOptions) -> Plan:
    """Check everything that can be checked cheaply. Raises the errors under ModerateError."""
    if not (options.inputs or options.reading.files_from):
        raise InputError(NO_INPUT)
    if not options.weights:
        raise WeightsError(NO_WEIGHTS)
    if options.video:
        if not LEAST_EVERY <= options.video.every < float("inf"):
            raise UsageError(f"--video-every: use {LEAST_EVERY:g} seconds or more")
        require_pyav()
    _check_numbers(options)
    check_targets(options.out)
    check_summary_targets(options.summary)
    make_guard(options.http.allow_private, options.http.allowed_hosts)
    policy = load_policy(options.policy)
    reading = replace(options.reading, max_file_bytes=options.limits.max_file_bytes)
    sources = resolve(options.inputs, reading)
    read = {file_identity(file) for source in sources for file in source.files}
    _check_distinct(options, {identity for identity in read if identity})
    bundle = load_bundle(options.weights)
    job = Job(
        sources=sources,
        bundle=bundle,
        policy=policy.policy,
        limits=options.limits,
        device=options.device,
        precision=options.precision,
        backend=options.backend,
        compile=options.compile,
        require_sandbox=options.require_sandbox,
        exact_decode=options.exact_decode,
        http=replace(options.http, max_bytes=options.limits.max_file_bytes),
        batch_size=options.batch_size,
        workers=options.workers or available_cores(),
        max_rows=options.limit,
        video=options.video,
    )
    if reading.keep and not job.columns:
        raise UsageError("--keep: none of the inputs has columns; it goes with manifests")
    return Plan(options, bundle, policy, job)


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
    if not 0 < options.limits.decode_timeout < float("inf"):
        raise UsageError(f"decode_timeout {options.limits.decode_timeout}: use seconds over 0")


def _check_distinct(options: ScanOptions, inputs: Collection[tuple[int, int]]) -> None:
    """No target twice, and none that is an input: by its file, whatever names lead to it."""
    results = [target for target in options.out if not to_stdout(target)]
    # An object's options stand behind its name; without them it is the same object.
    named = [target_name(target) for target in [*results, *options.summary]]
    written = [*named, *(metadata_path(t) for t in named[: len(results)] if has_metadata(t))]
    real = [shown_target(t) if is_remote(t) else os.path.realpath(t) for t in written]
    for target, path in zip(written, real, strict=True):
        if real.count(path) > 1:
            raise UsageError(f"{shown_target(target)} would be written twice")
        if not is_remote(target) and file_identity(target) in inputs:
            raise UsageError(f"{shown_target(target)} is an input; write the results elsewhere")


def run(planned: Plan, on_item: Callable[[Row | Skipped], None]) -> Summary:
    """Run a planned scan, write its files, and give the summary back.

    `on_item` is called for each row and each skipped file, in order. No file is put under its name
    before all rows are there. Raises the errors under ModerateError.
    """
    options = planned.options
    started = datetime.now(UTC)
    clock = time.monotonic()
    # What stands under a target's name already must not turn out to be among the images.
    targets = [*options.out, *options.summary]
    taken = {identity for target in targets if (identity := file_identity(target))}
    with open_writers(options.out) as writers, LocalEngine(planned.job) as engine:
        summary = Summary(_audit(planned, engine, started), planned.policy.policy)
        summary.hourly_cost = options.hourly_cost
        summary.startup_seconds = time.monotonic() - clock
        for writer in writers:
            writer.start(audit_facts(summary.audit), planned.job.columns)
        with contextlib.closing(engine.rows()) as rows:  # type: ignore[type-var]
            for item in rows:
                if isinstance(item, Skipped):
                    summary.count_skipped(item)
                else:
                    if taken and item.ref.location is None:
                        _check_not_taken(item, taken)
                    summary.count(item)
                    for writer in writers:
                        writer.write(item)
                on_item(item)
        summary.batch_limit = engine.batch_limit
        summary.limit = options.limit if engine.limited else None
        summary.ended, summary.seconds = datetime.now(UTC), time.monotonic() - clock
        named = not any(source.may_be_empty for source in planned.job.sources)
        if named and summary.rows == summary.error_codes[ErrorCode.NOT_FOUND]:
            raise InputError(_nothing_found(summary))
        for writer in writers:
            writer.commit(utc(summary.ended))
    for target in options.summary:
        write_summary(summary, target)
    return summary


def _check_not_taken(row: Row, taken: Collection[tuple[int, int]]) -> None:
    if file_identity(row.ref.path) in taken:
        name = printable(path_text(row.ref.display))
        raise UsageError(f"{name} is an input; write the results elsewhere")


def _nothing_found(summary: Summary) -> str:
    if missing := summary.error_examples.get(ErrorCode.NOT_FOUND):
        return f"no input found: nothing is at {', '.join(missing)}"
    if not summary.skipped:
        return "no input found: there are no files"
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(summary.skipped.items()))
    return f"no input found: none of {summary.skipped.total()} files is an image ({reasons})"


def _audit(planned: Plan, engine: Engine, started: datetime) -> Audit:
    placement = engine.placement
    return Audit(
        version=__version__,
        run_id=uuid4().hex,
        weights=planned.bundle.name,
        weights_sha256=planned.bundle.sha256,
        weights_purpose=planned.bundle.card.purpose,
        weights_models=tuple(model.summary() for model in planned.bundle.models),
        policy=planned.policy.policy.name,
        policy_sha256=planned.policy.sha256,
        device=placement.device
        if placement.device == placement.name
        else f"{placement.device} {placement.name}",
        precision=placement.precision,
        backend=placement.backend,
        sandbox=engine.protections,
        exact_decode=all(spec.exact for spec in planned.job.specs),
        torch=version("torch"),
        timm=version("timm"),
        started=started,
    )
