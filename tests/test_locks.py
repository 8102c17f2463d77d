"""Locks between processes: held until their holder ends, and never lost to another file."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from moderate.locks import is_file_at, is_unsupported, lock_file, try_lock
from moderate.state.run_lock import exclusive

_HOLDER = """
import sys
from moderate.locks import lock_file
with lock_file(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_another_process_waits_until_the_holder_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        began = time.monotonic()
        with pytest.raises(BlockingIOError), lock_file(path, wait_seconds=0.2):
            pass
        assert time.monotonic() - began >= 0.2
        holder.kill()
        with lock_file(path, wait_seconds=10):
            pass
    assert path.exists()


def of_a_run(path: Path) -> AbstractContextManager[None]:
    return exclusive(str(path), None, lambda line: None, run_id="a")


@pytest.mark.parametrize("lock", [lock_file, of_a_run])
def test_a_fork_meanwhile_does_not_keep_the_lock(
    tmp_path: Path, lock: Callable[[Path], AbstractContextManager[None]]
) -> None:
    path = tmp_path / "a.lock"
    read, write = os.pipe()
    with lock(path):
        child = os.fork()
        if not child:
            os.close(write)
            os.read(read, 1)  # until the parent is done
            os._exit(0)
    os.close(read)
    try:
        with lock(path):
            pass
    finally:
        os.close(write)
        os.waitpid(child, 0)


def test_shared_locks_exclude_only_an_exclusive_one(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    first, second, third = (os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(3))
    assert try_lock(first, shared=True)
    assert try_lock(second, shared=True)
    assert not try_lock(third)
    os.close(first)
    os.close(second)
    assert try_lock(third)
    os.close(third)


def test_a_file_that_was_replaced_is_not_the_locked_one(tmp_path: Path) -> None:
    path, link = tmp_path / "a.lock", tmp_path / "link"
    link.symlink_to(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    assert is_file_at(descriptor, path)
    assert is_file_at(descriptor, link, follow_symlinks=True)
    assert not is_file_at(descriptor, link)
    path.unlink()
    assert not is_file_at(descriptor, path)
    path.touch()
    assert not is_file_at(descriptor, path)
    os.close(descriptor)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match=os.strerror(code)) as caught, lock_file(tmp_path / "a.lock"):
        pass
    assert is_unsupported(caught.value)
