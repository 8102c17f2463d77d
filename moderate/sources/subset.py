"""Part of a source: what matches patterns, or one shard of N."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from moderate.errors import UsageError
from moderate.sources.directory import WalkOptions
from moderate.sources.interface import Source
from moderate.text import path_text
from moderate.types import Column, ErrorCode, ImageRef, Limits, Skipped, SkipReason

INPUT_NUMBER = "shard_input"
"""The column of a share's rows with the place of the input among those of all shares, from 1."""

ROW_NUMBER = "shard_row"
"""The same with the place of the row among those of its input: a video has several."""

CONTENT = "shard_content"
"""The same with the digest (hex) that a row is a copy by, where it is not that of its file.

So it is for frames of videos. NO_CONTENT stands for a row that is a copy of nothing.
"""

NO_CONTENT = "-"

PLACE_COLUMNS = (INPUT_NUMBER, ROW_NUMBER, CONTENT)

SKIPPED_KEPT = 3
"""Names of skipped files that are kept for each reason."""

_SHARD = re.compile(r"([0-9]{1,9})/([0-9]{1,9})", re.ASCII)


@dataclass(slots=True)
class InputListing:
    """All inputs of a run in order, counted as they pass by, of which one share is for this run.

    The digest shows whether two shares have met the same inputs in the same order. skipped has how
    many of this share got no row by reason, first_skipped the number and name of the first ones.
    """

    count: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    first_skipped: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    _sha256: Any = field(default_factory=hashlib.sha256)

    def add(self, item: ImageRef | Skipped) -> None:
        """Take one input in, of whichever share."""
        self.count += 1
        kind = b"-" if isinstance(item, Skipped) else b"+"
        self._sha256.update(b"%b%d:%b" % (kind, len(item.path), item.path))

    def skip(self, item: Skipped) -> None:
        """Count the input that was added last as one of this share without a row."""
        reason = item.reason.value
        self.skipped[reason] = self.skipped.get(reason, 0) + 1
        first = self.first_skipped.setdefault(reason, [])
        if len(first) < SKIPPED_KEPT:
            first.append((self.count, path_text(item.path)))

    @property
    def sha256(self) -> str:
        """The digest (hex) of all inputs so far."""
        digest: str = self._sha256.hexdigest()
        return digest


@dataclass(frozen=True, slots=True)
class ShardedSource(Source):
    """Share `index` of `count` (from 1) of a source: each input is in one share, wherever it runs.

    An input's share depends on its name alone, as BLAKE2b's first 8 bytes modulo `count`; so
    machines that name the same input in the same way share it without communicating.
    """

    source: Source
    index: int
    count: int

    def __iter__(self) -> Iterator[ImageRef | Skipped]:
        """See `Source`."""
        for item in self.source:
            if share(item.path, self.count) == self.index:
                yield item

    def placed(self, listing: InputListing) -> Iterator[tuple[ImageRef | Skipped, int]]:
        """The same with the number of each, which goes on from that of the listing.

        The listing takes in the inputs of all shares.
        """
        for item in self.source:
            listing.add(item)
            if share(item.path, self.count) == self.index:
                if isinstance(item, Skipped):
                    listing.skip(item)
                yield item, listing.count

    @property
    def label(self) -> bytes:
        """See `Source`."""
        return self.source.label

    @property
    def files(self) -> tuple[bytes, ...]:
        """See `Source`."""
        return self.source.files

    @property
    def columns(self) -> tuple[Column, ...]:
        """See `Source`."""
        return self.source.columns

    @property
    def countable(self) -> bool:
        """See `Source`."""
        return self.source.countable

    def largest_image(self, limits: Limits) -> int:
        """See `Source`."""
        return self.source.largest_image(limits)

    @property
    def may_be_empty(self) -> bool:
        """A shard of a small input may be empty."""
        return True


@dataclass(frozen=True, slots=True)
class FilteredSource(Source):
    """A source without what --include and --exclude leave out, which is `Skipped` with the reason.

    Patterns are those of a folder's walk. One without a slash is matched against the name, one with
    slashes against the whole identity: a path without leading `/` or `./`, a URL without query
    and as `https:/host/path`, a member of an archive or manifest by its name within. Lines that
    name nothing keep their error row.
    """

    source: Source
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[ImageRef | Skipped]:
        """See `Source`."""
        options = WalkOptions(include=self.include, exclude=self.exclude)
        for item in self.source:
            if (
                isinstance(item, ImageRef)
                and _has_name(item)
                and options.leaves_out(_matched_part(item), folder=False)
            ):
                yield Skipped(item.path, SkipReason.EXCLUDED)
            else:
                yield item

    @property
    def label(self) -> bytes:
        """See `Source`."""
        return self.source.label

    @property
    def files(self) -> tuple[bytes, ...]:
        """See `Source`."""
        return self.source.files

    @property
    def columns(self) -> tuple[Column, ...]:
        """See `Source`."""
        return self.source.columns


def parse_shard(text: str) -> tuple[int, int]:
    """`I/N` as (I, N), 1 <= I <= N; raises UsageError."""
    match = _SHARD.fullmatch(text.strip())
    if match:
        index, count = int(match[1]), int(match[2])
        if 1 <= index <= count:
            return index, count
    raise UsageError(f"--shard {text!r}: give I/N with I from 1 to N, as in 2/8")


def share(path: bytes, count: int) -> int:
    """Which of `count` shares, from 1, an input of this name is in."""
    digest = hashlib.blake2b(path.removeprefix(b"./"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % count + 1


def _has_name(ref: ImageRef) -> bool:
    """Whether patterns apply: a line that does not name an image keeps its error row."""
    nameless = (ErrorCode.BAD_INPUT, ErrorCode.BAD_URL, ErrorCode.PATH_TOO_LONG)
    return ref.error is None or ref.error.code not in nameless


def _matched_part(ref: ImageRef) -> bytes:
    path = ref.path
    if ref.location is not None and b"://" in path:
        path = re.split(rb"[?#]", path, maxsplit=1)[0]
    path = path.split(b"!/", 1)[-1]
    return b"/".join(part for part in path.split(b"/") if part not in (b"", b"."))
