"""What a child process gives up before it sees the first untrusted byte.

Afterwards it can compute, communicate over the descriptors that it has, and exit. A compromised one
cannot read or write files, execute, fork, open a connection or touch another process. None of this
needs root.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys
from collections.abc import Iterable
from enum import StrEnum

from moderate.decode.seccomp import decoder_filter

MIN_MEMORY_BYTES = 256 * 1024 * 1024
"""The least that `harden` accepts: a decoder needs some 60 MiB before the first image."""

# The part of memory_bytes for pages of program code (measured: 40 MiB) and the main stack.
_CODE_AND_STACK_BYTES = 64 * 1024 * 1024
_STACK_BYTES = 8 * 1024 * 1024  # the usual limit of the main stack
_DESCRIPTORS = 3  # 0, 1 and 2 are in use: no other can be opened. It is poll()'s limit, too


class Protection(StrEnum):
    """What `harden` can make active: a closed list."""

    NO_NEW_PRIVS = "no_new_privs"
    NO_CAPABILITIES = "no_capabilities"
    LANDLOCK = "landlock"
    SECCOMP = "seccomp"
    MEMORY_LIMIT = "memory_limit"
    FILE_LIMITS = "file_limits"
    NO_DUMP = "no_dump"
    ENDS_WITH_PARENT = "ends_with_parent"

    @property
    def meaning(self) -> str:
        """What a decoder could do without it, in one line."""
        return _MEANINGS[self]


_MEANINGS: dict[Protection, str] = {
    Protection.NO_NEW_PRIVS: "gain privileges through a set-user-ID program",
    Protection.NO_CAPABILITIES: "use the privileges of root where moderate runs as root",
    Protection.LANDLOCK: "reach files, and other processes by signals, but for seccomp",
    Protection.SECCOMP: "fork and open UDP connections",
    Protection.MEMORY_LIMIT: "take all of the machine's memory",
    Protection.FILE_LIMITS: "open and grow files, but for landlock and seccomp",
    Protection.NO_DUMP: "leave an image in a core dump, and be debugged by another process",
    Protection.ENDS_WITH_PARENT: "go on computing after a run was killed",
}


def harden(memory_bytes: int) -> tuple[Protection, ...]:
    """Restrict this process for good, as far as its kernel can; returns what is active now.

    Call it with one thread, after all imports and mappings: nothing can be opened afterwards.
    The process's own memory (heap, thread stacks) and pages of program code together stay within
    memory_bytes (at least MIN_MEMORY_BYTES), beyond which allocations fail; mappings shared with
    the parent do not count. Its address space grows by at most memory_bytes from now on: memory
    that is mapped and never written would otherwise cost page tables without limit. (Single pages
    far apart still cost up to two pages of tables each, 0.5 GiB where vm.max_map_count is 65,530.)
    Raises ValueError for a smaller memory_bytes, never for what a kernel lacks.
    """
    if memory_bytes < MIN_MEMORY_BYTES:
        raise ValueError(f"a decoder needs at least {MIN_MEMORY_BYTES >> 20} MiB of memory")
    if sys.platform != "linux":
        return ()
    mapped_bytes = _mapped_bytes()  # while files can still be opened
    # seccomp comes last, because it forbids the calls of the others. Landlock comes before the
    # limit of descriptors, because it opens one for a moment.
    steps = {
        Protection.ENDS_WITH_PARENT: _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
        # The core limit alone does not hold where a program collects the dumps.
        Protection.NO_DUMP: _prctl(_PR_SET_DUMPABLE, 0) and _limit(resource.RLIMIT_CORE, 0),
        Protection.NO_NEW_PRIVS: _prctl(_PR_SET_NO_NEW_PRIVS, 1),
        Protection.LANDLOCK: _landlock(),
        Protection.FILE_LIMITS: _limit(resource.RLIMIT_FSIZE, 0)
        and _limit(resource.RLIMIT_NOFILE, _DESCRIPTORS),
        # RLIMIT_DATA is the limit that an image runs into, as a MemoryError. It does not count the
        # shared buffers. Nor does it count memory that cannot be written, hence RLIMIT_AS.
        Protection.MEMORY_LIMIT: _limit(resource.RLIMIT_STACK, _STACK_BYTES)
        and _limit(resource.RLIMIT_DATA, memory_bytes - _CODE_AND_STACK_BYTES)
        and mapped_bytes > 0
        and _limit(resource.RLIMIT_AS, mapped_bytes + memory_bytes),
        # Without capabilities, root cannot raise the limits again.
        Protection.NO_CAPABILITIES: _drop_capabilities(),
        Protection.SECCOMP: _seccomp(),
    }
    return tuple(name for name in Protection if steps[name])


def end_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends."""
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def missing(sandbox: Iterable[str]) -> tuple[Protection, ...]:
    """The protections that are not among those active in a sandbox."""
    names = set(sandbox)
    return tuple(name for name in Protection if name not in names)


def landlock_abi() -> int:
    """The version of Landlock that this kernel offers, 0 for none."""
    if sys.platform != "linux":
        return 0
    create_version = 1
    return max(0, _syscall(_LANDLOCK_CREATE_RULESET, 0, 0, create_version))


# linux/prctl.h, linux/seccomp.h
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_SECCOMP_SET_MODE_FILTER, _SECCOMP_ALL_THREADS = 1, 1
# linux/capability.h
_CAPABILITY_VERSION_3 = 0x20080522

# Numbers of system calls: Landlock's are the same everywhere, the others by machine.
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446
_SECCOMP = {"x86_64": 317, "aarch64": 277}

# Rights by the Landlock version that introduced them (linux/landlock.h). A ruleset that names them
# and has no rules denies them all: on files, on TCP ports, and by abstract sockets and signals.
_FILE_RIGHTS = (
    (1, (1 << 13) - 1),  # execute, write, read, list, remove, make
    (2, 1 << 13),  # refer
    (3, 1 << 14),  # truncate
    (5, 1 << 15),  # ioctl on devices
    (9, 1 << 16),  # connect to unix sockets by path
)
_NET_RIGHTS = ((4, 0b11),)  # bind and connect TCP
_SCOPES = ((6, 0b11),)  # abstract unix sockets, signals


def _landlock() -> bool:
    """Deny all that Landlock can deny. Without rules, that takes only two system calls.

    False where other threads run, because Landlock would not restrict them.
    """
    abi = landlock_abi()
    if not abi:
        return False
    handled = [
        sum(bits for version, bits in rights if version <= abi)
        for rights in (_FILE_RIGHTS, _NET_RIGHTS, _SCOPES)
    ]
    # Older kernels accept the longer structure if the fields that they do not know are zero.
    attributes = ctypes.create_string_buffer(struct.pack("3Q", *handled), 24)
    ruleset = _syscall(_LANDLOCK_CREATE_RULESET, ctypes.addressof(attributes), 24, 0)
    if ruleset < 0:
        return False
    alone = _has_one_thread()
    done = _syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return done and alone


def _has_one_thread() -> bool:
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False


def _seccomp() -> bool:
    machine = os.uname().machine
    program = decoder_filter(machine, os.getpid())
    if program is None:
        return False
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HP", len(program) // 8, ctypes.addressof(instructions))
    argument = ctypes.create_string_buffer(header, len(header))
    return (
        _syscall(
            _SECCOMP[machine],
            _SECCOMP_SET_MODE_FILTER,
            _SECCOMP_ALL_THREADS,
            ctypes.addressof(argument),
        )
        == 0
    )


def _drop_capabilities() -> bool:
    libc = ctypes.CDLL(None)
    return bool(libc.capset(struct.pack("Ii", _CAPABILITY_VERSION_3, 0), bytes(24)) == 0)


def _mapped_bytes() -> int:
    """The size of this process's address space, 0 where it is not known."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[0]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0


def _limit(kind: int, value: int) -> bool:
    """Lower a limit for good, never raise it."""
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    try:
        resource.setrlimit(kind, (value, value))
    except (OSError, ValueError):
        return False
    return True


def _prctl(option: int, value: int) -> bool:
    arguments = (ctypes.c_ulong(number) for number in (value, 0, 0, 0))
    return bool(ctypes.CDLL(None).prctl(option, *arguments) == 0)


def _syscall(number: int, *arguments: int) -> int:
    call = ctypes.CDLL(None).syscall
    call.restype = ctypes.c_long
    return int(call(*(ctypes.c_long(value) for value in (number, *arguments))))
