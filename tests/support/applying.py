"""Files with results that decide on them, and `moderate apply` in processes that are stopped.

Run as a program, this module is such a process: it imports the command once, and forks for each
line of standard input, so that twenty kills cost little more than one start of Python.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from moderate.results.targets import open_writers
from moderate.types import (
    UNSCORED,
    Category,
    Decision,
    ErrorCode,
    ImageError,
    ImageFacts,
    ImageRef,
    Row,
)

SCORES = {Decision.APPROVE: 0.0, Decision.REVIEW: 0.5, Decision.BLOCK: 0.9}
_CALLS = ("open", "write", "fsync", "unlink", "link", "mkdir", "rmdir", "utime")
_NAMES = (b"%d.jpg", b"new\nline %d.jpg", b"\xff\xfe%d.jpg", b"\x1b[31mred %d.jpg", b"wow!%d.jpg")

Snapshot = dict[bytes, tuple[bytes, int, int]]


def row(path: bytes, data: bytes | None, decision: Decision, *, sha256: str | None = None) -> Row:
    """A row as of a scan; data is None where the file could not be read."""
    if data is None:
        error = ImageError(ErrorCode.PERMISSION_DENIED, "cannot read")
        return Row(ImageRef(path), ImageFacts(), UNSCORED, decision, (), error=error)
    facts = ImageFacts(bytes=len(data), sha256=sha256 or hashlib.sha256(data).hexdigest())
    scores = {**UNSCORED, Category.NUDITY: SCORES[decision]}
    return Row(ImageRef(path), facts, scores, decision, ("because",))


def write_rows(target: Path, rows: Sequence[Row]) -> Path:
    """A results file."""
    with open_writers([str(target)]) as (writer,):
        writer.start({"tool": "moderate"}, ())
        for each in rows:
            writer.write(each)
        writer.commit({})
    return target


def make_files(folder: Path, count: int, *, seed: int = 0, most: int = 3000) -> list[Row]:
    """Files with names of every kind in folders, and their rows: block, review, approve in turn."""
    rng, rows = random.Random(seed), []
    for number in range(count):
        below = folder / ("first", "second/deep", "second")[number % 3]
        if not below.is_dir():
            below.mkdir(parents=True)
            below.chmod(0o750)
        path = os.path.join(os.fsencode(below), _NAMES[number % len(_NAMES)] % number)
        data = rng.randbytes(rng.randrange(1, most))
        with open(path, "wb") as file:
            file.write(data)
        os.chmod(path, (0o640, 0o444, 0o755)[number % 3])
        os.utime(path, ns=(10**18 + number, 10**18 + number * 1001))
        rows.append(row(path, data, list(Decision)[2 - number % 3]))
    return rows


def snapshot(folder: Path) -> Snapshot:
    """Every file below a folder: its bytes, permissions and modification time."""
    found: Snapshot = {}
    for parent, _, names in os.walk(os.fsencode(folder)):
        for name in names:
            path = os.path.join(parent, name)
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                data = os.readlink(path)
            else:
                with open(path, "rb") as file:
                    data = file.read()
            relative = os.path.relpath(path, os.fsencode(folder))
            found[relative] = (data, stat.S_IMODE(status.st_mode), status.st_mtime_ns)
    return found


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code or minus the signal, and what it printed."""

    code: int
    calls: int
    out: str


class Commands:
    """Runs commands in forks of one process, each on request stopped at one of its system calls."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.applying"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: object, **how: Any) -> Ended:
        """Run a command.

        stop_at is the number of the call at which `signal` comes: before it, or else `after` it;
        a write has written half by then. across: every folder is on a file system of its own.
        user and file_size are the user id and the bytes that a file may have.
        """
        pipe = self._process
        assert pipe.stdin
        assert pipe.stdout
        pipe.stdin.write(json.dumps({"arguments": [str(a) for a in arguments], **how}) + "\n")
        pipe.stdin.flush()
        return Ended(**json.loads(pipe.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


@contextlib.contextmanager
def commands() -> Iterator[Commands]:
    """`Commands` that end."""
    started = Commands()
    try:
        yield started
    finally:
        started.close()


def _main() -> None:
    from moderate.cli.main import run

    # Once for each format, so that all there is to be imported is: a child may run as another user.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        rows = make_files(Path(folder) / "photos", 6)
        for suffix in ("csv", "jsonl", "parquet"):
            results = write_rows(Path(folder) / f"rows.{suffix}", rows)
            run(["apply", str(results), "--root", folder, "--block-to", f"{folder}/into"])
    for line in sys.stdin:
        request = json.loads(line)
        counts, out = os.memfd_create("calls"), os.memfd_create("out")
        child = os.fork()
        if not child:
            _run(request, counts, out)
        _, status = os.waitpid(child, 0)
        calls = os.fstat(counts).st_size
        text = os.pread(out, 1 << 20, 0).decode("utf-8", "backslashreplace")
        os.close(counts)
        os.close(out)
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps({"code": code, "calls": calls, "out": text}), flush=True)


def _run(request: dict[str, Any], counts: int, out: int) -> None:
    from moderate.apply import operations, run
    from moderate.cli.main import main

    run.AHEAD = 4
    os.dup2(out, 1)
    os.dup2(out, 2)
    stop_at, after = request.get("stop_at"), request.get("after", False)
    number = request.get("signal", signal.SIGKILL)
    really_write, made = os.write, 0

    def counted(call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal made
            made += 1
            really_write(counts, b".")
            stops = made == stop_at
            if stops and not after:
                os.kill(os.getpid(), number)
            if stops and name == "write":
                really_write(args[0], bytes(args[1])[: len(args[1]) // 2])
                os.kill(os.getpid(), number)
            try:
                return call(*args, **kwargs)
            finally:
                if stops and after:
                    os.kill(os.getpid(), number)

        return wrapper

    rename = operations.rename_in

    def across(folder: int, name: bytes, other: int, new_name: bytes) -> None:
        if not os.path.samestat(os.fstat(folder), os.fstat(other)):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(folder, name, other, new_name)

    operations.rename_in = counted(across if request.get("across") else rename, "rename")
    # A kill loses nothing that is written, and waiting for the disk would take most of the time.
    os.fsync = lambda _: None
    for name in _CALLS:
        setattr(os, name, counted(getattr(os, name), name))
    if limit := request.get("file_size"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if user := request.get("user"):
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    sys.argv = ["moderate", *cast("list[str]", request["arguments"])]
    main()


if __name__ == "__main__":
    _main()
