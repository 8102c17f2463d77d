"""Files of one folder by columns: most of a second run's inputs never become objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moderate.types import ImageRef, Warn


@dataclass(frozen=True, slots=True)
class FolderFiles:
    """Regular files of one folder that follow each other and each get a row.

    paths are those of `ImageRef`, names their last parts, claims what `claimed_format` says of
    each. warnings and follow_symlinks are those of every one.
    """

    folder: bytes
    names: Sequence[bytes]
    paths: Sequence[bytes]
    claims: Sequence[str | None]
    warnings: tuple[Warn, ...]
    follow_symlinks: bool

    def __len__(self) -> int:
        return len(self.paths)

    def ref(self, index: int) -> ImageRef:
        """One of them as an input."""
        return ImageRef(self.paths[index], self.warnings, follow_symlinks=self.follow_symlinks)

    def part(self, start: int, end: int) -> FolderFiles:
        """Some of them."""
        these = slice(start, end)
        return FolderFiles(
            self.folder,
            self.names[these],
            self.paths[these],
            self.claims[these],
            self.warnings,
            self.follow_symlinks,
        )
