"""What the sandbox of decoders is worth on this machine, found by trying to break out of it.

`probe` starts a process that restricts itself and then tries what a compromised decoder would.
"""

from __future__ import annotations

import errno
import mmap
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from moderate.decode.sandbox import MIN_MEMORY_BYTES, Protection, harden
from moderate.native import ROOT, child_environment

_TIMEOUT = 30.0  # seconds
_END = "end"
_REFUSED = "refused"
_EXECUTE = "execute a program"
# EMFILE: no descriptor left to open it with. ENOMEM comes as MemoryError, except from mmap.
_REFUSALS = (errno.EPERM, errno.EACCES, errno.EMFILE, errno.ENOMEM)


@dataclass(frozen=True, slots=True)
class Probed:
    """The protections that are active on this machine, and what a process could do despite them."""

    sandbox: tuple[Protection, ...]
    breaches: tuple[str, ...]


def probe() -> Probed:
    """Start a sandboxed process and have it try. Raises OSError where it does not finish."""
    try:
        process = subprocess.run(
            [sys.executable, "-P", "-m", "moderate.decode.probe"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT,
            text=True,
            check=False,
            cwd=ROOT,
            env=child_environment(),
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"the hardened process did not end within {_TIMEOUT:g} s") from None
    sandbox, *lines = process.stdout.splitlines() or [""]
    if _END not in lines:
        raise OSError(f"the hardened process ended with exit code {process.returncode}")
    breaches = lines[: lines.index(_END)]
    if lines[-1] != _REFUSED:
        breaches.append(_EXECUTE)
    return Probed(tuple(Protection(name) for name in sandbox.split()), tuple(breaches))


def _read_a_file() -> None:
    os.close(os.open(sys.executable, os.O_RDONLY))


def _list_a_folder() -> None:
    os.listdir("/")


def _create_a_file() -> None:
    path = os.path.join(tempfile.gettempdir(), f"moderate-probe-{secrets.token_hex(8)}")
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    os.unlink(path)


def _fork() -> None:
    if not (child := os.fork()):
        os._exit(0)
    os.waitpid(child, 0)


def _connect_by_tcp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.connect(("127.0.0.1", 9))


def _connect_by_udp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", 9))  # sends nothing yet


def _signal_its_parent() -> None:
    os.kill(os.getppid(), 0)


def _take_more_memory() -> None:
    bytearray(MIN_MEMORY_BYTES)


def _map_more_memory() -> None:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    mmap.mmap(-1, 2 * MIN_MEMORY_BYTES, flags=flags, prot=mmap.PROT_READ).close()


def _execute() -> None:
    os.execv(sys.executable, [sys.executable, "-I", "-c", ""])  # noqa: S606 - to be refused


_ATTEMPTS: dict[str, Callable[[], None]] = {
    "read a file": _read_a_file,
    "list a folder": _list_a_folder,
    "create a file": _create_a_file,
    "fork": _fork,
    "connect by TCP": _connect_by_tcp,
    "connect by UDP": _connect_by_udp,
    "signal its parent": _signal_its_parent,
    "take more memory than its limit": _take_more_memory,
    "map more memory than its limit": _map_more_memory,
}


def _is_refused(attempt: Callable[[], None]) -> bool:
    try:
        attempt()
    except MemoryError:
        return True
    except OSError as error:
        return error.errno in _REFUSALS
    return False


def main() -> None:
    """In the sandboxed process: print a line of protections, one for each breach, and the end.

    Last it tries to execute a program, and prints one more line where that is refused. Nothing is
    expected of the program: with no descriptor left for its libraries it may not even start.
    """
    tempfile.gettempdir()  # finds a place to write now, and remembers it
    os.write(1, f"{' '.join(harden(MIN_MEMORY_BYTES))}\n".encode())
    for name, attempt in _ATTEMPTS.items():
        if not _is_refused(attempt):
            os.write(1, f"{name}\n".encode())
    os.write(1, f"{_END}\n".encode())
    if _is_refused(_execute):
        os.write(1, f"{_REFUSED}\n".encode())


if __name__ == "__main__":
    main()
