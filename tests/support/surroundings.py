"""Odd places to start a process in, and what it opened there."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path

_IN_OPEN, _IN_NONBLOCK = 0x20, 0o4000
_PR_CAPBSET_DROP, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 24, 22, 38
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2
_UNSHARE = {"x86_64": 272, "aarch64": 97}


class Opened:
    """A context manager that collects the names of files opened in one folder, by anybody."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.names: set[str] = set()

    def __enter__(self) -> Opened:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(_IN_NONBLOCK)
        if libc.inotify_add_watch(self._fd, os.fsencode(self._folder), _IN_OPEN) < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch")
        return self

    def __exit__(self, *_: object) -> None:
        try:
            while data := os.read(self._fd, 1 << 16):
                while data:
                    length = struct.unpack_from("iIII", data)[3]
                    self.names.add(data[16 : 16 + length].rstrip(b"\0").decode())
                    data = data[16 + length :]
        except BlockingIOError:
            pass
        os.close(self._fd)
        self.names.discard("")  # the folder itself


def in_closed_folder(folder: Path) -> Callable[[], None]:
    """For a child that was started in `folder`: its owner, root included, may not enter it."""

    def close() -> None:
        libc = ctypes.CDLL(None)
        for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
            libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        folder.chmod(0)

    return close


def without_unshare() -> None:
    """For a child: a seccomp filter refuses unshare(), as Docker's usual profile does."""
    load_number, return_errno = (0x20, 0, 0, 0), (0x06, 0, 0, 0x00050001)
    is_unshare = (0x15, 0, 1, _UNSHARE[os.uname().machine])
    allow = (0x06, 0, 0, 0x7FFF0000)
    steps = (load_number, is_unshare, return_errno, allow)
    program = b"".join(struct.pack("HBBI", *step) for step in steps)
    code = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("HP", len(steps), ctypes.addressof(code)))
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.prctl(_PR_SET_SECCOMP, 2, ctypes.c_void_p(ctypes.addressof(header)), 0, 0):
        raise OSError("prctl(PR_SET_SECCOMP)")
