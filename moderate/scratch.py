"""Temporary folders of a running command; those of a killed command are removed by the next one."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from moderate.locks import try_lock

_YOUNG = 60.0  # seconds; a folder that was just made may not be locked yet


@contextlib.contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """A new folder `moderate-PURPOSE-...` among the temporary files, removed at the end.

    It is locked while it is in use. One of the same purpose and user that is not locked was left by
    a command that was killed, and is removed first.
    """
    prefix = f"moderate-{purpose}-"
    _remove_abandoned(prefix)
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as name:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                try_lock(descriptor)
            yield Path(name)
        finally:
            os.close(descriptor)


def _remove_abandoned(prefix: str) -> None:
    with contextlib.suppress(OSError):
        for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
            if _is_abandoned(path):
                shutil.rmtree(path, ignore_errors=True)


def _is_abandoned(path: Path) -> bool:
    """Whether an ended command of this user created it; False where that is not known."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or time.time() - status.st_mtime < _YOUNG:
            return False
        return try_lock(descriptor)
    except OSError:  # the file system has no locks
        return False
    finally:
        os.close(descriptor)
