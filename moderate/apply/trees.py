"""Folders below a root, reached one by one, so that no link leads out of it.

A path is a tuple of names: the folders below the root, and the file. Every name is opened relative
to the folder before it and never followed where it is a link, so that whoever exchanges a folder
for a link meanwhile gets an error, not a file of ours.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from moderate.apply.refusal import RefusedError

Names = tuple[bytes, ...]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def names_of(relative: bytes) -> Names:
    """The names of a relative path. Raises RefusedError for one that could lead elsewhere."""
    names = tuple(relative.split(b"/"))
    if any(name in (b"", b".", b"..") or b"\0" in name for name in names):
        raise RefusedError("its path is not a plain one below the root")
    return names


def open_root(path: bytes) -> int:
    """Open a folder that the user named, through links too. Raises OSError."""
    return os.open(path, _FOLDER)


@contextlib.contextmanager
def folder_in(root: int, names: Names) -> Iterator[int]:
    """The descriptor of the folder of these names below an open root. Raises OSError."""
    descriptor = os.dup(root)
    try:
        for name in names:
            descriptor = _into(descriptor, name)
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def folder_made_in(root: int, names: Names, like: int | None) -> Iterator[int]:
    """`folder_in`, where missing folders are made, with the permissions that they have in `like`.

    What its owner closed to others is not to be open in the copy.
    """
    modes = _modes(like, names)
    descriptor = os.dup(root)
    try:
        for name, mode in zip(names, modes, strict=True):
            try:
                descriptor = _into(descriptor, name)
                continue
            except FileNotFoundError:
                pass
            with contextlib.suppress(FileExistsError):  # somebody else made it just now
                os.mkdir(name, mode, dir_fd=descriptor)
                os.fsync(descriptor)
            descriptor = _into(descriptor, name)
        yield descriptor
    finally:
        os.close(descriptor)


def missing_folders(root: int | None, names: Names) -> int:
    """How many of the last of these folders are not there. Raises OSError, also for a link."""
    if root is None:
        return len(names)
    descriptor = os.dup(root)
    try:
        for number, name in enumerate(names):
            try:
                descriptor = _into(descriptor, name)
            except FileNotFoundError:
                return len(names) - number
    finally:
        os.close(descriptor)
    return 0


def remove_folders(root: int, names: Names, count: int) -> None:
    """Remove the last `count` of these folders as far as they are empty. Never raises OSError."""
    for length in range(len(names), max(len(names) - count, 0), -1):
        try:
            with folder_in(root, names[: length - 1]) as parent:
                os.rmdir(names[length - 1], dir_fd=parent)
                os.fsync(parent)
        except OSError:
            return


def status_in(folder: int, name: bytes) -> os.stat_result | None:
    """The status of what has that name, a link itself; None where nothing has. Raises OSError."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def open_file(folder: int, name: bytes) -> int:
    """Open a regular file for reading. Raises OSError, and RefusedError for anything else."""
    if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        raise RefusedError("a link, a folder or a device, not a regular file")
    descriptor = os.open(name, _FILE, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # exchanged between look and open
        os.close(descriptor)
        raise RefusedError("a link, a folder or a device, not a regular file")
    return descriptor


def _into(descriptor: int, name: bytes) -> int:
    """The folder of that name; closes the one that it is in, unless there is none."""
    below = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=descriptor)
    os.close(descriptor)
    return below


def _modes(like: int | None, names: Names) -> list[int]:
    modes: list[int] = []
    with contextlib.ExitStack() as stack:
        for number in range(1, len(names) + 1):
            mode = 0o777
            if like is not None:
                with contextlib.suppress(OSError):
                    there = stack.enter_context(folder_in(like, names[:number]))
                    mode = stat.S_IMODE(os.fstat(there).st_mode) & 0o777
            modes.append(mode | stat.S_IRWXU)
    return modes
