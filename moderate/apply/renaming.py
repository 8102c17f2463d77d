"""Giving a file another name without ever taking the place of another file."""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from typing import Any

_RENAME_NOREPLACE = 1  # linux/fs.h
_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


def rename_in(folder: int, name: bytes, other: int, new_name: bytes) -> None:
    """Rename a file from one open folder to another.

    Raises FileExistsError where the name is taken, OSError with EXDEV across file systems. Where
    the file system knows no such renaming, it is done by a hard link: whoever is killed between the
    two steps leaves the file with both names.
    """
    renameat2 = _renameat2()
    if renameat2 is not None:
        if renameat2(folder, name, other, new_name, _RENAME_NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
        if number not in _UNSUPPORTED:
            raise OSError(number, os.strerror(number), name)
    _rename_by_link(folder, name, other, new_name)


def _rename_by_link(folder: int, name: bytes, other: int, new_name: bytes) -> None:
    os.link(name, new_name, src_dir_fd=folder, dst_dir_fd=other, follow_symlinks=False)
    there = os.stat(new_name, dir_fd=other, follow_symlinks=False)
    here = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not os.path.samestat(there, here):  # exchanged between the two calls
        os.unlink(new_name, dir_fd=other)
        raise OSError(errno.EBUSY, "was replaced meanwhile", name)
    os.unlink(name, dir_fd=folder)


@cache
def _renameat2() -> Any:
    """The function of the C library; None of one that is too old to have it."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is not None:
        function.argtypes = (
            ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint,
        )  # fmt: skip
        function.restype = ctypes.c_int
    return function
