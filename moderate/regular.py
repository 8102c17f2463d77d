"""Reads files that somebody else may have written: regular files only, of bounded size."""

from __future__ import annotations

import errno
import hashlib
import os
import time

from moderate.fetch.local import FetchError, open_regular

Identity = tuple[int, int]
"""Device and inode: what a file or folder is, whatever it is called."""

MAX_TEXT_BYTES = 1 << 20
"""Bytes of a file that a person writes: a policy, a card, a mapping."""

MAX_WEIGHTS_BYTES = 8 << 30
"""Bytes of a file of weights; the largest networks of timm take 4 GB in fp32."""


_SETTLED = 2.0  # seconds; the coarsest clock of a file system in use


def file_identity(path: str | bytes) -> Identity | None:
    """What is at `path`, a file or a folder; None where nothing is."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def read_regular(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """The whole of a regular file of at most `max_bytes`.

    Raises OSError, whose `strerror` can be shown: also for a FIFO, a device or a socket, without
    waiting for it, and for a file that is too large, without reading it.
    """
    descriptor, size = _open(path, max_bytes)
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(size + 1)
    if len(data) > size:
        raise OSError(errno.EAGAIN, "grew while it was read", os.fspath(path))
    return data


def sha256_of(path: str | os.PathLike[str], max_bytes: int = MAX_WEIGHTS_BYTES) -> str:
    """The SHA-256 of a regular file, in hex. Raises OSError as `read_regular` does."""
    descriptor, _ = _open(path, max_bytes)
    with os.fdopen(descriptor, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_state(path: str | os.PathLike[str]) -> tuple[int, ...] | None:
    """What changes with a file's content: file system, inode, size, times of change in nanoseconds.

    None where the file cannot be looked at, and for the first seconds after a change, in which the
    clock of the file system may not tell a second change from the first.
    """
    try:
        status = os.stat(path)
    except OSError:
        return None
    if not 0 <= status.st_ctime <= time.time() - _SETTLED:
        return None
    return (
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )  # fmt: skip


def _open(path: str | os.PathLike[str], max_bytes: int) -> tuple[int, int]:
    name = os.fspath(path)
    try:
        file = open_regular(os.fsencode(name))
    except FetchError as error:
        raise OSError(errno.EINVAL, str(error).removeprefix("cannot read: "), name) from None
    if file.size > max_bytes:
        os.close(file.fd)
        raise OSError(errno.EFBIG, f"larger than {_size(max_bytes)}", name)
    return file.fd, file.size


def _size(count: int) -> str:
    return f"{count >> 30} GiB" if count >= 1 << 30 else f"{count >> 20} MiB"
