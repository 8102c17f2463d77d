"""A folder of files that appears whole or not at all, and that one run at a time writes."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import stat

from moderate.errors import OutputError
from moderate.locks import is_file_at, is_unsupported
from moderate.results.atomic import lock_part, output_error, part_path
from moderate.text import printable

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h


class AtomicFolder:
    """Written as a hidden folder beside its target, then exchanged with what is there.

    The exchange is one step, so that a reader, or a kill, finds the earlier folder or the new one.
    Where the file system cannot exchange, the earlier folder is renamed away first; the next run
    puts it back if a kill came in between. The hidden folder has one name for each target and is
    locked while it is written; one that a killed run left is removed. Of a symbolic link, the
    target is the folder that it leads to. Raises OutputError.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.path = os.path.realpath(target)
        self.part = part_path(self.path)
        self._previous = part_path(self.path, "previous.part")
        try:
            self._put_back()
            self._descriptor = self._create()
        except BlockingIOError as error:
            raise OutputError(
                f"{printable(target)}: another run is writing it; "
                "wait for that to end, or name another --out"
            ) from error
        except OSError as error:
            raise output_error(target, error) from error

    def create(self, name: str) -> str:
        """The path for a new file of this name below the folder, whose own folder is there then."""
        path = os.path.join(self.part, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def seal(self) -> None:
        """Bring the names of all files, which are on the disk themselves, to it."""
        for folder, _, _ in os.walk(self.part, topdown=False):
            _sync(folder)

    def commit(self) -> None:
        """Put the folder under its name, and remove the one that was there. Raises OutputError."""
        try:
            if not is_file_at(self._descriptor, self.part):
                raise OutputError(f"{printable(self.target)}: another run has begun to write it")
            if os.path.isdir(self.path):
                mode = stat.S_IMODE(os.stat(self.path).st_mode)
                os.fchmod(self._descriptor, mode & 0o7777)
                self._replace()
            else:
                os.rename(self.part, self.path)
            _sync(os.path.dirname(self.path))
        except OSError as error:
            raise output_error(self.target, error) from error

    def discard(self) -> None:
        """Remove what was written, or what the new folder replaced. Never raises."""
        if self._descriptor < 0:
            return
        with contextlib.suppress(OSError):
            # After `commit` the name leads to the earlier folder, or to nothing.
            if is_file_at(self._descriptor, self.part) or is_file_at(self._descriptor, self.path):
                shutil.rmtree(self.part, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
        self._descriptor = -1

    def _replace(self) -> None:
        if exchange(self.part, self.path):
            return
        os.rename(self.path, self._previous)
        try:
            os.rename(self.part, self.path)
        except BaseException:
            os.rename(self._previous, self.path)
            raise
        shutil.rmtree(self._previous, ignore_errors=True)

    def _put_back(self) -> None:
        """What a kill between the two renames of `_replace` left."""
        if os.path.isdir(self._previous):
            if os.path.lexists(self.path):
                shutil.rmtree(self._previous)
            else:
                os.rename(self._previous, self.path)

    def _create(self) -> int:
        while True:
            try:
                os.mkdir(self.part)
            except FileExistsError:
                self._remove_abandoned()
                continue
            descriptor = _open(self.part)
            try:
                lock_part(descriptor, self.part)
                if is_file_at(descriptor, self.part):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _remove_abandoned(self) -> None:
        try:
            descriptor = _open(self.part)
        except FileNotFoundError:
            return
        try:
            lock_part(descriptor, self.part)
            if is_file_at(descriptor, self.part):
                shutil.rmtree(self.part)
        finally:
            os.close(descriptor)


def exchange(one: str, other: str) -> bool:
    """Let two folders have each other's names in one step; False where that is not possible.

    Raises OSError.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # a C library that does not have it
        return False
    names = os.fsencode(one), os.fsencode(other)
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    error = OSError(number, os.strerror(number), other)
    if number in (errno.EINVAL, errno.ENOSYS, errno.EXDEV) or is_unsupported(error):
        return False
    raise error


def _open(folder: str) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _sync(folder: str) -> None:
    descriptor = _open(folder)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
