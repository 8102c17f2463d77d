"""How many cores this process may really use."""

from __future__ import annotations

import math
import os

_QUOTAS = (
    # Control groups, version 2 and 1, as a container sees its own: microseconds of CPU time allowed
    # in every period of so many microseconds.
    ("/sys/fs/cgroup/cpu.max",),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)


def available_cores() -> int:
    """Cores that this process is bound to, or fewer where its container has a quota; at least 1."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min([bound or 1, *_quotas()]))


def _quotas() -> list[int]:
    found = []
    for files in _QUOTAS:
        try:
            words = [word for file in files for word in _read(file).split()]
            if int(words[0]) > 0:  # "max" or -1: no quota
                found.append(math.ceil(int(words[0]) / int(words[1])))
        except (OSError, ValueError, IndexError, ZeroDivisionError):
            continue
    return found


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()
