"""Fragments: a run's inputs in order, cut into parts that a worker takes as a whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import ClassVar

from moderate.classify.device import Placement
from moderate.cluster.options import ClusterOptions
from moderate.results.schema import COLUMNS
from moderate.run.inputs import with_columns
from moderate.run.interface import Job
from moderate.run.scopes import scopes
from moderate.sources.interface import Source
from moderate.types import Column, ImageRef, Inline, Limits, Skipped, StoredObject, Url
from moderate.version import __version__


@dataclass(frozen=True, slots=True)
class Fragment:
    """Consecutive inputs of a run.

    number counts from 0, first_row is the number of rows before it. name is that of its file of
    rows, which says what the rows depend on; empty for a fragment without rows.
    """

    number: int
    first_row: int
    entries: tuple[ImageRef | Skipped, ...]
    name: str

    @property
    def refs(self) -> list[ImageRef]:
        """The inputs that get a row, in order."""
        return [entry for entry in self.entries if isinstance(entry, ImageRef)]

    def without_bytes(self) -> Fragment:
        """The same without the images' own bytes, which only a worker needs."""
        return replace(self, entries=tuple(map(_without_bytes, self.entries)))


@dataclass(frozen=True)
class FragmentSource(Source):
    """The inputs of a fragment as a source of the job that a worker runs."""

    kind: ClassVar[str] = "fragment"

    entries: Sequence[ImageRef] = ()
    carried: tuple[Column, ...] = ()
    largest: int = 0

    def __iter__(self) -> Iterator[ImageRef | Skipped]:
        """See `Source`."""
        return iter(self.entries)

    @property
    def columns(self) -> tuple[Column, ...]:
        """See `Source`."""
        return self.carried

    def largest_image(self, limits: Limits) -> int:
        """See `Source`."""
        return self.largest

    @property
    def may_be_empty(self) -> bool:
        """See `Source`."""
        return True


def settings_digest(job: Job, placement: Placement) -> bytes:
    """A digest of everything but the inputs that the rows of a job depend on."""
    found = scopes(job, placement)
    options = job.options
    settings = {
        "version": __version__,
        "columns": [column.name for column in COLUMNS],
        "scopes": [scope.hex() for scope in (found.scores, found.errors)],
        "policy": job.policy.sha256,
        "limits": asdict(options.limits),
        "labels": job.written_labels,
        "carried": [(column.name, str(column.type)) for column in job.columns],
        "private": [options.http.allow_private, list(options.http.allowed_hosts)],
        "folder": os.getcwd(),  # `uri` has it
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).digest()


def fragments(
    job: Job, options: ClusterOptions, settings: bytes, on_limit: Callable[[], None]
) -> Iterator[Fragment]:
    """The inputs of a job, which are walked once, as fragments.

    settings is what `settings_digest` gives. Ends after job.options.limit images, and calls
    `on_limit` then.
    """
    entries: list[ImageRef | Skipped] = []
    number = first_row = rows = size = 0
    digest = hashlib.sha256(settings)

    def cut() -> Fragment:
        name = f"part-{number:06}-{digest.hexdigest()[:16]}.parquet" if rows else ""
        return Fragment(number, first_row, tuple(entries), name)

    for entry in inputs(job):
        entries.append(entry)
        if isinstance(entry, ImageRef):
            digest.update(_identity(entry))
            rows += 1
            size += len(entry.location.data) if isinstance(entry.location, Inline) else 0
            if first_row + rows == job.options.limit:
                yield cut()
                on_limit()
                return
        if len(entries) >= options.images_per_fragment or size >= options.bytes_per_fragment:
            yield cut()
            number, first_row = number + 1, first_row + rows
            entries, rows, size = [], 0, 0
            digest = hashlib.sha256(settings)
    if entries:
        yield cut()


def inputs(job: Job) -> Iterator[ImageRef | Skipped]:
    """Every input of a job, with values for the columns of all sources."""
    columns = [column.name for column in job.input_columns]
    for source in job.sources:
        names = [column.name for column in source.columns]
        for entry in source:
            yield with_columns(entry, names, columns)


def _identity(ref: ImageRef) -> bytes:
    """What changes when the row of an input may change. URLs and objects count as unchanged."""
    location = ref.location
    content: object = None
    if isinstance(location, Inline):
        content = hashlib.sha256(location.data).hexdigest()
    elif isinstance(location, Url):
        content = location.url
    elif isinstance(location, StoredObject):
        content = location.uri
    elif ref.error is None:
        try:
            status = os.stat(ref.path, follow_symlinks=ref.follow_symlinks)
            content = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        except (OSError, ValueError):
            content = "cannot be read"
    parts: Iterable[object] = (
        ref.display,
        type(location).__name__,
        content,
        ref.warnings,
        ref.error,
        ref.follow_symlinks,
        ref.carried,
    )
    # Hashed by itself, so that no two lists of references run together to the same bytes.
    return hashlib.sha256(repr(tuple(parts)).encode("utf-8", "surrogateescape")).digest()


def _without_bytes(entry: ImageRef | Skipped) -> ImageRef | Skipped:
    if isinstance(entry, ImageRef) and isinstance(entry.location, Inline):
        return replace(entry, location=replace(entry.location, data=b""))
    return entry
