"""Whether a run is still alive: its process holds a lock, which nothing but its end releases.

Process ids would not do: containers share state folders, and ids are used again. Where a file
system has no locks, every run that has not ended counts as alive.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path

FOLDER = "running"

_SUFFIX = ".lock"
_ATTEMPTS = 20
_PAUSE = 0.05  # seconds; others hold a lock only for a look
NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
"""What a file system without locks answers."""


def lock_path(folder: Path, run_id: str) -> Path:
    """The lock of a run of the state folder `folder`."""
    return folder / FOLDER / f"{run_id}{_SUFFIX}"


def hold(folder: Path, run_id: str) -> int:
    """Declare this run alive until `release`, or until the process ends however it ends.

    Returns what `release` wants: a file descriptor that no other program inherits. Raises OSError.
    """
    path = lock_path(folder, run_id)
    for _ in range(_ATTEMPTS):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if _lock(descriptor, fcntl.LOCK_EX) and _is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        time.sleep(_PAUSE)
    raise OSError(errno.EBUSY, "its lock is kept busy", str(path))


def release(folder: Path, run_id: str, descriptor: int) -> None:
    """The run has ended; its lock goes away."""
    with contextlib.suppress(OSError):
        os.unlink(lock_path(folder, run_id))
    with contextlib.suppress(OSError):
        os.close(descriptor)


def is_alive(folder: Path, run_id: str) -> bool:
    """Whether the process of a run still runs, for all that can be known."""
    return _look(lock_path(folder, run_id), remove=False)


def remove_left_behind(folder: Path) -> None:
    """Remove the locks of runs that ended without a word."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder / FOLDER):
            if name.endswith(_SUFFIX):
                _look(folder / FOLDER / name, remove=True)


def _look(path: Path, *, remove: bool) -> bool:
    """Whether somebody holds this lock; if nobody does, it is removed on request."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, ValueError):  # ValueError: a NUL in an id that is none
        return False
    except OSError:
        return True
    try:
        # Shared, so that two who look at once do not take each other for the run.
        if not _lock(descriptor, fcntl.LOCK_SH):
            return True
        # Alone with it, and only where it still is: the name may be that of a new run by now. A run
        # that is about to take it sees that it is gone.
        if remove and _lock(descriptor, fcntl.LOCK_EX) and _is_at(descriptor, path):
            with contextlib.suppress(OSError):
                os.unlink(path)
        return False
    except OSError:
        return True
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: int) -> bool:
    """Whether the lock was got. Raises OSError."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # Whoever looks will not learn more than this run does, and take it for alive.
        if kind == fcntl.LOCK_EX and error.errno in NO_LOCKS:
            return True
        raise
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one of that name, not one that was removed meanwhile."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
