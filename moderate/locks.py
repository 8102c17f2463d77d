"""Advisory locks on files between processes: the only place that calls `flock`.

`flock` rather than a file that exists or a process id: the kernel releases the lock when its holder
ends, however it ends, ids are reused and differ between containers, and shell scripts can take the
same lock with `flock FILE`. The lock belongs to the open file, not to its name. Whoever locks a
file that others may remove or replace has to check afterwards that the name still leads to it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_UNSUPPORTED = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})
_RETRY_SECONDS = 0.05


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file until `unlock` or the end of the process, without waiting.

    Returns False where another process holds it. Raises OSError; see `is_unsupported`.
    """
    try:
        # Never a blocking flock: Python's signal handlers would not run while it waits.
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_unsupported(error: OSError) -> bool:
    """Whether `try_lock` failed because the file system has no locks."""
    return error.errno in _UNSUPPORTED


def is_file_at(
    descriptor: int, path: str | os.PathLike[str], *, follow_symlinks: bool = False
) -> bool:
    """Whether the name still leads to the open file. Raises OSError."""
    try:
        there = os.stat(path, follow_symlinks=follow_symlinks)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


def unlock(descriptor: int) -> None:
    """Release the lock and close the file.

    Closing alone is not enough: a process that was forked meanwhile has the open file, too.
    """
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


@contextmanager
def lock_file(path: str | os.PathLike[str], wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock of a file that exists only to be locked; created where missing, never removed.

    Raises BlockingIOError where another process holds it for longer than `wait_seconds`, OSError
    where the file cannot be created or locked.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        deadline = time.monotonic() + wait_seconds
        while not try_lock(descriptor):
            if time.monotonic() >= deadline:
                raise BlockingIOError(errno.EWOULDBLOCK, "locked by another process", str(path))
            time.sleep(_RETRY_SECONDS)
        yield
    finally:
        unlock(descriptor)
