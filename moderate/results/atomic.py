"""A file or object that appears whole or not at all, and that one run at a time writes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import tempfile
from io import BufferedRandom
from typing import cast

from moderate.errors import OutputError
from moderate.locks import is_file_at, is_unsupported, try_lock
from moderate.results.remote import is_remote, send, shown_target
from moderate.text import printable

_BUFFER = 1 << 20  # bytes


class AtomicFile:
    """Written beside its target as `.part`, fsynced, then renamed over it.

    The `.part` file has one name for each target and is locked while it is written. One that a
    killed run left behind is not locked, and the next run removes it. Raises OutputError where
    another run writes the target, or where nothing can be written there.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self._path = os.path.abspath(target)
        self._part = part_path(self._path)
        self._sha256: str | None = None
        try:
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISDIR(os.stat(self._path).st_mode):
                    raise OutputError(f"cannot write {printable(target)}: it is a folder")
            descriptor = _create_locked(self._part)
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
        return self._path

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
        sha256 = self.seal()
        try:
            # Only where there are no locks can another run have taken the name.
            if not is_file_at(self.file.fileno(), self._part):
                raise OutputError(f"{printable(self.target)}: another run has begun to write it")
            os.replace(self._part, self._path)
            self.file.close()  # not before: it holds the lock
            folder = os.open(os.path.dirname(self._path), os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise output_error(self.target, error) from error
        finally:
            self.discard()
        return sha256

    def discard(self) -> None:
        """Remove what was written, unless it was committed. Never raises."""
        if self.file.closed:
            return
        with contextlib.suppress(OSError):
            if is_file_at(self.file.fileno(), self._part):
                os.unlink(self._part)
        with contextlib.suppress(OSError):
            self.file.close()


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
        try:
            sha256 = self.seal()
            send(self.file.fileno(), self.target)
        finally:
            self.discard()
        return sha256

    def discard(self) -> None:
        """Give its room back. Never raises."""
        with contextlib.suppress(OSError):
            self.file.close()


WholeFile = AtomicFile | UploadedFile


def open_whole(target: str) -> WholeFile:
    """What writes a target, a path or a URI. Raises OutputError."""
    return UploadedFile(target) if is_remote(target) else AtomicFile(target)


def part_path(target: str) -> str:
    """Where a target's bytes stand until it is whole: in its folder, one name for each target."""
    folder, name = os.path.split(os.path.abspath(target))
    exact = os.fsencode(name)
    token = hashlib.blake2b(exact, digest_size=4).hexdigest()
    # A name too long for a suffix of ours would fail; the token alone is unique enough.
    return os.path.join(folder, f".{exact[:100].decode('utf-8', 'ignore')}.{token}.part")


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


def _create_locked(path: str) -> int:
    """A new file, open and locked. Raises BlockingIOError where another run holds it, OSError."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            _remove_abandoned(path)
            continue
        try:
            _lock(descriptor, path)
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
        _lock(descriptor, path)
        # Its writer may have renamed it into place just now: then it is a finished file.
        if is_file_at(descriptor, path):
            os.unlink(path)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: str) -> None:
    """Raises BlockingIOError where another run holds it; goes on where there are no locks."""
    try:
        is_locked = try_lock(descriptor)
    except OSError as error:
        if is_unsupported(error):
            return
        raise
    if not is_locked:
        raise BlockingIOError(errno.EWOULDBLOCK, "locked by another run", path)
