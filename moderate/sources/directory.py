"""A folder walked in sorted order: every image in it, and what was skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import ClassVar

from moderate.decode.sniff import HEAD_BYTES, claimed_format, sniff
from moderate.fetch.local import FetchError, is_kept, os_error, read_head
from moderate.globs import GlobPattern, matches_any
from moderate.sources.folder_files import FolderFiles
from moderate.sources.interface import Source
from moderate.types import ErrorCode, ImageError, ImageRef, Skipped, SkipReason, Warn

_MOST_TOGETHER = 4096  # files


@dataclass(frozen=True, slots=True)
class WalkOptions:
    """What a walk includes. Patterns are shell globs on the name or the path below the input."""

    all_files: bool = False
    hidden: bool = False
    follow_symlinks: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def leaves_out(self, relative: bytes, *, folder: bool) -> bool:
        """Whether --include or --exclude leave this path (below the input) out."""
        if not (self.exclude or self.include):
            return False
        parts = relative.split(b"/")
        if matches_any(parts, self.exclude):
            return True
        return bool(self.include) and not folder and not matches_any(parts, self.include)


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder still to be listed. inside: a glob matched it or one above; outside: a link led to
    it out of the root."""

    path: bytes
    relative: bytes
    inside: bool
    outside: bool


@dataclass(frozen=True, slots=True)
class DirectorySource(Source):
    """Everything below `root`, depth first, each folder's names sorted by their bytes.

    With `pattern`, files that match it are named like those on the command line (each gets a row),
    and folders that match are walked. The open folders are on a list, not on Python's stack, so
    the system's path length alone bounds the depth; what is longer is reported.
    """

    kind: ClassVar[str] = "folder"

    root: bytes
    options: WalkOptions = field(default_factory=WalkOptions)
    pattern: GlobPattern | None = None

    @property
    def label(self) -> bytes:
        """See `Source`."""
        return os.path.join(self.root, *(self.pattern.segments if self.pattern else ()))

    @property
    def countable(self) -> bool:
        """See `Source`."""
        return True

    def __iter__(self) -> Iterator[ImageRef | Skipped]:
        """See `Source`."""
        for part in self.parts():
            if isinstance(part, FolderFiles):
                yield from map(part.ref, range(len(part)))
            else:
                yield part

    def parts(self) -> Iterator[ImageRef | Skipped | FolderFiles]:
        """See `Source`."""
        visited: set[tuple[int, int]] = set()
        matched = self.pattern is None
        start = _Folder(self.root, b"", inside=self.pattern is None, outside=False)
        open_folders = [self._list(start, visited)]
        while open_folders:
            item = next(open_folders[-1], None)
            if item is None:
                open_folders.pop()
            elif isinstance(item, _Folder):
                open_folders.append(self._list(item, visited))
            else:
                matched = True
                yield item
        if not matched:
            # As a shell does with a pattern that matches nothing: the pattern itself is missing.
            missing = ImageError(ErrorCode.NOT_FOUND, "nothing matches")
            yield ImageRef(self.label, error=missing, whole_input=True)

    def _list(
        self, folder: _Folder, visited: set[tuple[int, int]]
    ) -> Iterator[ImageRef | Skipped | FolderFiles | _Folder]:
        try:
            if self.options.follow_symlinks:
                status = os.stat(folder.path)
                if (status.st_dev, status.st_ino) in visited:
                    yield Skipped(folder.path, SkipReason.LOOP)
                    return
                visited.add((status.st_dev, status.st_ino))
            with os.scandir(folder.path) as listing:
                entries = sorted(listing, key=attrgetter("name"))
        except OSError as error:
            problem = os_error(error, "open the folder")
            yield ImageRef(folder.path, error=problem, whole_input=True)
            return
        plain: list[tuple[os.DirEntry[bytes], str | None]] = []
        all_files = self.options.all_files
        is_simple = self.pattern is None and not (self.options.include or self.options.exclude)
        for entry in entries:
            name = entry.name
            claimed = claimed_format(name)
            # Most are: what `_entry` would make of them, many at once.
            if (
                is_simple
                and (claimed or all_files)
                and not name.startswith(b".")
                and _is_regular(entry)
            ):
                plain.append((entry, claimed))
                if len(plain) < _MOST_TOGETHER:
                    continue
                item = None
            else:
                item = self._entry(entry, folder)
            if plain and (item is not None or len(plain) == _MOST_TOGETHER):
                yield self._together(plain, folder)
                plain = []
            if item is not None:
                yield item
        if plain:
            yield self._together(plain, folder)

    def _together(
        self, plain: list[tuple[os.DirEntry[bytes], str | None]], folder: _Folder
    ) -> FolderFiles:
        return FolderFiles(
            folder.path,
            [entry.name for entry, _ in plain],
            [entry.path for entry, _ in plain],
            [claimed for _, claimed in plain],
            (Warn.SYMLINK_OUTSIDE,) if folder.outside else (),
            follow_symlinks=self.options.follow_symlinks,
        )

    def _entry(
        self, entry: os.DirEntry[bytes], parent: _Folder
    ) -> ImageRef | Skipped | _Folder | None:
        options, name = self.options, entry.name
        relative = parent.relative + b"/" + name if parent.relative else name
        named = self.pattern is not None and self.pattern.matches(relative)
        if not (parent.inside or named or (self.pattern and self.pattern.may_hold(relative))):
            return None
        follow = options.follow_symlinks or named  # a match counts as named by the user
        asked_for = named and self.pattern is not None and self.pattern.asks_for_hidden
        if name.startswith(b".") and not (options.hidden or asked_for):
            return Skipped(entry.path, SkipReason.HIDDEN)
        is_link = entry.is_symlink()
        if is_link and not follow:
            return Skipped(entry.path, SkipReason.SYMLINK)
        try:
            is_folder = entry.is_dir()
            is_file = entry.is_file()
        except OSError as error:
            return ImageRef(entry.path, error=os_error(error))
        if options.leaves_out(relative, folder=is_folder):
            return Skipped(entry.path, SkipReason.EXCLUDED)
        outside = self._leads_outside(entry.path) if is_link else parent.outside
        if is_folder:
            return _Folder(entry.path, relative, parent.inside or named, outside)
        if not (parent.inside or named):
            return None
        warnings = (Warn.SYMLINK_OUTSIDE,) if outside else ()
        ref = ImageRef(entry.path, warnings, follow_symlinks=follow)
        if named or options.all_files or claimed_format(name):
            return ref
        return _look(ref) if is_file else Skipped(entry.path, SkipReason.NOT_REGULAR)

    def _leads_outside(self, path: bytes) -> bool:
        root = os.path.realpath(self.root)
        return os.path.commonpath([root, os.path.realpath(path)]) != root


def _is_regular(entry: os.DirEntry[bytes]) -> bool:
    """Whether it is a regular file itself; False where that cannot be found out."""
    try:
        return entry.is_file(follow_symlinks=False)
    except OSError:
        return False


def _look(ref: ImageRef) -> ImageRef | Skipped:
    """Decide by its first bytes whether a file counts whose name does not claim to be an image."""
    if is_kept(ref.path):
        return Skipped(ref.path, SkipReason.NOT_AN_IMAGE)
    try:
        head = read_head(ref.path, HEAD_BYTES, follow_symlinks=ref.follow_symlinks)
    except FetchError as error:
        return replace(ref, error=error.error)
    return ref if sniff(head) else Skipped(ref.path, SkipReason.NOT_AN_IMAGE)
