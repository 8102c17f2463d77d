"""A file system whose ctime follows mtime, as on FAT or sshfs: a flat folder shown through FUSE.

    python tests/support/passthrough.py FOLDER MOUNT_POINT

It speaks the kernel's own protocol (linux/fuse.h), so that no library is needed, and ends when its
standard input does. Read-only from the outside; what changes in FOLDER is seen at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

_HEADER = struct.Struct("<IIQQIIII")  # length, opcode, unique, node, uid, gid, pid, padding
_ROOT = 1
_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _STATFS = 1, 2, 3, 14, 15, 17
_RELEASE, _FLUSH, _INIT, _OPENDIR, _READDIR, _RELEASEDIR = 18, 25, 26, 27, 28, 29
_ACCESS, _INTERRUPT, _DESTROY, _BATCH_FORGET = 34, 36, 38, 42
_SILENT = {_FORGET, _BATCH_FORGET, _INTERRUPT}
_MAX_REQUEST = 1 << 18


def serve(fuse: int, folder: str) -> None:
    """Answer the kernel until it says goodbye."""
    names: list[str] = []  # of node _ROOT + 1 + index
    while True:
        try:
            request = os.read(fuse, _MAX_REQUEST)
        except OSError as error:
            if error.errno == errno.ENODEV:  # unmounted
                return
            raise
        _, opcode, unique, node, *_ = _HEADER.unpack_from(request)
        if opcode in _SILENT:
            continue
        try:
            reply, failed = _answer(opcode, node, request[_HEADER.size :], folder, names), 0
        except OSError as error:
            reply, failed = b"", -(error.errno or errno.EIO)
        with contextlib.suppress(FileNotFoundError):  # the question was withdrawn
            os.write(fuse, struct.pack("<IiQ", 16 + len(reply), failed, unique) + reply)
        if opcode == _DESTROY:
            return


def _answer(opcode: int, node: int, body: bytes, folder: str, names: list[str]) -> bytes:
    path = folder if node <= _ROOT else os.path.join(folder, names[node - _ROOT - 1])
    if opcode == _INIT:
        return struct.pack("<4I2H2I2H8I", 7, 31, 0, 0, 0, 0, 1 << 16, 1, 0, 0, *[0] * 8)
    if opcode == _LOOKUP:
        name = body.rstrip(b"\0").decode()
        attributes = _attributes(os.path.join(folder, name))
        if name not in names:
            names.append(name)
        return struct.pack("<4Q2I", _ROOT + 1 + names.index(name), 0, 0, 0, 0, 0) + attributes
    if opcode == _GETATTR:
        return struct.pack("<Q2I", 0, 0, 0) + _attributes(path)
    if opcode in {_OPEN, _OPENDIR}:
        return struct.pack("<Q2I", 0, 0, 0)
    if opcode == _READ:
        _, offset, size = struct.unpack_from("<QQI", body)
        return Path(path).read_bytes()[offset : offset + size]
    if opcode == _READDIR:
        _, offset, size = struct.unpack_from("<QQI", body)
        listed = b""
        for number, name in enumerate(sorted(os.listdir(folder))[offset:], offset + 1):
            entry = struct.pack("<QQII", number + 1, number, len(name.encode()), 8) + name.encode()
            entry += bytes(-len(entry) % 8)
            if len(listed) + len(entry) > size:
                break
            listed += entry
        return listed
    if opcode == _STATFS:
        return struct.pack("<5Q4I6I", 1, 0, 0, 1, 0, 4096, 255, 4096, *[0] * 7)
    if opcode in {_RELEASE, _RELEASEDIR, _FLUSH, _ACCESS, _DESTROY}:
        return b""
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def _attributes(path: str) -> bytes:
    """struct fuse_attr, with mtime for ctime."""
    status = os.stat(path)
    seconds, nanoseconds = divmod(status.st_mtime_ns, 10**9)
    kind = stat.S_IFDIR if stat.S_ISDIR(status.st_mode) else stat.S_IFREG
    return struct.pack(
        "<6Q10I",
        *(status.st_ino, status.st_size, 1, seconds, seconds, seconds),
        *(nanoseconds, nanoseconds, nanoseconds, kind | 0o755, 1, 0, 0, 0, 4096, 0),
    )


@contextlib.contextmanager
def passthrough(folder: Path, point: Path) -> Iterator[None]:
    """Have what is in `folder` shown at `point`, which is made. Raises OSError where it cannot."""
    point.mkdir()
    command = [sys.executable, __file__, str(folder), str(point)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin
        assert server.stdout
        try:
            if server.stdout.readline() != b"ready\n":
                raise OSError(errno.EPERM, "no FUSE for this user")
            yield
        finally:
            server.stdin.close()


def can_mount() -> bool:
    """Whether this user may mount one."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with passthrough(Path(folder), Path(folder) / "point"):
                return True
        except OSError:
            return False


def main() -> None:
    """Mount, say so, serve, and unmount when standard input ends."""
    folder, point = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    fuse = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fuse},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},allow_other"
    if libc.mount(b"passthrough", os.fsencode(point), b"fuse", 0, options.encode()):
        sys.exit(f"mount: {os.strerror(ctypes.get_errno())}")

    def serve_or_die() -> None:
        try:
            serve(fuse, folder)
        finally:  # whoever waits for an answer is told that there will be none
            os._exit(1)

    threading.Thread(target=serve_or_die, daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()
    libc.umount2(os.fsencode(point), 2)  # MNT_DETACH
    os._exit(0)


if __name__ == "__main__":
    main()
