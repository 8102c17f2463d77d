"""Archives read in place: each image in a .zip or .tar by its name, without unpacking to disk."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import BinaryIO, ClassVar

from moderate.decode.sniff import HEAD_BYTES, claimed_format, sniff
from moderate.fetch.local import FetchError, open_regular
from moderate.fetch.naming import is_uri
from moderate.globs import matches_any, matches_any_or_above
from moderate.sources.directory import WalkOptions
from moderate.sources.entries import MAX_PATH_BYTES, abridged, path_too_long
from moderate.sources.interface import Source
from moderate.sources.members import ArchiveLimits, Member, archive_limit
from moderate.types import ErrorCode, ImageError, ImageRef, Inline, Skipped, SkipReason

Opener = Callable[[], BinaryIO]
"""Opens an archive at its start, for reading; the caller closes the file. Raises FetchError.
A .zip has to be seekable, a .tar need not be."""

_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_PACKED_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", _ZSTD_MAGIC)
_TAR_SUFFIXES = (
    *(b".tar", b".tar.gz", b".tgz", b".tar.bz2", b".tbz", b".tbz2", b".tar.xz", b".txz"),
    *(b".tar.zst", b".tzst"),
)
ARCHIVE_SUFFIXES = (b".zip", *_TAR_SUFFIXES)
"""Suffixes, in lower case, of what may be an archive."""


def is_archive(path: bytes, head: bytes) -> bool:
    """Whether an input is an archive by its suffix and by its first HEAD_BYTES bytes."""
    name = path.lower()
    if name.endswith(b".zip"):
        return head.startswith(_ZIP_MAGIC)
    return name.endswith(_TAR_SUFFIXES) and (head.startswith(_PACKED_MAGIC) or _is_tar(head))


def check_decompressor(path: bytes, head: bytes) -> None:
    """Raise InputError for an archive whose compression cannot be read here, by its first bytes."""
    if head.startswith(_ZSTD_MAGIC):
        from moderate.sources.tar_archive import require_zstd

        require_zstd(path)


def local_opener(path: bytes) -> Opener:
    """Opens a local archive for each pass over it."""

    def opener() -> BinaryIO:
        return os.fdopen(open_regular(path).fd, "rb")

    return opener


@dataclass(frozen=True, slots=True)
class ArchiveSource(Source):
    """The members of an archive that count, in its order, called `NAME!/MEMBER` with their bytes.

    The same counts as in a folder. Member names are only names: nothing is written under them, and
    links are not followed. A member that cannot be read has its error row. Where the archive cannot
    be read any further, or a limit is reached, the last row is that of the archive itself.

    With heads_only, members come with their first HEAD_BYTES and the size that they claim.

    Iterating raises InputError for a .zip that cannot seek and for zstd without a decoder.
    """

    kind: ClassVar[str] = "archive"

    name: bytes
    opener: Opener
    limits: ArchiveLimits = field(default_factory=ArchiveLimits)
    options: WalkOptions = field(default_factory=WalkOptions)
    heads_only: bool = False

    @property
    def files(self) -> tuple[bytes, ...]:
        """See `Source`."""
        return (self.name,)

    def __iter__(self) -> Iterator[ImageRef | Skipped]:
        """See `Source`."""
        try:
            file = self.opener()
        except FetchError as error:
            yield self._failed_itself(error)
            return
        with file:
            try:
                yield from self._walk(file)
            except FetchError as error:
                yield self._failed_itself(error)

    def read_member(self, name: bytes, max_bytes: int) -> bytes | None:
        """The bytes of the first member of this name; None where there is none.

        Raises FetchError, also for a member of more than max_bytes.
        """
        with self.opener() as file:
            for member in self._members(file):
                if member.name == name and not member.skip:
                    data = member.read(max_bytes + 1)
                    if len(data) > max_bytes:
                        raise FetchError(_too_large("it is", max_bytes))
                    return data
        return None

    def _walk(self, file: BinaryIO) -> Iterator[ImageRef | Skipped]:
        for count, member in enumerate(self._members(file), 1):
            if count > self.limits.max_members:
                raise archive_limit(f"it has more than {self.limits.max_members} members")
            yield self._judge(member)

    def _members(self, file: BinaryIO) -> Iterator[Member]:
        # Imported late: the decompressors are not needed for most runs.
        if self.name.lower().endswith(b".zip"):
            from moderate.sources.zip_archive import zip_members

            return zip_members(file, self.name, self.limits)
        from moderate.sources.tar_archive import tar_members

        return tar_members(file, self.name, self.limits)

    def _judge(self, member: Member) -> ImageRef | Skipped:
        if len(member.name) > MAX_PATH_BYTES and not member.skip:
            path = self.name + b"!/" + abridged(member.name)
            return self._failed(path, path_too_long(len(member.name)))
        path = self.name + b"!/" + member.name
        reason = member.skip or passed_over(member.name, self.options)
        if reason:
            return Skipped(path, reason)
        try:
            return self._read(member, path)
        except FetchError as error:
            if error.error.code is ErrorCode.ARCHIVE_LIMIT:
                raise
            return self._failed(path, error.error)

    def _read(self, member: Member, path: bytes) -> ImageRef | Skipped:
        limit = self.limits.max_file_bytes
        counts = self.options.all_files or bool(claimed_format(os.path.basename(member.name)))
        head = b""
        if not counts:
            head = member.read(HEAD_BYTES)
            if not sniff(head):
                return Skipped(path, SkipReason.NOT_AN_IMAGE)
        if member.size > limit:
            return self._failed(path, _too_large(f"{member.size} bytes is", limit))
        if self.heads_only and (head := head or member.read(HEAD_BYTES)):
            return ImageRef(path, location=Inline(head, start_of=member.size))
        data = head + member.read(limit + 1 - len(head))
        if len(data) > limit:
            return self._failed(
                path, _too_large("it unpacks to more than it claims, which is", limit)
            )
        if not data:
            return self._failed(path, ImageError(ErrorCode.EMPTY_FILE, "the file is empty"))
        return ImageRef(path, location=Inline(data), within=self._itself)

    def _failed_itself(self, error: FetchError) -> ImageRef:
        return replace(self._failed(self.name, error.error), whole_input=True)

    def _failed(self, path: bytes, error: ImageError) -> ImageRef:
        # With a location the name may be a URI: an archive can be in an object store.
        return ImageRef(path, error=error, location=Inline(b""), within=self._itself)

    @property
    def _itself(self) -> ImageRef:
        return ImageRef(self.name, location=Inline(b"") if is_uri(self.name) else None)


def passed_over(name: bytes, options: WalkOptions) -> SkipReason | None:
    """Why a walk of a folder would not have reached this name, or None."""
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if not options.hidden and any(part[:1] == b"." and part != b".." for part in parts):
        return SkipReason.HIDDEN
    if matches_any_or_above(parts, options.exclude) or (
        options.include and not matches_any(parts, options.include)
    ):
        return SkipReason.EXCLUDED
    return None


def _is_tar(head: bytes) -> bool:
    block = head[: tarfile.BLOCKSIZE]
    if block[257:262] == b"ustar" or (len(block) == tarfile.BLOCKSIZE and not any(block)):
        return True
    try:  # from before ustar: only the checksum tells
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def _too_large(what: str, limit: int) -> ImageError:
    return ImageError(
        ErrorCode.FILE_TOO_LARGE, f"{what} over the limit of {limit}; raise it with --max-file-size"
    )
