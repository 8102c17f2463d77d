"""`--lock FILE`: one at a time, with `flock` too, and never locked out for ever."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from moderate.errors import StateError
from moderate.state.run_lock import exclusive
from tests.support.patience import PATIENCE

RUN = "ab" * 16

# `flock -n FILE` of util-linux does these calls.
_FLOCK = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDONLY | os.O_CREAT, 0o666)
try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(1)
"""
_HOLDER = """
import sys
from moderate.state.run_lock import exclusive
with exclusive(sys.argv[1], None, print, run_id=sys.argv[2]):
    print("held", flush=True)
    sys.stdin.readline()
"""


def refuse_to_wait(line: str) -> None:
    raise AssertionError(line)


def flock(path: Path) -> int:
    """What `flock -n FILE true` says: 0 got, 1 not."""
    return subprocess.run([sys.executable, "-c", _FLOCK, str(path)]).returncode


@contextlib.contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until a line comes, or its end."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(path), RUN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_one_at_a_time_and_who_it_is(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path) as other:
        with (
            pytest.raises(StateError) as refused,
            exclusive(str(path), None, refuse_to_wait),
        ):
            pytest.fail("both have it")
        expected = (
            rf"--lock {re.escape(str(path))}: another run \(process {other.pid} on "
            rf"{re.escape(socket.gethostname())}, run {RUN}, since \d{{4}}-.*Z\) holds it; "
            "nothing was done"
        )
        assert re.fullmatch(expected, str(refused.value))
        other.communicate("end\n")
    assert path.read_bytes() == b""
    with exclusive(str(path), None, refuse_to_wait, run_id="mine"):
        assert b"run mine, since" in path.read_bytes()
        assert flock(path) == 1
    assert flock(path) == 0


def test_a_killed_holder_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path) as other:
        other.kill()
        other.wait()
        assert RUN in path.read_text()
        with exclusive(str(path), None, refuse_to_wait, run_id="mine"):
            assert "mine" in path.read_text()
            assert RUN not in path.read_text()


def test_within_one_process_too(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with (
        exclusive(path, None, refuse_to_wait),
        pytest.raises(StateError, match="holds it"),
        exclusive(path, None, refuse_to_wait),
    ):
        pytest.fail("both have it")


def test_an_error_inside_releases_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with pytest.raises(ZeroDivisionError), exclusive(str(path), None, refuse_to_wait):
        raise ZeroDivisionError
    assert flock(path) == 0
    assert path.read_bytes() == b""


def test_waiting_until_it_is_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    said: list[str] = []
    with holder(path) as other:

        def on_wait(line: str) -> None:
            said.append(line)
            assert other.stdin
            threading.Timer(0.5, lambda: other.communicate("end\n")).start()

        with exclusive(str(path), 60, on_wait):
            assert other.wait() == 0
    assert len(said) == 1
    assert f"run {RUN}, since" in said[0]
    assert said[0].endswith("holds it; waiting up to 60 s")


@pytest.mark.parametrize("wait", [0, 0.3])
def test_waiting_in_vain(tmp_path: Path, wait: float) -> None:
    path = tmp_path / "lock"
    said: list[str] = []
    with (
        holder(path),
        pytest.raises(StateError, match=f"still holds it after {wait:g} s; nothing was done"),
        exclusive(str(path), wait, said.append),
    ):
        pytest.fail("both have it")
    assert len(said) == (wait > 0)


_WAIT = """
import signal, sys
from moderate.state.run_lock import exclusive

class Stopped(BaseException):
    pass

def stop(*_):
    raise Stopped

signal.signal(signal.SIGALRM, stop)
try:
    with exclusive(sys.argv[1], 250, lambda _: signal.alarm(1)):
        print("both have it")
except Stopped:
    print("stopped")
"""


def test_a_signal_ends_the_wait(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path):
        command = [sys.executable, "-c", _WAIT, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout == "stopped\n"
    assert flock(path) == 0


def test_flock_of_util_linux_and_this_lock_each_other_out(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    if program := next(
        (name for name in ("/usr/bin/flock", "/bin/flock") if os.access(name, os.X_OK)), None
    ):
        command = [program, "-n", str(path), "cat"]
    else:
        command = [sys.executable, "-c", f"{_FLOCK}\nprint(flush=True); input()", str(path)]
    with exclusive(str(path), None, refuse_to_wait):
        assert subprocess.run(command, stdin=subprocess.DEVNULL).returncode == 1
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin
        assert other.stdout
        other.stdin.write(b"\n")
        other.stdin.flush()
        assert other.stdout.readline() == b"\n"
        with (
            pytest.raises(StateError, match="another process holds it"),
            exclusive(str(path), None, refuse_to_wait),
        ):
            pytest.fail("both have it")
        other.stdin.close()
    with exclusive(str(path), None, refuse_to_wait):
        pass


def test_a_file_with_other_content_is_locked_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "crontab"
    path.write_text("0 3 * * * moderate scan\n")
    with exclusive(str(path), None, refuse_to_wait, run_id=RUN):
        assert path.read_text() == "0 3 * * * moderate scan\n"
        assert flock(path) == 1
        with (
            pytest.raises(StateError, match="another process holds it"),
            exclusive(str(path), None, refuse_to_wait),
        ):
            pytest.fail("both have it")
    assert path.read_text() == "0 3 * * * moderate scan\n"
    assert flock(path) == 0


def test_a_file_put_in_the_place_of_the_locked_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path):

        def on_wait(_: str) -> None:
            path.unlink()
            path.write_bytes(b"")

        with exclusive(str(path), 60, on_wait, run_id="mine"):
            assert b"mine" in path.read_bytes()
            assert flock(path) == 1


def test_what_is_written_there_cannot_deceive(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_bytes(b"moderate: \x1b[31m\xff" + b"x" * 10_000)
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with (
        pytest.raises(StateError) as refused,
        exclusive(str(path), None, refuse_to_wait),
    ):
        pytest.fail("both have it")
    os.close(descriptor)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 500


def test_what_cannot_be_a_lock(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket"))
    for name, reason in (
        ("pipe", "not a regular file"),
        ("socket", "No such device or address"),
        (".", "Is a directory"),
        ("none/lock", "No such file or directory"),
        ("\x1b" + "x" * 300, "File name too long"),
        ("a\0b", "embedded null"),
    ):
        with (
            pytest.raises(StateError, match=reason) as refused,
            exclusive(str(tmp_path / name), 30, refuse_to_wait),
        ):
            pytest.fail(name)
        assert str(refused.value).isprintable()
        assert str(refused.value).startswith("--lock ")
    listening.close()


_MANY = """
import sys
from pathlib import Path
from moderate.state.run_lock import exclusive
count = Path(sys.argv[2])
for _ in range(20):
    with exclusive(sys.argv[1], 200, lambda _: None):
        number = int(count.read_text())
        count.write_text(str(number + 1))
"""


def test_many_processes(tmp_path: Path) -> None:
    count = tmp_path / "count"
    count.write_text("0")
    command = [sys.executable, "-c", _MANY, str(tmp_path / "lock"), str(count)]
    children = [subprocess.Popen(command) for _ in range(3)]
    assert [child.wait() for child in children] == [0] * 3
    assert count.read_text() == "60"
