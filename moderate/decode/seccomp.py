"""The system calls that a decoder may make, as a seccomp filter: an allow-list in classic BPF.

No package is used for it: some that build such filters need libseccomp, which pip does not install,
and the others run ldconfig at every start. This is a table and forty lines.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable

# Calls allowed with any arguments, and their numbers on x86_64 and aarch64 (None: not there).
# Sources: the kernel's arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h.
_ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # on descriptors that are open already; none of these opens another
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "recvfrom": (45, 207),
    "recvmsg": (47, 212),
    "sendmsg": (46, 211),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    # memory; mmap and mprotect are below
    "brk": (12, 214),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    # threads; clone is below
    "futex": (202, 98),
    "rseq": (334, 293),
    "set_robust_list": (273, 99),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    # clocks, random numbers, and facts about the process and the machine
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "getrandom": (318, 278),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getppid": (110, 173),
    "getrusage": (98, 165),
    "getcpu": (309, 168),
    "sysinfo": (99, 179),
    "uname": (63, 160),
}

# Calls that are allowed with some arguments only.
_CLONE, _CLONE3 = (56, 220), (435, 435)
_MMAP, _MPROTECT = (9, 222), (10, 226)
_SENDTO, _TGKILL = (44, 206), (234, 131)

# What both glibc and musl pass to clone for a thread: CLONE_VM, _FS, _FILES, _SIGHAND, _THREAD,
# _SYSVSEM, _SETTLS, _PARENT_SETTID and _CHILD_CLEARTID. musl adds a CLONE_DETACHED without effect.
_THREAD_FLAGS, _CLONE_DETACHED = 0x3D0F00, 0x400000
_PROT_EXEC = 0x4
# Shared and growing mappings escape RLIMIT_DATA.
_MAP_TYPE, _MAP_PRIVATE, _MAP_GROWSDOWN = 0x0F, 0x02, 0x0100

# Column of the table, and linux/audit.h's number of the architecture.
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_X32 = 0x40000000  # bit of the numbers by which x86_64 offers its calls with 32-bit pointers

# linux/bpf_common.h and linux/seccomp.h
_LOAD, _AND, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_KILL, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data, bytes
_LOW, _HIGH = 0, 4  # halves of an argument; both machines are little-endian


def decoder_filter(machine: str, pid: int) -> bytes | None:
    """The filter (struct sock_filter array) for process `pid`, or None for an unknown machine.

    machine is as os.uname() names it. A call that is not on the list fails with EPERM, so that a
    library that tries something harmless does not cost the image. A call of another architecture
    ends the process, because its number means another call.
    """
    if machine not in _MACHINES:
        return None
    column, architecture = _MACHINES[machine]
    program = [
        _op(_LOAD, _ARCHITECTURE),
        _op(_IF_EQUAL, architecture, 1, 0),
        _op(_RETURN, _KILL),
        _op(_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        program += [_op(_IF_AT_LEAST, _X32, 0, 1), _op(_RETURN, _KILL)]
    for numbers in _ALLOWED.values():
        if (number := numbers[column]) is not None:
            program += [_op(_IF_EQUAL, number, 0, 1), _op(_RETURN, _ALLOW)]
    # Its flags are in memory, which a filter cannot read. With ENOSYS, libc uses clone instead.
    program += _call(_CLONE3[column], (), otherwise=_ERRNO | errno.ENOSYS)
    program += _call(_CLONE[column], _argument(0, _THREAD_FLAGS, mask=~_CLONE_DETACHED))
    program += _call(
        _MMAP[column],
        _argument(2, 0, mask=_PROT_EXEC)
        + _argument(3, _MAP_PRIVATE, mask=_MAP_TYPE | _MAP_GROWSDOWN),
    )
    program += _call(_MPROTECT[column], _argument(2, 0, mask=_PROT_EXEC))
    program += _call(_SENDTO[column], _argument(4, 0) + _argument(4, 0, half=_HIGH))  # no address
    program += _call(_TGKILL[column], _argument(0, pid))  # abort()
    program.append(_op(_RETURN, _ERRNO | errno.EPERM))
    return b"".join(program)


def _op(code: int, value: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
    """One instruction (struct sock_filter); jumps are numbers of instructions to skip."""
    return struct.pack("HBBI", code, jump_true, jump_false, value)


def _argument(index: int, value: int, mask: int = -1, half: int = _LOW) -> list[tuple[int, ...]]:
    """The condition that 32 bits of an argument, masked, equal `value`."""
    return [(_FIRST_ARGUMENT + 8 * index + half, mask & 0xFFFFFFFF, value)]


def _call(
    number: int, conditions: Iterable[tuple[int, ...]], otherwise: int | None = None
) -> list[bytes]:
    """Allow one call where all conditions hold, else refuse it; `otherwise` replaces both."""
    refuse = _op(_RETURN, _ERRNO | errno.EPERM)
    body: list[bytes] = []
    if otherwise is not None:
        body.append(_op(_RETURN, otherwise))
    else:
        for offset, mask, value in conditions:
            body += [_op(_LOAD, offset), _op(_AND, mask), _op(_IF_EQUAL, value, 1, 0), refuse]
        body.append(_op(_RETURN, _ALLOW))
    return [_op(_IF_EQUAL, number, 0, len(body)), *body]
