"""`--lock FILE`: one run at a time for whoever names the same file, `flock FILE` included."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from moderate.errors import StateError
from moderate.state.liveness import NO_LOCKS
from moderate.text import one_line, printable, utc

_PAUSE = 0.2  # seconds between two attempts: a wait inside flock would hold up Python's signals
_MARK = "moderate: "  # what this program writes into a lock starts so
_MOST_BYTES = 500
_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


@contextmanager
def exclusive(
    path: str,
    wait: float | None,
    on_wait: Callable[[str], None],
    *,
    run_id: str | None = None,
) -> Iterator[None]:
    """Hold the lock of the file `path`, which is made where it is missing and never removed.

    wait: seconds to wait for whoever holds it, None to refuse at once. on_wait is given one line
    when waiting begins. Whoever is refused or waits reads in the file who holds it; a file that
    holds anything else is locked all the same, and not written to. The end of the process, however
    it comes, releases the lock. Raises StateError.
    """
    descriptor = _taken(path, wait, on_wait)
    try:
        ours = _sign(descriptor, run_id)
        try:
            yield
        finally:
            if ours:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _taken(path: str, wait: float | None, on_wait: Callable[[str], None]) -> int:
    """A descriptor of the file, locked."""
    name = printable(path)
    began = time.monotonic()
    waiting = False
    while True:
        # Opened anew each time: somebody may have put another file in its place.
        descriptor = _open(path)
        try:
            if _lock(descriptor, name):
                if _is_at(descriptor, path):
                    return descriptor
                os.close(descriptor)
                continue
            holder = _holder(descriptor)
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
        if not waiting:
            waiting = True
            on_wait(f"--lock {name}: {holder} holds it; waiting up to {wait:g} s")
        time.sleep(min(_PAUSE, wait - waited))


def _open(path: str) -> int:
    try:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o666)
        except PermissionError as error:
            # Another user's file: that can be locked, too, if it can be read.
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


def _lock(descriptor: int, name: str) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in NO_LOCKS:
            raise StateError(
                f"--lock {name}: this file system has no locks; name a file on another"
            ) from error
        raise StateError(f"--lock {name}: {error.strerror}") from error
    return True


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _sign(descriptor: int, run_id: str | None) -> bool:
    """Write into the lock who holds it; False where it holds what is not ours to replace."""
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
    except OSError:  # no room, or not ours to write: it is locked all the same
        return False
    return True


def _holder(descriptor: int) -> str:
    """Who says in the lock to hold it."""
    try:
        text = os.pread(descriptor, _MOST_BYTES, 0).decode("utf-8", "replace")
    except OSError:
        text = ""
    line = text.partition("\n")[0]
    if not line.startswith(_MARK):
        return "another process"
    return f"another run ({one_line(line.removeprefix(_MARK))})"
