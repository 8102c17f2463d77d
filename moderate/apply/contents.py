"""Bytes of files: whether they are those that were scanned, and copying them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from moderate.apply.refusal import RefusedError
from moderate.apply.trees import open_file

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Content:
    """What a file has to hold: its size in bytes and its SHA-256 in hex."""

    size: int
    sha256: str


@contextlib.contextmanager
def open_checked(
    folder: int, name: bytes, content: Content
) -> Iterator[tuple[int, os.stat_result]]:
    """A file that holds just this, open for reading at its start, and its status.

    Raises RefusedError where it holds something else, OSError where it cannot be read.
    """
    descriptor = open_file(folder, name)
    try:
        status = os.fstat(descriptor)
        _check(descriptor, status, content, lambda _: None)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor, status
    finally:
        os.close(descriptor)


def holds(folder: int, name: bytes, content: Content) -> bool:
    """Whether a regular file of that name holds just this. Raises OSError."""
    try:
        with open_checked(folder, name, content):
            return True
    except (FileNotFoundError, RefusedError):
        return False


def copy_checked(source: int, folder: int, name: bytes, content: Content) -> None:
    """Copy an open file to a new one, with its times and permissions, and bring it to the disk.

    Both what is read and what then stands on the disk must be `content`. Raises RefusedError where
    they are not, FileExistsError where the name is taken, OSError; the new file is removed then.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    target = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        status = os.fstat(source)
        _check(source, status, content, lambda data: _write(target, data))
        os.fsync(target)
        with contextlib.suppress(OSError):  # so that it is the disk that is read
            os.posix_fadvise(target, 0, 0, os.POSIX_FADV_DONTNEED)
        os.lseek(target, 0, os.SEEK_SET)
        _check(target, os.fstat(target), content, lambda _: None)
        _take_attributes(source, target, status)
        os.fsync(target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=folder)
        raise
    finally:
        os.close(target)


def is_same(before: os.stat_result, after: os.stat_result) -> bool:
    """Whether that is still the same file, and nobody has written into it."""
    return os.path.samestat(before, after) and (
        (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    )


def _check(
    descriptor: int, status: os.stat_result, content: Content, take: Callable[[bytes], None]
) -> None:
    """Read an open file to its end, piece by piece. Raises RefusedError where it is another."""
    if status.st_size != content.size:
        raise RefusedError("changed since it was scanned: it has another size")
    digest, left = hashlib.sha256(), content.size + 1
    while left > 0 and (data := os.read(descriptor, min(left, _PIECE_BYTES))):
        digest.update(data)
        take(data)
        left -= len(data)
    if left != 1 or digest.hexdigest() != content.sha256:
        raise RefusedError("changed since it was scanned: it has another sha256")
    if not is_same(status, os.fstat(descriptor)):
        raise RefusedError("changed while it was read")


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _take_attributes(source: int, target: int, status: os.stat_result) -> None:
    """Owner, extended attributes, permissions and times, as far as the user may set them."""
    with contextlib.suppress(OSError):
        os.fchown(target, status.st_uid, status.st_gid)
    with contextlib.suppress(OSError):
        for name in os.listxattr(source):
            with contextlib.suppress(OSError):
                os.setxattr(target, name, os.getxattr(source, name))
    with contextlib.suppress(OSError):  # nothing that would run with its owner's rights
        os.fchmod(target, stat.S_IMODE(status.st_mode) & 0o777)
    with contextlib.suppress(OSError):
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
