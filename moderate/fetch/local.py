"""Bytes of a local file: only regular files, never more than the limit, never a blocking open."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass

from moderate.types import ErrorCode, ImageError

_ERRNO_CODES = {
    errno.ENOENT: ErrorCode.NOT_FOUND,
    errno.ENOTDIR: ErrorCode.NOT_FOUND,
    errno.EACCES: ErrorCode.PERMISSION_DENIED,
    errno.EPERM: ErrorCode.PERMISSION_DENIED,
    errno.ENAMETOOLONG: ErrorCode.PATH_TOO_LONG,
    errno.ENXIO: ErrorCode.NOT_A_REGULAR_FILE,  # a FIFO or socket without its other end
}


# Closing any descriptor of a database file drops the locks that SQLite has on it, for the whole
# process: a scan of the folder with the state must not open the files in it.
_KEPT = (b"scores.sqlite3", b"runs.sqlite3")
_kept_in: set[tuple[int, int]] = set()


def keep_out_of(folder: str | os.PathLike[str]) -> None:
    """Never open the databases in this folder as if they were images."""
    status = os.stat(folder)
    _kept_in.add((status.st_dev, status.st_ino))


def is_kept(path: bytes) -> bool:
    """Whether that is one of them."""
    if not (_kept_in and os.path.basename(path).startswith(_KEPT)):
        return False
    try:
        status = os.stat(os.path.dirname(os.path.realpath(path)))
    except OSError:
        return False
    return (status.st_dev, status.st_ino) in _kept_in


MAX_SIZE = (1 << 63) - 1
"""Largest size in bytes that a row can record: its column holds int64."""

_PIECE_BYTES = 1 << 16


class FetchError(Exception):
    """Bytes that could not be had: the error for the row, and the size in bytes where it is known.

    A server may report any number: a size that cannot be one, or that a row cannot hold, is None.
    """

    def __init__(self, error: ImageError, size: int | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.size = size if size is not None and 0 <= size <= MAX_SIZE else None


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A regular file, open for reading; the caller closes `fd`. size is in bytes."""

    fd: int
    size: int


def os_error(error: OSError, doing: str = "read") -> ImageError:
    """The row's error for an error of the system."""
    if isinstance(error, BlockingIOError):
        message = f"cannot {doing}: it gives nothing without waiting, so it is no ordinary file"
        return ImageError(ErrorCode.READ_ERROR, message)
    code = _ERRNO_CODES.get(error.errno or 0, ErrorCode.READ_ERROR)
    return ImageError(code, f"cannot {doing}: {error.strerror or type(error).__name__}")


def open_regular(path: bytes, *, follow_symlinks: bool = True) -> OpenFile:
    """Open `path` without ever blocking; raises FetchError unless it is a regular file."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    if is_kept(path):
        message = "a database of the state, which is in use"
        raise FetchError(ImageError(ErrorCode.NOT_AN_IMAGE, message))
    try:
        # Look before opening: opening some devices has effects.
        mode = os.stat(path, follow_symlinks=follow_symlinks).st_mode
        if not stat.S_ISREG(mode):
            raise FetchError(_not_regular(mode))
        fd = os.open(path, flags if follow_symlinks else flags | os.O_NOFOLLOW)
    except OSError as error:
        raise FetchError(os_error(error)) from None
    except ValueError:  # a NUL in the name
        raise FetchError(ImageError(ErrorCode.NOT_FOUND, "the name holds a NUL byte")) from None
    try:
        status = os.fstat(fd)
    except OSError as error:  # a network share can lose a file between the two calls
        _close(fd)
        raise FetchError(os_error(error)) from None
    if not stat.S_ISREG(status.st_mode):  # exchanged between look and open
        _close(fd)
        raise FetchError(_not_regular(status.st_mode))
    return OpenFile(fd, status.st_size)


def read_head(path: bytes, count: int, *, follow_symlinks: bool = True) -> bytes:
    """The first `count` bytes of a regular file; raises FetchError."""
    return read_start(path, count, follow_symlinks=follow_symlinks)[0]


def read_start(path: bytes, count: int, *, follow_symlinks: bool = True) -> tuple[bytes, int]:
    """The first `count` bytes of a regular file, and the size of all of it; raises FetchError."""
    file = open_regular(path, follow_symlinks=follow_symlinks)
    try:
        return _read(file.fd, count, count), file.size
    except OSError as error:
        raise FetchError(os_error(error), file.size) from None
    finally:
        _close(file.fd)


def read_file(path: bytes, max_bytes: int, *, follow_symlinks: bool = True) -> bytes:
    """The whole of a regular file of at most `max_bytes`; raises FetchError.

    The size limit is applied before a byte is read, and again to what was read: the size can be a
    claim (files below /proc claim none), and a file can grow while it is read.
    """
    file = open_regular(path, follow_symlinks=follow_symlinks)
    try:
        if file.size > max_bytes:
            raise FetchError(too_large(file.size, max_bytes), file.size)
        # The first piece is not max_bytes long: reading sets the memory aside first.
        data = _read(file.fd, max_bytes + 1, max(file.size + 1, _PIECE_BYTES))
    except OSError as error:
        raise FetchError(os_error(error), file.size) from None
    finally:
        _close(file.fd)
    if len(data) > max_bytes:
        raise FetchError(too_large(len(data), max_bytes), len(data))
    if not data:
        raise FetchError(ImageError(ErrorCode.EMPTY_FILE, "the file is empty"), 0)
    return data


def _read(fd: int, count: int, first: int) -> bytes:
    """What stands from the beginning of an open file to its end, at most `count` bytes.

    `first` is how many bytes the first read asks for. Raises OSError; BlockingIOError where the
    file would have to be waited for, as some below /proc. A buffered reader would give None then.
    """
    pieces: list[bytes] = []
    left = count
    while left > 0 and (piece := os.read(fd, min(left, _PIECE_BYTES if pieces else first))):
        pieces.append(piece)
        left -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _close(fd: int) -> None:
    with contextlib.suppress(OSError):  # nothing was written that could be lost
        os.close(fd)


def too_large(size: int, max_bytes: int) -> ImageError:
    """`file_too_large` for a file of `size` bytes."""
    return ImageError(
        ErrorCode.FILE_TOO_LARGE,
        f"{size} bytes is over the limit of {max_bytes}; raise it with --max-file-size",
    )


def _not_regular(mode: int) -> ImageError:
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
        (stat.S_ISLNK, "a symbolic link"),
    )
    kind = next((name for test, name in kinds if test(mode)), "not a regular file")
    return ImageError(ErrorCode.NOT_A_REGULAR_FILE, f"{kind}, not a regular file")
