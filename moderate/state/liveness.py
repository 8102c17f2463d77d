"""Whether a run is still alive: its process holds a lock, which nothing but its end releases.

Where a file system has no locks, every run that has not ended counts as alive.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path

from moderate.locks import is_file_at, is_unsupported, try_lock, unlock

FOLDER = "running"

_SUFFIX = ".lock"
_ATTEMPTS = 20
_RETRY_SECONDS = 0.05  # other processes hold the lock only while they look


def lock_path(folder: Path, run_id: str) -> Path:
    """The lock file of a run of the state folder `folder`."""
    return folder / FOLDER / f"{run_id}{_SUFFIX}"


def hold(folder: Path, run_id: str) -> int:
    """Declare this run alive until `release`, or until the process ends.

    Returns the descriptor that `release` needs; no other program inherits it. Raises OSError.
    """
    path = lock_path(folder, run_id)
    for _ in range(_ATTEMPTS):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if _lock_if_supported(descriptor) and is_file_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        time.sleep(_RETRY_SECONDS)
    raise OSError(errno.EBUSY, "its lock is kept busy", str(path))


def release(folder: Path, run_id: str, descriptor: int) -> None:
    """Declare that the run has ended, and remove its lock file."""
    with contextlib.suppress(OSError):
        os.unlink(lock_path(folder, run_id))
    with contextlib.suppress(OSError):
        unlock(descriptor)


def is_alive(folder: Path, run_id: str) -> bool:
    """Whether the process of a run is still running; True where that cannot be determined."""
    return _is_held(lock_path(folder, run_id), remove_if_free=False)


def remove_abandoned(folder: Path) -> None:
    """Remove the lock files of runs that were killed."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder / FOLDER):
            if name.endswith(_SUFFIX):
                _is_held(folder / FOLDER / name, remove_if_free=True)


def _is_held(path: Path, *, remove_if_free: bool) -> bool:
    """Whether a process holds this lock; removes the file on request where none does."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, ValueError):  # ValueError: a NUL in a damaged run id
        return False
    except OSError:
        return True
    try:
        # Shared, so that two processes that look at once do not mistake each other for the run.
        if not try_lock(descriptor, shared=True):
            return True
        # Removed only under an exclusive lock, and only if the name still leads to this file: it
        # may belong to a new run by now. A run that is about to lock the file sees that it is gone.
        if remove_if_free and try_lock(descriptor) and is_file_at(descriptor, path):
            with contextlib.suppress(OSError):
                os.unlink(path)
        return False
    except OSError:
        return True
    finally:
        os.close(descriptor)


def _lock_if_supported(descriptor: int) -> bool:
    """Take the lock; True as well without locks, since nobody else can see more. Raises OSError."""
    try:
        return try_lock(descriptor)
    except OSError as error:
        if is_unsupported(error):
            return True
        raise
