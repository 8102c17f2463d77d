"""What is done with one file, finished after a kill, and undone.

Whatever the moment at which the process is killed, what is on the disk says how far it had got, and
at least one whole copy of the bytes is there under a name that the log leads to. The steps:

- copy: the part file in the target folder, its name;
- link: the name in the target folder;
- move: the new name; across file systems the part file, its name, the original under the name
  `aside` in its own folder, where nobody exchanges it for another, and its end.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from moderate.apply.contents import Content, copy_checked, holds, is_same, open_checked
from moderate.apply.refusal import RefusedError
from moderate.apply.renaming import rename_in
from moderate.apply.trees import (
    Names,
    folder_in,
    folder_made_in,
    remove_folders,
    status_in,
)

Kind = Literal["copy", "move", "link"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One file that gets a place below a target, under the names that it has below the root.

    token is that of the session of the log which it is of: together with the number it names
    temporary files. made is how many of the last folders in the target were missing.
    """

    number: int
    token: str
    kind: Kind
    decision: str
    names: Names
    content: Content
    made: int

    @property
    def folders(self) -> Names:
        """The folders below the root and below the target."""
        return self.names[:-1]

    @property
    def name(self) -> bytes:
        """The file's own name."""
        return self.names[-1]

    @property
    def part(self) -> bytes:
        """The name of a copy that may not be whole."""
        return f".moderate-{self.token}-{self.number}.part".encode()

    @property
    def aside(self) -> bytes:
        """The name of an original that is about to be removed."""
        return f".moderate-{self.token}-{self.number}.aside".encode()


class Unsettled:
    """Folders whose new names are not known to be on the disk."""

    def __init__(self) -> None:
        self._folders: dict[tuple[int, int], int] = {}

    def add(self, folder: int) -> None:
        """Remember an open folder."""
        status = os.fstat(folder)
        if (key := (status.st_dev, status.st_ino)) not in self._folders:
            self._folders[key] = os.dup(folder)

    def settle(self) -> None:
        """Bring them to the disk. Raises OSError."""
        while self._folders:
            _, folder = self._folders.popitem()
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def perform(operation: Operation, root: int, target: int, unsettled: Unsettled) -> None:
    """Do it. Raises RefusedError and OSError, with nothing changed."""
    content, name = operation.content, operation.name
    with (
        folder_in(root, operation.folders) as here,
        open_checked(here, name, content) as (file, status),
        folder_made_in(target, operation.folders, root) as there,
    ):
        unsettled.add(there)
        if operation.kind == "copy":
            _copy(operation, file, there)
        elif operation.kind == "link":
            _link(file, status, here, name, there)
        elif os.fstat(there).st_dev == status.st_dev and _moved(operation, status, here, there):
            unsettled.add(here)
        else:
            _copy(operation, file, there)
            os.fsync(there)
            try:
                _remove(here, name, status, operation.aside)
            except BaseException:
                if status_in(here, name) is not None:  # else the log leads to what is left
                    os.unlink(name, dir_fd=there)
                raise
            unsettled.add(here)


def finish(operation: Operation, root: int, target: int, unsettled: Unsettled) -> bool:
    """Finish what a killed process began, or clean up after it; whether it is done now.

    Raises RefusedError and OSError.
    """
    with _both(operation, root, target) as (here, there):
        is_there = False
        if there is not None:
            _drop(there, operation.part)
            is_there = holds(there, operation.name, operation.content)
            unsettled.add(there)
        if operation.kind != "move" or here is None:
            return is_there
        unsettled.add(here)
        if (aside := status_in(here, operation.aside)) is not None:
            if is_there and holds(here, operation.aside, operation.content):
                os.unlink(operation.aside, dir_fd=here)
            elif stat.S_ISREG(aside.st_mode):
                _rename(here, operation.aside, here, operation.name)
        if is_there and there is not None:
            os.fsync(there)
            with contextlib.suppress(FileNotFoundError, RefusedError):
                _remove_checked(here, operation)
        return is_there


def take_back(operation: Operation, root: int, target: int, unsettled: Unsettled) -> None:
    """Undo it, however far it had got. Raises RefusedError and OSError.

    Nothing is overwritten, and no file loses the last of its names.
    """
    with _both(operation, root, target) as (here, there):
        if there is not None:
            _drop(there, operation.part)
            _take_back_aside(operation, there)
            unsettled.add(there)
            if operation.kind == "move":
                _take_back_moved(operation, root, here, there, unsettled)
            else:
                _take_back_copied(operation, here, there)
        elif operation.kind == "move":
            _take_back_aside(operation, here)
            if here is None or not holds(here, operation.name, operation.content):
                raise RefusedError("it is neither in the target folder nor in its own")
    remove_folders(target, operation.folders, operation.made)


def _take_back_copied(operation: Operation, here: int | None, there: int) -> None:
    if status_in(there, operation.name) is None:
        return
    if not holds(there, operation.name, operation.content):
        raise RefusedError("changed in the target folder since: it stays there")
    if here is None or not holds(here, operation.name, operation.content):
        raise RefusedError("the original is gone or changed: what is in the target folder stays")
    _remove_checked(there, operation)


def _take_back_moved(
    operation: Operation, root: int, here: int | None, there: int, unsettled: Unsettled
) -> None:
    name, content = operation.name, operation.content
    _take_back_aside(operation, here)
    is_there = status_in(there, name) is not None
    if here is not None and status_in(here, name) is not None:
        if not is_there:
            return
        if not holds(here, name, content):
            raise RefusedError("another file has its name in the input folder: it stays")
        if holds(there, name, content):
            os.fsync(here)
            _remove_checked(there, operation)
        return
    if not is_there:
        raise RefusedError("it is neither in the target folder nor in its own")
    with (
        open_checked(there, name, content) as (file, status),
        folder_made_in(root, operation.folders, None) as home,
    ):
        unsettled.add(home)
        if os.fstat(home).st_dev == status.st_dev and _renamed(there, name, home, name):
            return
        _drop(home, operation.part)
        _copy(operation, file, home)
        os.fsync(home)
        _remove(there, name, status, operation.aside)


def _take_back_aside(operation: Operation, here: int | None) -> None:
    """Give an original its name again that was about to be removed."""
    if here is None or (status := status_in(here, operation.aside)) is None:
        return
    if stat.S_ISREG(status.st_mode) and status_in(here, operation.name) is None:
        rename_in(here, operation.aside, here, operation.name)


@contextlib.contextmanager
def _both(operation: Operation, root: int, target: int) -> Iterator[tuple[int | None, int | None]]:
    """The file's own folder and that in the target; None of one that is not there."""
    with contextlib.ExitStack() as stack:
        found: list[int | None] = []
        for top in (root, target):
            try:
                found.append(stack.enter_context(folder_in(top, operation.folders)))
            except FileNotFoundError:
                found.append(None)
        yield found[0], found[1]


def _copy(operation: Operation, file: int, there: int) -> None:
    copy_checked(file, there, operation.part, operation.content)
    try:
        _rename(there, operation.part, there, operation.name)
    except BaseException:
        _drop(there, operation.part)
        raise


def _link(file: int, status: os.stat_result, here: int, name: bytes, there: int) -> None:
    """A hard link to just the file that was checked, whatever has its name now."""
    try:
        os.link(f"/proc/self/fd/{file}", name, dst_dir_fd=there, follow_symlinks=True)
        return
    except FileExistsError:
        raise _taken() from None
    except FileNotFoundError:
        pass  # without /proc: by its name, and then a look at what that was
    try:
        os.link(name, name, src_dir_fd=here, dst_dir_fd=there, follow_symlinks=False)
    except FileExistsError:
        raise _taken() from None
    if not os.path.samestat(status, os.stat(name, dir_fd=there, follow_symlinks=False)):
        os.unlink(name, dir_fd=there)
        raise _replaced()


def _moved(operation: Operation, status: os.stat_result, here: int, there: int) -> bool:
    """Rename the file; False where that cannot be done, so that it is to be copied.

    It is a name that is renamed: what had it is looked at afterwards.
    """
    name = operation.name
    if not _renamed(here, name, there, name):
        return False
    after = status_in(there, name)
    if after is None or not is_same(status, after):
        _rename(there, name, here, name)
        raise _replaced()
    return True


def _renamed(folder: int, name: bytes, other: int, new_name: bytes) -> bool:
    """Whether a file could be renamed; False across file systems that are one device, too."""
    try:
        _rename(folder, name, other, new_name)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP):
            return False
        raise
    return True


def _rename(folder: int, name: bytes, other: int, new_name: bytes) -> None:
    try:
        rename_in(folder, name, other, new_name)
    except FileExistsError:
        raise _taken() from None


def _remove_checked(folder: int, operation: Operation) -> None:
    """Remove the file where it holds what the operation is about."""
    with open_checked(folder, operation.name, operation.content) as (_, status):
        _remove(folder, operation.name, status, operation.aside)


def _remove(folder: int, name: bytes, status: os.stat_result, aside: bytes) -> None:
    """Remove just the file of that status, never another that took its name a moment ago."""
    _rename(folder, name, folder, aside)
    after = status_in(folder, aside)
    if after is None or not is_same(status, after):
        _rename(folder, aside, folder, name)
        raise _replaced()
    try:
        os.unlink(aside, dir_fd=folder)
    except OSError:
        _rename(folder, aside, folder, name)
        raise


def _drop(folder: int, name: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def _taken() -> RefusedError:
    return RefusedError("its name is taken in the target folder")


def _replaced() -> RefusedError:
    return RefusedError("was replaced or changed meanwhile")
