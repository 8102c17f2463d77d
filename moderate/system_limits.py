"""Names the system limit behind an error, so that an administrator can raise it."""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
import threading
from collections.abc import Iterator

_FEW_DESCRIPTORS = 64
_TOO_MANY_FILES = os.strerror(errno.EMFILE)
# What the dynamic loader, Python and C++ libraries say, in errors that have no number.
_NO_THREAD = ("can't start new thread", "thread constructor failed")
_NO_MEMORY = ("failed to map segment", os.strerror(errno.ENOMEM), "bad_alloc")


def system_limit(error: BaseException) -> str | None:
    """Which limit of the system an error, or one that led to it, comes from; None where it is none.

    For example `too few file descriptors (ulimit -n 12)`.
    """
    return next(filter(None, map(_limit, _chain(error))), None)


def with_limit(error: BaseException) -> str:
    """What an error says, after the limit of the system that it comes from."""
    limit = system_limit(error)
    return f"{limit}; {error}" if limit else str(error)


def no_thread_limit(count: int = 1) -> str | None:
    """The limit that keeps this process from starting so many threads; None where it can.

    Libraries in C abort the process, or send it a signal, when they cannot.
    """
    enough = threading.Event()
    threads: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=enough.wait)
            thread.start()
            threads.append(thread)
    except RuntimeError as error:
        return system_limit(error)
    finally:
        enough.set()
        for thread in threads:
            thread.join()
    return None


def _limit(error: BaseException) -> str | None:
    said = str(error)
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EMFILE or _TOO_MANY_FILES in said:
        return _descriptors()
    if number == errno.ENFILE:
        return "the system has no file descriptors left (sysctl fs.file-max)"
    # Nothing else that waits for no one leaves the place where it is used.
    if number == errno.EAGAIN or any(sign in said for sign in _NO_THREAD):
        limit = _ulimit("u", resource.RLIMIT_NPROC)
        return f"too few processes and threads ({limit}, or a limit of the container)"
    if number == errno.EFBIG:
        return _file_size() or "a file is too large for its file system"
    if isinstance(error, MemoryError) or number == errno.ENOMEM:
        return _memory()
    if isinstance(error, (ImportError, RuntimeError)) and any(s in said for s in _NO_MEMORY):
        return _memory()
    if isinstance(error, sqlite3.OperationalError):
        return _of_sqlite(said)
    return None


def _of_sqlite(said: str) -> str | None:
    """SQLite does not say why: a limit is the reason where there is a narrow one."""
    descriptors = _soft(resource.RLIMIT_NOFILE)
    if "unable to open" in said and descriptors is not None and descriptors < _FEW_DESCRIPTORS:
        return _descriptors()
    return _file_size() if "disk I/O" in said or "is full" in said else None


def _descriptors() -> str:
    return f"too few file descriptors ({_ulimit('n', resource.RLIMIT_NOFILE)})"


def _file_size() -> str | None:
    soft = _soft(resource.RLIMIT_FSIZE)
    if soft is None:
        return None
    said = f"files, and memory shared with decoders, may not be larger than {soft:,} bytes"
    return f"{said} (ulimit -f {soft // 1024})"


def _memory() -> str:
    limits = (("v", resource.RLIMIT_AS), ("d", resource.RLIMIT_DATA))
    set_here = [_ulimit(letter, kind, 1024) for letter, kind in limits if _soft(kind) is not None]
    return f"not enough memory ({', '.join(set_here) or 'of the machine or the container'})"


def _ulimit(letter: str, kind: int, unit: int = 1) -> str:
    soft = _soft(kind)
    return f"ulimit -{letter} {'unlimited' if soft is None else soft // unit}"


def _soft(kind: int) -> int | None:
    soft = resource.getrlimit(kind)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those that it was raised from or in the course of, the last one first."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [each.__context__, each.__cause__]
