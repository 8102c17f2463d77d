"""Moderating from Python: a scan as an iterator of rows, and a moderator that stays ready."""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import weakref
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Self

from moderate.classify.backends import ir_cache
from moderate.decode.parts import frame_choice
from moderate.decode.video import VideoOptions
from moderate.errors import UsageError
from moderate.fetch.options import HttpOptions
from moderate.native import check_not_forked
from moderate.results.interface import CsvForm
from moderate.run.interface import Job
from moderate.run.options import ScanOptions, StateOptions
from moderate.run.pipeline import LocalEngine
from moderate.run.resources import Resources
from moderate.run.scan import iterate, plan, plan_sources
from moderate.run.summary import Summary, as_json
from moderate.sources.memory import Input, MemorySource, check_items
from moderate.sources.resolve import InputOptions
from moderate.state.database import default_folder
from moderate.types import NO_EXTRA_COLUMNS, ExtraColumns, Limits, Origin, Row, Skipped

Name = str | os.PathLike[str]

_SCAN_ONLY = (
    "inputs",
    "out",
    "summary",
    "exports",
    "export",
    "reading",
    "limit",
    "state",
    "rescore",
    "retry_errors",
    "verify",
    "lock",
    "lock_wait",
    "hourly_cost",
    "only",
    "max_listed",
    "thumbnails",
    "force",
    "csv",
    "partition_by",
    "near_duplicates",
)
_NONE = type(None)
_TYPES: dict[str, tuple[str, tuple[type, ...]]] = {
    "limits": ("a moderate.Limits", (Limits,)),
    "reading": ("a moderate.InputOptions", (InputOptions,)),
    "http": ("a moderate.HttpOptions", (HttpOptions,)),
    "video": ("a moderate.VideoOptions", (VideoOptions, _NONE)),
    "state": ("a folder or a moderate.StateOptions", (StateOptions, _NONE)),
    "csv": ("a moderate.CsvForm", (CsvForm,)),
}
# By the annotation of a field: what to pass, and of which types it has to be.
_PLAIN_TYPES: dict[str, tuple[str, tuple[type, ...]]] = {
    "bool": ("True or False", (bool,)),
    "int": ("a whole number", (int,)),
    "int | None": ("a whole number", (int, _NONE)),
    "float": ("a number", (int, float)),
    "float | None": ("a number", (int, float, _NONE)),
    "str": ("text", (str,)),
    "str | None": ("text", (str, _NONE)),
    "tuple[str, ...]": ("a list of texts", (list, tuple)),
}


def scan(
    *inputs: Input,
    options: ScanOptions | None = None,
    weights: Name | None = None,
    policy: Name | None = None,
    out: Name | Sequence[Name] | None = None,
    summary: Name | Sequence[Name] | None = None,
    state: Name | bool | StateOptions | None = None,
    device: str | None = None,
    precision: str | None = None,
    backend: str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    limits: Limits | None = None,
    keep_labels: bool | None = None,
) -> Rows:
    """One `Row` per image, in input order, as an iterator.

    inputs are what the command line takes (folders, files, globs, archives, lists, manifests,
    URLs), and images in memory: the bytes of a file, a file open in binary mode, a Pillow image, or
    a numpy array of uint8, H x W x 3, H x W x 4 or H x W.

    `options` holds everything that the command line has options for. The other arguments are the
    most common of them; one that is not None replaces what `options` says. out and summary name
    one file or several, which appear when the last row was taken. state is a folder for scores and
    the ledger of runs, or True for the one that the command line uses; without, the scan remembers
    nothing of images. With keep_labels, `Row.labels` has the scores of the networks' own labels,
    named MODEL/LABEL.

    Raises the errors under ModerateError: here where the arguments are at fault, and when the first
    row is taken where the device or the weights are. What is wrong with one image is an error row,
    never an exception.
    """
    check_not_forked()
    asked = _options(
        ScanOptions() if options is None else options,
        inputs=inputs or None,
        weights=weights,
        policy=policy,
        out=out,
        summary=summary,
        state=state,
        device=device,
        precision=precision,
        backend=backend,
        batch_size=batch_size,
        workers=workers,
        limits=limits,
        keep_labels=keep_labels,
    )
    job = plan(asked)
    return Rows(job if asked.state else _with_cache(job))


class Rows(Iterator[Row]):
    """The rows of a scan, which goes on as they are taken; an iterator and a context manager.

    Breaking off the loop, `close`, and the end of the last reference end the scan: its processes
    end, and none of its files appears. With a state, what was scored is kept. One thread takes rows
    at a time; UsageError otherwise, and in a process that was forked meanwhile.
    """

    def __init__(self, job: Job) -> None:
        from moderate.report.summary import as_text

        self._items: Generator[Row | Skipped, None, Summary] = iterate(job, as_text)
        self._extra = _extra_columns(job)
        self._only = job.options.only
        self._lock = threading.Lock()
        self._process = os.getpid()
        self.summary: dict[str, Any] | None = None
        """After the last row, the summary as `--summary` writes it to JSON; None before."""
        _in_use.add(self)

    def __iter__(self) -> Self:
        """Return itself: rows can be taken once."""
        return self

    def __next__(self) -> Row:
        """The next row. Raises what ends the scan, which is a ModerateError."""
        _check_process(self._process, "scan")
        if not self._lock.acquire(blocking=False):
            raise UsageError("another thread is taking a row of this scan; take them from one")
        try:
            while True:
                item = next(self._items)
                if isinstance(item, Row) and (not self._only or item.origin in self._only):
                    return _with_columns(item, self._extra)
        except StopIteration as end:
            if end.value is not None:
                self.summary = as_json(end.value)
            raise StopIteration from None
        finally:
            self._lock.release()

    def close(self) -> None:
        """End the scan now. Harmless when repeated, and in a forked process."""
        if self._process != os.getpid() or not self._lock.acquire(blocking=False):
            return
        try:
            self._items.close()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Moderator:
    """Decoders and a model that stay ready for one list of images after another.

    A context manager: entering starts the decoders and loads the model, leaving ends them. Without
    `with`, the first call starts them and `close` ends them. Threads may share it: one call runs at
    a time, and the others wait. A process that was forked from its owner cannot use it.

    The arguments are those of `scan`. Of `options`, what says how images are scored and decided
    counts; inputs, outputs and the state are for `scan` alone. Raises the errors under
    ModerateError.
    """

    def __init__(
        self,
        *,
        options: ScanOptions | None = None,
        weights: Name | None = None,
        policy: Name | None = None,
        device: str | None = None,
        precision: str | None = None,
        backend: str | None = None,
        batch_size: int | None = None,
        workers: int | None = None,
        limits: Limits | None = None,
        keep_labels: bool | None = None,
    ) -> None:
        self._resources: Resources | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._process = os.getpid()
        check_not_forked()
        asked = _options(
            ScanOptions() if options is None else options,
            weights=weights,
            policy=policy,
            device=device,
            precision=precision,
            backend=backend,
            batch_size=batch_size,
            workers=workers,
            limits=limits,
            keep_labels=keep_labels,
        )
        usual = ScanOptions()
        unfit = [name for name in _SCAN_ONLY if getattr(asked, name) != getattr(usual, name)]
        if unfit:
            raise UsageError(f"a Moderator has no {', '.join(unfit)}: use moderate.scan for that")
        self._job = _with_cache(plan_sources(asked, lambda: [MemorySource((), asked.limits)]))
        self._extra = _extra_columns(self._job)
        _in_use.add(self)

    def moderate(self, images: Iterable[Input]) -> list[Row]:
        """One row per image, in order.

        An image is a path or a URL, or one in memory as for `scan`. What cannot be scored gets an
        error row, also what is no image at all. Raises UsageError where `images` is no list, where
        the moderator was closed, and in a forked process; otherwise the errors under ModerateError
        that no single image is the cause of. After an exception the next call starts anew.
        """
        check_items(images)
        _check_process(self._process, "Moderator")
        items = list(images)  # not under the lock: a generator may take its time, or call this, too
        with self._lock:
            resources = self._started()
            source = MemorySource(items, self._job.options.limits, named=True)
            try:
                with LocalEngine(replace(self._job, sources=[source]), resources=resources) as run:
                    rows = [row for row in run.rows() if isinstance(row, Row)]
            except BaseException:
                self._stop()
                raise
        return [_with_columns(row, self._extra) for row in rows]

    def close(self) -> None:
        """End the decoders and let go of the model. Harmless when repeated."""
        if self._process == os.getpid():
            with self._lock:
                self._closed = True
                self._stop()

    def __enter__(self) -> Self:
        """Start the decoders and load the model. Raises DeviceError, WeightsError, RunError."""
        _check_process(self._process, "Moderator")
        with self._lock:
            self._started()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_resources", None) is not None:  # __init__ may have refused its arguments
            self.close()

    def _started(self) -> Resources:
        if self._closed:
            raise UsageError("this Moderator is closed; create another one")
        if self._resources is not None and self._resources.pool.ended:
            self._stop()
        if self._resources is None:
            resources = Resources(self._job, at_once=True, last=True)
            try:
                resources.__enter__().load()
            except BaseException:
                resources.__exit__()
                raise
            self._resources = resources
        return self._resources

    def _stop(self) -> None:
        resources, self._resources = self._resources, None
        if resources is not None:
            resources.__exit__()


def _options(base: ScanOptions, **changes: Any) -> ScanOptions:
    """The options with those changes that are not None. Raises UsageError for a wrong type."""
    if not isinstance(base, ScanOptions):
        raise UsageError(f"options: pass a moderate.ScanOptions, not {type(base).__name__}")
    options = replace(base, **{name: value for name, value in changes.items() if value is not None})
    options = replace(
        options,
        weights=_name("weights", options.weights) if options.weights is not None else None,
        policy=_name("policy", options.policy),
        out=_names("out", options.out),
        summary=_names("summary", options.summary),
        state=_state(options.state),
        lock=_name("lock", options.lock) if options.lock is not None else None,
        only=_origins(options.only),
    )
    for name, (expected, kinds) in _TYPES.items():
        value = getattr(options, name)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise UsageError(f"{name}: pass {expected}, not {type(value).__name__}")
    try:
        frame_choice(options.frames)
    except ValueError as error:
        raise UsageError(f"frames: {error}, not {options.frames!r}") from None
    _check_plain("", options)
    _check_plain("reading.walk.", options.reading.walk)
    reading = replace(
        options.reading, files_from=_names("reading.files_from", options.reading.files_from)
    )
    if reading.relative_to is not None:
        start = _name("reading.relative_to", reading.relative_to)
        reading = replace(reading, relative_to=start)
    _check_plain("reading.", reading)
    _check_shard(reading.shard)
    options = replace(options, reading=reading)
    _check_plain("csv.", options.csv)
    for field in fields(options.limits):
        value = getattr(options.limits, field.name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
            raise UsageError(f"limits: {field.name} {value!r}: use a number of 0 or more")
    return options


def _check_plain(prefix: str, options: Any) -> None:
    """Raise UsageError for a field of a dataclass whose value is not of its plain type.

    A text in place of a list would be taken as its letters, and a text for a flag as True.
    """
    for field in fields(options):
        if field.type not in _PLAIN_TYPES:
            continue
        expected, kinds = _PLAIN_TYPES[str(field.type)]
        value = getattr(options, field.name)
        wrong = not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
        if wrong or (list in kinds and not all(isinstance(one, str) for one in value)):
            raise UsageError(f"{prefix}{field.name}: pass {expected}, not {_shown_type(value)}")


def _shown_type(value: object) -> str:
    kind = type(value).__name__
    if isinstance(value, (list, tuple)):
        return f"a {kind} of {', '.join(sorted({type(one).__name__ for one in value}))}"
    return kind


def _check_shard(shard: object) -> None:
    if shard is None:
        return
    numbers = isinstance(shard, (list, tuple)) and [type(one) for one in shard] == [int, int]
    if not numbers or not 1 <= shard[0] <= shard[1]:  # type: ignore[index]
        raise UsageError(f"reading.shard {shard!r}: pass (I, N), two whole numbers, I from 1 to N")


def _origins(value: object) -> tuple[Origin, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        shown = type(value).__name__
        raise UsageError(f"only: pass a list of origins, as [moderate.Origin.NEW], not {shown}")
    known = [origin.value for origin in Origin]
    origins = list(value)
    if unknown := [one for one in origins if one not in known]:
        raise UsageError(f"only: {unknown[0]!r} is no origin: use {', '.join(known)}")
    return tuple(Origin(one) for one in origins)


def _name(option: str, value: object) -> str:
    if isinstance(value, (str, os.PathLike)):
        return os.fsdecode(value)
    raise UsageError(f"{option}: pass a name or a path, not {type(value).__name__}")


def _names(option: str, value: object) -> tuple[str, ...]:
    if isinstance(value, (str, os.PathLike)):
        return (_name(option, value),)
    if isinstance(value, Iterable) and not isinstance(value, (bytes, bytearray)):
        return tuple(_name(option, one) for one in value)
    raise UsageError(f"{option}: pass a path or a list of paths, not {type(value).__name__}")


def _state(value: object) -> Any:
    if value is True:
        return StateOptions(default_folder(), command=("moderate.scan",))
    if value is False:
        return None
    if isinstance(value, (str, os.PathLike)):
        return StateOptions(Path(os.fsdecode(value)), required=True, command=("moderate.scan",))
    return value


def _with_cache(job: Job) -> Job:
    """The job with converted models kept in the user's cache: they tell nothing about images.

    Without, every notebook cell would convert the model again.
    """
    return replace(job, converted=ir_cache.cache_folder())


def _extra_columns(job: Job) -> ExtraColumns:
    if job.columns or job.written_labels:
        return ExtraColumns(job.columns, job.written_labels)
    return NO_EXTRA_COLUMNS


def _with_columns(row: Row, extra: ExtraColumns) -> Row:
    return row if extra is NO_EXTRA_COLUMNS else replace(row, extra=extra)


# Forks and the end of the process -----------------------------------------------------------------

_in_use: weakref.WeakSet[Rows | Moderator] = weakref.WeakSet()
"""Every `Rows` and `Moderator`: what they hold must end before the interpreter does."""


def _check_process(owner: int, what: str) -> None:
    if owner != os.getpid():
        raise UsageError(
            f"this {what} belongs to process {owner}, from which this one was forked: threads and "
            f"decoders are not copied by a fork; create the {what} in each process, after the fork"
        )


def _keep_in_child() -> None:
    """Never clean up in a forked process: files and processes are those of the parent.

    A reference that is never given back keeps generators from being closed by the collector.
    """
    for owned in _in_use:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(owned))


def _end_all() -> None:
    """End them before the interpreter stops the threads that the end of a pool waits for."""
    for owned in list(_in_use):
        if not owned._lock.locked():  # a daemon thread is in the middle of a call
            owned.close()


os.register_at_fork(after_in_child=_keep_in_child)
atexit.register(_end_all)
