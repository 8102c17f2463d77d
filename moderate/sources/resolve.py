"""What the command line names, as sources: a folder, a file, or a glob."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moderate.errors import InputError
from moderate.sources.directory import DirectorySource, GlobPattern, WalkOptions
from moderate.sources.interface import Source
from moderate.text import path_text, printable
from moderate.types import ImageRef, Skipped

_GLOB_CHARACTERS = frozenset(b"*?[")


@dataclass(frozen=True, slots=True)
class FileSource(Source):
    """One path named by the user; it gets a row whatever it turns out to be."""

    path: bytes

    def __iter__(self) -> Iterator[ImageRef | Skipped]:
        """See `Source`."""
        yield ImageRef(self.path)


def resolve(inputs: Sequence[str | os.PathLike[str]], options: WalkOptions) -> list[Source]:
    """A source for each input, in order.

    A path that exists is taken as it is, even with glob characters in its name; one that does not
    is a glob if it has any, else a file that will get its `not_found` row. Raises InputError where
    not one of the inputs is there.
    """
    if not inputs:
        raise InputError("no input given; name a folder, a file or a glob")
    paths = [os.fsencode(item) for item in inputs]
    sources = [_resolve_one(path, options) for path in paths]
    missing = [
        path
        for path, source in zip(paths, sources, strict=True)
        if isinstance(source, FileSource) and not os.path.lexists(path)
    ]
    if len(missing) == len(paths):
        names = ", ".join(printable(path_text(path)) for path in missing[:3])
        raise InputError(f"no input found: {names} does not exist")
    return sources


def _resolve_one(path: bytes, options: WalkOptions) -> Source:
    if os.path.isdir(path):
        return DirectorySource(path, options)
    if os.path.lexists(path) or not _GLOB_CHARACTERS & set(path):
        return FileSource(path)
    segments = path.split(b"/")
    first_magic = next(index for index, part in enumerate(segments) if _GLOB_CHARACTERS & set(part))
    root = b"/".join(segments[:first_magic]) or (b"/" if path.startswith(b"/") else b".")
    if not os.path.isdir(root):
        return FileSource(path)
    pattern = GlobPattern(tuple(part for part in segments[first_magic:] if part))
    return DirectorySource(root, options, pattern)
