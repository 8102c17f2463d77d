"""Runs a command where Landlock and seccomp are forbidden, as a strict profile of an engine has it.

    python forbidden_calls.py COMMAND...

It needs nothing but Python: it runs in a container of the test.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

# Numbers of landlock_create_ruleset, landlock_restrict_self and seccomp.
CALLS = {"x86_64": (444, 446, 317), "aarch64": (444, 446, 277)}[platform.machine()]
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
NO_NEW_PRIVILEGES, SET_SECCOMP, FILTER = 38, 22, 2


def main() -> None:
    jumps = [(JUMP_IF_EQUAL, len(CALLS) - at, 0, call) for at, call in enumerate(CALLS)]
    program = [(LOAD, 0, 0, 0), *jumps, (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, REFUSE)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    header = ctypes.create_string_buffer(struct.pack("HP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(NO_NEW_PRIVILEGES, *map(ctypes.c_ulong, (1, 0, 0, 0)))
    if libc.prctl(SET_SECCOMP, ctypes.c_ulong(FILTER), ctypes.c_void_p(ctypes.addressof(header))):
        raise OSError(ctypes.get_errno(), "the filter was not taken")
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
