"""Sources for what the command line names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO, ClassVar, TypeGuard

from moderate.decode.sniff import HEAD_BYTES, claimed_format
from moderate.errors import InputError, UsageError
from moderate.fetch.local import FetchError, read_head
from moderate.fetch.naming import shown
from moderate.globs import GlobPattern
from moderate.sources.archive import (
    ARCHIVE_SUFFIXES,
    ArchiveSource,
    Opener,
    check_decompressor,
    is_archive,
    local_opener,
)
from moderate.sources.columns import ManifestOptions
from moderate.sources.directory import DirectorySource, WalkOptions
from moderate.sources.entries import entry_ref
from moderate.sources.interface import Source
from moderate.sources.manifest import (
    list_or_manifest,
    listing_suffix,
)
from moderate.sources.members import ArchiveLimits
from moderate.sources.memory import ACCEPTED, Input, MemorySource, is_memory_image
from moderate.sources.not_found import explain
from moderate.sources.parquet_folder import parquet_files_in
from moderate.sources.refused import check_readable
from moderate.sources.subset import FilteredSource, ShardedSource
from moderate.text import path_text, printable
from moderate.types import ImageRef, Limits, Skipped, StoredObject

NO_INPUT = "no INPUT given; name a folder, a file, a glob, an archive, a list or a URL"

_GLOB_CHARACTERS = frozenset(b"*?[")


@dataclass(frozen=True, slots=True)
class InputOptions:
    """How inputs are read.

    nul is for `files_from` and standard input; shard is (I, N), from 1. columns names those of CSV
    without a header. relative_to is where relative paths of lists and manifests start; None: at the
    current folder, and at the manifest's own.
    """

    walk: WalkOptions = field(default_factory=WalkOptions)
    image_column: str | None = None
    keep: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    relative_to: str | None = None
    files_from: tuple[str, ...] = ()
    nul: bool = False
    shard: tuple[int, int] | None = None
    max_file_bytes: int = Limits().max_file_bytes
    max_pixels: int = Limits().max_pixels

    @property
    def manifest(self) -> ManifestOptions:
        """The options of manifests."""
        return ManifestOptions(
            image_column=self.image_column,
            keep=self.keep,
            columns=self.columns,
            max_file_bytes=self.max_file_bytes,
            base=None if self.relative_to is None else os.fsencode(self.relative_to),
        )

    @property
    def archive(self) -> ArchiveLimits:
        """The limits of archives."""
        return replace(ArchiveLimits(), max_file_bytes=self.max_file_bytes)


@dataclass(frozen=True, slots=True)
class FileSource(Source):
    """One path or URL that the user named; it always gets a row."""

    kind: ClassVar[str] = "file"

    ref: ImageRef | Skipped

    @property
    def files(self) -> tuple[bytes, ...]:
        """See `Source`."""
        return (self.ref.path,)

    @property
    def countable(self) -> bool:
        """See `Source`."""
        return True

    def __iter__(self) -> Iterator[ImageRef | Skipped]:
        """See `Source`."""
        yield self.ref


def resolve(
    inputs: Sequence[Input],
    options: InputOptions,
    stdin: BinaryIO | None = None,
) -> list[Source]:
    """Sources for the inputs, in order, those of `files_from` last.

    A URL is what it says. A path that exists is taken as it is, even with glob characters in its
    name: a folder, an archive, a list or manifest by its suffix, else a file. One that does not
    exist is a glob if it has such characters, else a file that will get its `not_found` row. What
    is not a name is an image in memory.

    Raises InputError where not one of the inputs is there, or one of them cannot be read at all or
    is of no use here; UsageError for what is neither a name nor an image, and for options that fit
    none of the inputs.
    """
    if not inputs and not options.files_from:
        raise InputError(NO_INPUT)
    names = [os.fspath(item) for item in inputs if isinstance(item, (str, os.PathLike))]
    if names.count("-") + options.files_from.count("-") > 1:
        raise InputError("standard input can be read once; give - once")
    sources: list[Source] = []
    for number, item in enumerate(inputs):
        if isinstance(item, (str, os.PathLike)):
            sources += _resolve_one(os.fsencode(item), options, stdin)
        elif is_memory_image(item):
            limits = Limits(options.max_file_bytes, options.max_pixels)
            sources.append(MemorySource((item,), limits, first=number))
        else:
            kind = type(item).__name__
            hint = "unpack it: scan(*images)" if isinstance(item, Iterable) else ACCEPTED
            raise UsageError(f"{kind} is not an input; {hint}")
    missing = [source.ref.path for source in sources if _is_missing(source)]
    if sources and len(missing) == len(sources) and not options.files_from:
        shown_names = ", ".join(printable(path_text(path)) for path in missing[:3])
        verb = "does" if len(missing) == 1 else "do"
        finding = explain(missing[0])
        hint = f"; {finding.hint}" if finding else ""
        raise InputError(f"no input found: {shown_names} {verb} not exist{hint}")
    for file in options.files_from:
        listed = list_or_manifest(file, options.manifest, nul=options.nul, stdin=stdin)
        sources.append(_filtered(listed, options))
    if options.columns and not any(map(_is_csv, sources)):
        raise UsageError("--columns: none of the inputs is CSV; call it .csv, or feed it to -")
    if options.shard:
        index, count = options.shard
        return [ShardedSource(source, index, count) for source in sources]
    return sources


def _is_csv(source: Source) -> bool:
    from moderate.sources.text_manifest import CsvManifest

    return isinstance(source.source if isinstance(source, FilteredSource) else source, CsvManifest)


def _is_missing(source: Source) -> TypeGuard[FileSource]:
    return (
        isinstance(source, FileSource)
        and isinstance(source.ref, ImageRef)
        and source.ref.location is None
        and source.ref.error is None
        and not os.path.lexists(source.ref.path)
    )


def _filtered(source: Source, options: InputOptions) -> Source:
    """A list or manifest with the filters; walks, archives and stores filter before they read."""
    walk = options.walk
    if walk.include or walk.exclude:
        return FilteredSource(source, walk.include, walk.exclude)
    return source


def _resolve_one(path: bytes, options: InputOptions, stdin: BinaryIO | None) -> list[Source]:
    if path == b"-":
        listed = list_or_manifest("-", options.manifest, nul=options.nul, stdin=stdin)
        return [_filtered(listed, options)]
    if os.path.isdir(path):
        parts = parquet_files_in(path)
        if parts is None:
            return [DirectorySource(path, options.walk)]
        from moderate.sources.parquet_manifest import parquet_manifest

        return [_filtered(parquet_manifest(parts, options.manifest, root=path), options)]
    if os.path.lexists(path):
        return [_named_file(path, options)]
    try:
        ref = entry_ref(path, max_file_bytes=options.max_file_bytes, by_operator=True)
    except FetchError as error:
        return [FileSource(ImageRef(shown(path), error=error.error, whole_input=True))]
    if isinstance(ref.location, StoredObject):
        return [_in_store(ref.path, ref.location.uri, options)]
    if ref.location is None and ref.error is None and _GLOB_CHARACTERS & set(path):
        return _glob(path, options)
    # A path that is not there could have been anything: a folder, an archive, a list.
    return [FileSource(replace(ref, whole_input=ref.location is None))]


def _named_file(path: bytes, options: InputOptions) -> Source:
    """The source that a file of this name is. Raises InputError for one that is of no use here."""
    if listing_suffix(path):
        return _filtered(list_or_manifest(path, options.manifest), options)
    archive = _may_be_archive(path)
    if claimed_format(path) or not os.path.splitext(path)[1]:
        # Thousands may be named, also by digests: none of them is to be opened twice.
        return FileSource(ImageRef(path))
    try:
        head = read_head(path, HEAD_BYTES)
    except FetchError:
        return FileSource(ImageRef(path, whole_input=archive))  # its row reports it
    if archive and is_archive(path, head):
        check_decompressor(path, head)
        name = ImageRef(path).display
        return ArchiveSource(name, local_opener(path), options.archive, options.walk)
    check_readable(path, head)
    return FileSource(ImageRef(path, whole_input=archive))


def _may_be_archive(path: bytes) -> bool:
    return path.lower().endswith(ARCHIVE_SUFFIXES)


def _in_store(name: bytes, uri: str, options: InputOptions) -> Source:
    check_readable(name, b"")
    if listing_suffix(name):
        raise InputError(
            f"{printable(path_text(name))}: lists and manifests are read from local files; fetch "
            "it first (what it names may stay in the store)"
        )
    if _may_be_archive(name):
        return ArchiveSource(name, _store_opener(uri), options.archive, options.walk)
    from moderate.sources.store import StoreSource

    return StoreSource(uri, options.walk)


def _store_opener(uri: str) -> Opener:
    def opener() -> BinaryIO:
        from moderate.fetch.store import open_input

        return open_input(uri)

    return opener


def _glob(path: bytes, options: InputOptions) -> list[Source]:
    segments = path.split(b"/")
    first_magic = next(index for index, part in enumerate(segments) if _GLOB_CHARACTERS & set(part))
    root = b"/".join(segments[:first_magic]) or (b"/" if path.startswith(b"/") else b".")
    if not os.path.isdir(root):
        return [FileSource(ImageRef(path, whole_input=True))]
    pattern = GlobPattern(tuple(part for part in segments[first_magic:] if part))
    walk = DirectorySource(root, options.walk, pattern)
    if not (_may_be_archive(path) or listing_suffix(path)):
        return [walk]
    # Shards: each becomes the source that it would be if it were named itself. They are few.
    return [
        _named_file(item.path, options)
        if isinstance(item, ImageRef) and item.error is None
        else FileSource(item)
        for item in walk
    ]
