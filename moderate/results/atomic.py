"""A file or object that appears whole or not at all, and that one run at a time writes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Sequence
from io import BufferedRandom
from typing import cast

from moderate.errors import OutputError
from moderate.locks import is_file_at, is_unsupported, try_lock
from moderate.results.remote import is_remote, send, shown_target
from moderate.text import printable

_BUFFER = 1 << 20  # bytes


class AtomicFile:
    """Written beside its target as `.part`, fsynced, then renamed over it.

    Of a symbolic link, the target is the file that it leads to. A file that is replaced leaves its
    mode, its group and, where permitted, its owner to the new one.

    The `.part` file has one name for each target and is locked while it is written. One that a
    killed run left behind is not locked, and the next run removes it. Raises OutputError where
    another run writes the target, or where nothing can be written there.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self._name = os.path.abspath(target)
        self._path = os.path.realpath(target)
        self._part = part_path(self._path)
        self._previous = part_path(self._path, "previous.part")
        self._sha256: str | None = None
        try:
            status = _status(self._path)
            self._mode = None if status is None else stat.S_IMODE(status.st_mode) & 0o777
            if status is not None and not stat.S_ISREG(status.st_mode):
                raise OutputError(f"cannot write {printable(target)}: {what_it_is(status)}")
            # Since the targets were checked, hours may have passed in waiting for another run.
            if problem := shared_folder_problem(target, self._path):
                raise OutputError(f"cannot write {printable(target)}: {problem}")
            # Whoever could not read the old file is not to open the new one before it has its mode.
            descriptor = _create_locked(self._part, 0o666 if status is None else 0o600)
            if status is not None:
                self._mode = _take_owner(descriptor, status)
        except BlockingIOError as error:
            raise OutputError(
                f"{printable(target)}: another run is writing it; "
                "wait for that to end, or name another --out"
            ) from error
        except OSError as error:
            raise output_error(target, error) from error
        # Each write to the disk hands Python's lock to another thread: rather few large ones.
        self.file = cast("BufferedRandom", os.fdopen(descriptor, "w+b", buffering=_BUFFER))

    @property
    def name(self) -> str:
        """The target's absolute path."""
        return self._name

    def seal(self) -> str:
        """Bring all to the disk after the last write. The SHA-256 (hex) of the whole.

        Raises OutputError and leaves the target as it was.
        """
        if self._sha256 is None:
            try:
                self.file.flush()
                os.fsync(self.file.fileno())
                self.file.seek(0)
                self._sha256 = hashlib.file_digest(self.file, "sha256").hexdigest()
            except OSError as error:
                self.discard()
                raise output_error(self.target, error) from error
        return self._sha256

    def commit(self) -> str:
        """Put the file under its name. The SHA-256 (hex) of the whole.

        Raises OutputError and leaves the target as it was.
        """
        return commit_together([self])[self.name]

    def keep_previous(self) -> None:
        """Keep the file that `put` is to replace under another name, for `take_back`."""
        with contextlib.suppress(OSError):
            os.unlink(self._previous)  # of a run that was killed
        # Where the file system has no hard links, it cannot be taken back.
        with contextlib.suppress(OSError):
            os.link(self._path, self._previous)

    def put(self) -> None:
        """Rename the sealed file over its target. Raises OutputError."""
        try:
            # Only where there are no locks can another run have taken the name.
            if not is_file_at(self.file.fileno(), self._part):
                raise OutputError(f"{printable(self.target)}: another run has begun to write it")
            if self._mode is not None:
                os.fchmod(self.file.fileno(), self._mode)
            os.replace(self._part, self._path)
        except OSError as error:
            raise output_error(self.target, error) from error

    def take_back(self) -> None:
        """Undo `put`, as far as `keep_previous` could prepare it. Never raises."""
        with contextlib.suppress(OSError):
            if self._mode is None:
                os.unlink(self._path)
            else:
                os.replace(self._previous, self._path)

    def settle(self) -> None:
        """Bring the new name to the disk. Raises OutputError."""
        try:
            folder = os.open(os.path.dirname(self._path), os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise output_error(self.target, error) from error

    def discard(self) -> None:
        """Remove what was written, unless it was committed. Never raises."""
        if self.file.closed:
            return
        with contextlib.suppress(OSError):
            os.unlink(self._previous)
        with contextlib.suppress(OSError):
            if is_file_at(self.file.fileno(), self._part):
                os.unlink(self._part)
        with contextlib.suppress(OSError):
            self.file.close()  # not before: it holds the lock


class UploadedFile:
    """Written to this machine, then sent to its target, an object in a store.

    An object must appear whole or not at all, but a stream into one appears in part where its
    writer dies. So the object is put together first in a file without a name, in the folder for
    temporary files. Nothing of such a file outlives the process, however that ends. Raises
    OutputError where there is no such folder.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        try:
            unnamed = tempfile.TemporaryFile(buffering=_BUFFER)  # noqa: SIM115 - see discard
        except OSError as error:
            raise output_error(target, error) from error
        self.file = cast("BufferedRandom", unnamed)

    @property
    def name(self) -> str:
        """The target's URI without credentials."""
        return shown_target(self.target)

    def seal(self) -> str:
        """See `AtomicFile`. A file that is sent need not be on the disk."""
        try:
            self.file.seek(0)  # flushes
            return hashlib.file_digest(self.file, "sha256").hexdigest()
        except OSError as error:
            self.discard()
            raise output_error(self.target, error) from error

    def commit(self) -> str:
        """Send the file. The SHA-256 (hex) of the whole. Raises OutputError."""
        return commit_together([self])[self.name]

    def keep_previous(self) -> None:
        """Does nothing: an object that was replaced is gone."""

    def put(self) -> None:
        """Send the file. Raises OutputError."""
        send(self.file.fileno(), self.target)

    def take_back(self) -> None:
        """Does nothing, see `keep_previous`."""

    def settle(self) -> None:
        """Does nothing: an object that has been sent is there."""

    def discard(self) -> None:
        """Give its room back. Never raises."""
        with contextlib.suppress(OSError):
            self.file.close()


WholeFile = AtomicFile | UploadedFile


def open_whole(target: str) -> WholeFile:
    """What writes a target, a path or a URI. Raises OutputError."""
    return UploadedFile(target) if is_remote(target) else AtomicFile(target)


def commit_together(files: Sequence[WholeFile]) -> dict[str, str]:
    """Put several files under their names, in this order. The SHA-256 (hex) of each by its name.

    Raises OutputError; where one of them cannot have its name, all local targets are as before.
    """
    with contextlib.ExitStack() as stack:
        for file in files:
            stack.callback(file.discard)
        digests = {file.name: file.seal() for file in files}
        for file in files[:-1]:
            file.keep_previous()
        placed: list[WholeFile] = []
        try:
            for file in files:
                file.put()
                placed.append(file)
        except BaseException:
            for file in reversed(placed):
                file.take_back()
            raise
        for file in files:
            file.settle()
    return digests


def part_path(target: str, suffix: str = "part") -> str:
    """Where a target's bytes stand until it is whole: in its folder, one name for each target."""
    folder, name = os.path.split(os.path.realpath(target))
    exact = os.fsencode(name)
    token = hashlib.blake2b(exact, digest_size=4).hexdigest()
    # A name too long for a suffix of ours would fail; the token alone is unique enough.
    return os.path.join(folder, f".{exact[:100].decode('utf-8', 'ignore')}.{token}.{suffix}")


def folder_problem(folder: str) -> str | None:
    """Why no file can be put into a folder; None where one can. A file is tried and leaves nothing.

    Permissions alone do not tell: there are folders of the kernel, full disks, quotas, and network
    file systems that trust no root.
    """
    if not os.path.isdir(folder):
        return f"there is no folder {printable(folder)}"
    reason = f"nothing can be written in the folder {printable(folder)}"
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        return reason
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".moderate-"):
            return None
    except OSError as error:
        return f"{reason} ({error.strerror or error})"


def what_it_is(status: os.stat_result) -> str:
    """Why something that is no regular file cannot be a target, for messages."""
    if stat.S_ISDIR(status.st_mode):
        return "it is a folder"
    if stat.S_ISFIFO(status.st_mode):
        return "it is a named pipe, not a regular file"
    if stat.S_ISSOCK(status.st_mode):
        return "it is a socket, not a regular file"
    return "it is a device, not a regular file"


def shared_folder_problem(target: str, path: str) -> str | None:
    """What keeps a file in a folder such as `/tmp`, where users have only their own, from a name.

    path is the target without symbolic links. A link that another user laid there is not followed,
    by the kernel's own rule for such folders.
    """
    user = os.geteuid()
    for name in dict.fromkeys((os.path.abspath(target), path)):
        try:
            entry, folder = os.lstat(name), os.stat(os.path.dirname(name))
        except OSError:
            continue
        if not folder.st_mode & stat.S_ISVTX or entry.st_uid in (user, folder.st_uid):
            continue
        if stat.S_ISLNK(entry.st_mode):
            return "it is a symbolic link of another user's in a folder that others can write to"
        if user not in (0, folder.st_uid):
            return "it belongs to another user, and its folder lets nobody else replace it"
    return None


def write_atomic(target: str, data: bytes) -> str:
    """The whole of a small file or object at once; its SHA-256 (hex). Raises OutputError."""
    atomic = open_whole(target)
    try:
        atomic.file.write(data)
        return atomic.commit()
    except OSError as error:
        raise output_error(target, error) from error
    finally:
        atomic.discard()


def output_error(target: str, error: OSError) -> OutputError:
    """The line for a target that the system would not let us write."""
    reason = error.strerror or error
    if is_remote(target):
        where = "the folder for temporary files (TMPDIR)"
        return OutputError(f"cannot write {shown_target(target)}: in {where}: {reason}")
    return OutputError(f"cannot write {printable(target)}: {reason}")


def _status(path: str) -> os.stat_result | None:
    """What is at `path`; None where nothing is. Raises OSError."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _take_owner(descriptor: int, replaced: os.stat_result) -> int:
    """Give a new file the group, the owner where permitted, and the mode of the file it replaces.

    Returns the mode to set at the end: until then this user can write to it.
    """
    mode = stat.S_IMODE(replaced.st_mode) & 0o777
    try:
        os.fchown(descriptor, replaced.st_uid, replaced.st_gid)
    except OSError:
        try:
            os.fchown(descriptor, -1, replaced.st_gid)
        except OSError:
            mode &= ~0o070 | (mode & 0o007) << 3  # no more for another group than for everybody
    with contextlib.suppress(OSError):
        os.fchmod(descriptor, mode | 0o600)
    return mode


def _create_locked(path: str, mode: int) -> int:
    """A new file of this mode, open and locked.

    Raises BlockingIOError where another run holds it, and OSError.
    """
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        except FileExistsError:
            _remove_abandoned(path)
            continue
        try:
            lock_part(descriptor, path)
            # Before it was locked, another run may have found it abandoned.
            if is_file_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _remove_abandoned(path: str) -> None:
    """Remove what a killed run left. Raises BlockingIOError where its writer lives, OSError.

    It is never written to: it may have another owner, other permissions, or a second name.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return  # just committed or discarded
    except OSError as error:
        line = f"{printable(path)} is in the way: {error.strerror}"
        raise OSError(error.errno, line) from error
    try:
        lock_part(descriptor, path)
        # Its writer may have renamed it into place just now: then it is a finished file.
        if is_file_at(descriptor, path):
            os.unlink(path)
    finally:
        os.close(descriptor)


def lock_part(descriptor: int, path: str) -> None:
    """Lock what a run is writing, whose path messages name.

    Raises BlockingIOError where another run holds it; goes on where there are no locks.
    """
    try:
        is_locked = try_lock(descriptor)
    except OSError as error:
        if is_unsupported(error):
            return
        raise
    if not is_locked:
        # Without a number: that of it is also what a lack of processes has.
        raise BlockingIOError(f"{printable(path)} is locked by another run")
