"""`--lock FILE`: one run at a time for whoever names the same file, `flock FILE` included."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from moderate.errors import StateError
from moderate.locks import is_file_at, is_unsupported, try_lock, unlock
from moderate.text import one_line, printable, utc

_RETRY_SECONDS = 0.2
_MARK = "moderate: "  # starts what this program writes into a lock file
_MAX_HOLDER_BYTES = 500
_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


@contextmanager
def exclusive(
    path: str,
    wait: float | None,
    on_wait: Callable[[str], None],
    *,
    run_id: str | None = None,
) -> Iterator[None]:
    """Hold the lock of the file `path`, which is created where missing and never removed.

    wait: seconds to wait for another holder, None to refuse at once. on_wait is called with one
    line when waiting begins. The holder writes who it is into the file, for the messages of those
    that wait or are refused; a file with any other content is locked but not written to. The lock
    is released when the process ends, however it ends. Raises StateError.
    """
    descriptor = _open_locked(path, wait, on_wait)
    try:
        is_signed = _sign(descriptor, run_id)
        try:
            yield
        finally:
            if is_signed:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, 0)
    finally:
        unlock(descriptor)


def _open_locked(path: str, wait: float | None, on_wait: Callable[[str], None]) -> int:
    """Open and lock the file, waiting as long as allowed; returns its descriptor."""
    name = printable(path)
    began = time.monotonic()
    is_waiting = False
    while True:
        # Opened again for each attempt: another file may have taken its place.
        descriptor = _open(path)
        try:
            if try_lock(descriptor):
                if is_file_at(descriptor, path, follow_symlinks=True):
                    return descriptor
                os.close(descriptor)
                continue
            holder = _holder(descriptor)
        except OSError as error:
            os.close(descriptor)
            if is_unsupported(error):
                raise StateError(
                    f"--lock {name}: this file system has no locks; name a file on another"
                ) from error
            raise StateError(f"--lock {name}: {error.strerror}") from error
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        waited = time.monotonic() - began
        if wait is None:
            raise StateError(f"--lock {name}: {holder} holds it; nothing was done")
        if waited >= wait:
            raise StateError(
                f"--lock {name}: {holder} still holds it after {wait:g} s; nothing was done"
            )
        if not is_waiting:
            is_waiting = True
            on_wait(f"--lock {name}: {holder} holds it; waiting up to {wait:g} s")
        time.sleep(min(_RETRY_SECONDS, wait - waited))


def _open(path: str) -> int:
    try:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o666)
        except PermissionError as error:
            # Another user's file: to lock it, being able to read it is enough.
            try:
                descriptor = os.open(path, os.O_RDONLY | _FLAGS)
            except OSError:
                raise error from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise StateError(f"--lock {printable(path)}: {reason}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StateError(f"--lock {printable(path)}: not a regular file")
    return descriptor


def _sign(descriptor: int, run_id: str | None) -> bool:
    """Write the holder into the lock file; False where its content is not ours to replace."""
    run = f", run {run_id}" if run_id else ""
    line = (
        f"{_MARK}process {os.getpid()} on {socket.gethostname()}{run}, "
        f"since {utc(datetime.now(UTC))}\n"
    )
    try:
        mark = _MARK.encode()
        if os.pread(descriptor, len(mark), 0) not in (b"", mark):
            return False
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, line.encode("utf-8", "backslashreplace"), 0)
    except OSError:  # no room, or a file we may not write: it is locked all the same
        return False
    return True


def _holder(descriptor: int) -> str:
    """The holder as the lock file names it, for a message."""
    try:
        text = os.pread(descriptor, _MAX_HOLDER_BYTES, 0).decode("utf-8", "replace")
    except OSError:
        text = ""
    line = text.partition("\n")[0]
    if not line.startswith(_MARK):
        return "another process"
    return f"another run ({one_line(line.removeprefix(_MARK))})"
