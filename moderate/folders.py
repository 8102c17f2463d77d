"""The folders that belong to the user, and the one for temporary files. There may be none of them.

A service may run without HOME as a user that the system does not know; a container may have nothing
that can be written. Then nothing is kept, which is no reason not to work.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from platformdirs import user_cache_path, user_data_path, user_state_path

_TEMPORARY = ("/tmp", "/var/tmp", "/usr/tmp")  # noqa: S108 - where Python itself looks
_IN_MEMORY = "/dev/shm"  # noqa: S108 - containers have it where all else is read-only


def user_state() -> Path | None:
    """Where the state is kept if nobody names a folder; None where the user has no home."""
    return _folder(user_state_path)


def user_data() -> Path | None:
    """Where installed weights live; None where the user has no home."""
    return _folder(user_data_path)


def user_cache() -> Path | None:
    """Where converted models are kept; None where the user has no home."""
    return _folder(user_cache_path)


def cache_outside_home() -> Path | None:
    """The cache that the environment names, unless that is in the user's home; else None."""
    if not os.environ.get("XDG_CACHE_HOME") or (folder := user_cache()) is None:
        return None
    home = os.path.realpath(os.path.expanduser("~"))
    return None if os.path.realpath(folder).startswith(home.rstrip("/") + "/") else folder


def no_home() -> str:
    """Why there is no folder of the user's, for a message."""
    return f"HOME is not set, and user {os.getuid()} has no home folder on this system"


def settle_temporary() -> None:
    """See to it that temporary files go into no folder of the user's images, whatever is writable.

    Where none of the usual folders can be written, Python and SQLite would take the working
    directory, and torch would not even be imported.
    """
    named = (os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    if any(_writable(folder) for folder in (*named, *_TEMPORARY) if folder):
        return
    if _writable(_IN_MEMORY):
        os.environ["TMPDIR"] = _IN_MEMORY  # SQLite and child processes read it too
        return
    tempfile.tempdir = _TEMPORARY[0]  # errors will name it
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", "/")  # torch insists on a folder that exists


def _folder(find: Callable[[str], Path]) -> Path | None:
    try:
        folder = find("moderate")
    except RuntimeError:
        return None
    # Older versions of platformdirs leave the ~, which would be a folder in the working directory.
    return folder if folder.is_absolute() else None


def _writable(folder: str) -> bool:
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)
