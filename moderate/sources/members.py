"""Members of archives of every kind, one after the other, within limits against bombs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from moderate.fetch.local import FetchError, os_error
from moderate.tables.gzip_text import MAX_RATIO, RATIO_FROM_BYTES
from moderate.text import one_line
from moderate.types import ErrorCode, ImageError, Limits, SkipReason


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What one archive may cost; sizes in bytes.

    Once more than `ratio_from` is unpacked, the archive may unpack to `max_ratio` times its size.
    Images hardly shrink; a flat-coloured BMP can by 1000, but dumps do not consist of those. The
    size of a tar is what has been read of it so far.
    """

    max_members: int = 1_000_000
    max_file_bytes: int = Limits().max_file_bytes
    max_total_bytes: int = 1 << 40
    max_ratio: int = MAX_RATIO
    ratio_from: int = RATIO_FROM_BYTES


class Budget:
    """Counts the bytes unpacked from an archive, and refuses more than its limits allow."""

    def __init__(self, limits: ArchiveLimits, packed_bytes: Callable[[], int]) -> None:
        self._limits = limits
        self._packed_bytes = packed_bytes
        self._unpacked = 0

    def spend(self, count: int) -> None:
        """Count bytes; raises FetchError with `archive_limit`."""
        self._unpacked += count
        limits = self._limits
        if self._unpacked > limits.max_total_bytes:
            raise archive_limit(f"it unpacks to more than {limits.max_total_bytes} bytes")
        if self._unpacked <= limits.ratio_from:
            return
        packed = max(self._packed_bytes(), 1)
        if self._unpacked > limits.max_ratio * packed:
            raise archive_limit(
                f"{packed} bytes of it unpack to more than {limits.max_ratio} times as much"
            )


class Member(ABC):
    """One entry of an archive. Its bytes can be read until the next member is asked for.

    name is the exact bytes in the archive; size is what it claims, in bytes. skip is set for what
    is not a file.
    """

    name: bytes
    size: int
    skip: SkipReason | None

    @abstractmethod
    def read(self, count: int) -> bytes:
        """The next `count` bytes, fewer only at the end.

        Raises FetchError: `bad_archive_member` or `read_error` for this member alone,
        `archive_limit` for the archive.
        """


def archive_limit(what: str) -> FetchError:
    """The error that ends an archive which is too large or a bomb."""
    return FetchError(ImageError(ErrorCode.ARCHIVE_LIMIT, f"{what}; the rest was not read"))


def broken(what: str) -> FetchError:
    """The error for a member or an archive that cannot be read."""
    return FetchError(ImageError(ErrorCode.BAD_ARCHIVE_MEMBER, one_line(what)))


def unreadable(error: Exception, what: str) -> FetchError:
    """The row's error for an exception that was raised while reading `what`."""
    if isinstance(error, FetchError):
        return error
    if isinstance(error, OSError) and error.errno:  # the disk or network, not the archive
        return FetchError(os_error(error))
    reason = str(error) or type(error).__name__
    return broken(f"{what} cannot be read: {reason}")
