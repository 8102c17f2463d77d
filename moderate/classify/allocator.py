"""Configures the C library's allocator to keep the large blocks that every batch asks for again."""

from __future__ import annotations

import ctypes
import os

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 * 1024 * 1024  # bytes; glibc refuses more, on 64 bits
_TRIM_THRESHOLD = 1024 * 1024 * 1024  # bytes


def tune_allocator() -> bool:
    """Keep freed blocks of up to 32 MiB for reuse, rather than giving them back to the kernel.

    By default glibc maps and unmaps the tensors of every batch, and the kernel clears each page
    anew. Changes malloc for the whole process: for a command line that runs models on the CPU, not
    for a library to do unasked. Returns whether it took effect, which is on glibc alone.
    """
    try:
        if not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            return False
        mallopt = ctypes.CDLL(None).mallopt
    except (ValueError, OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return bool(
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        and mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)
    )
