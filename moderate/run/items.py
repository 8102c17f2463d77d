"""The items that travel from the reader of a run to its rows: one per input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from moderate.decode.intake import Coming
from moderate.run.known_rows import Known, KnownRows
from moderate.run.videos import VideoBegin, VideoEnd
from moderate.state.known_files import FileRecord
from moderate.types import ImageError, ImageFacts, ImageRef, Origin, Skipped


@dataclass(frozen=True, slots=True)
class Unread:
    """A file that is not read, as the state keeps it: digest says why, and stands for its content.

    used is what to mark in the state as used, if anything.
    """

    digest: bytes
    used: tuple[bytes, bytes] | None


@dataclass(frozen=True, slots=True)
class Fetched:
    """An image on its way: what is known before decoding, and the error if it ends there.

    sha256 is that of its bytes, None where there are none; claimed is what stands for them among
    the contents of the run. file is where they were read, None where that is not to be remembered.
    unread is set where the error lasts although nothing was read. kept is that of `Known`.
    """

    ref: ImageRef
    facts: ImageFacts
    error: ImageError | None = None
    sha256: bytes | None = None
    file: FileRecord | None = None
    origin: Origin = Origin.NEW
    duplicate_of: bytes | None = None
    unread: Unread | None = None
    claimed: bytes | None = None
    kept: bytes | None = None


@dataclass(frozen=True, slots=True)
class Copy:
    """An image with the same bytes as another one of this run, whose outcome it waits for.

    sha256 is what stands for them among the contents of the run, content their own digest.
    """

    ref: ImageRef
    facts: ImageFacts
    sha256: bytes
    file: FileRecord | None
    origin: Origin
    duplicate_of: bytes | None
    content: bytes


@dataclass(frozen=True, slots=True)
class Block:
    """Known images, by themselves or many at once, and skipped files, in order."""

    items: list[Known | KnownRows | Skipped]

    @property
    def rows(self) -> int:
        """How many rows of the run it stands for."""
        return sum(map(row_count, self.items))


Item = Fetched | Copy | Known | Block | Skipped | VideoBegin | VideoEnd
"""An input, which travels with its bytes if it has any."""

Images = Iterator[tuple[Item, "bytes | Coming[Item] | None"]]
"""Items with their bytes or a future of them; None where nothing is to be decoded."""


def row_count(item: Item | KnownRows) -> int:
    """How many rows of the run an item stands for."""
    if isinstance(item, Block):
        return item.rows
    return len(item) if isinstance(item, KnownRows) else 1
