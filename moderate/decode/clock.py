"""The clock of one image, kept from outside the process that decodes it.

It counts the process's CPU time, so that a busy machine fails no honest image. A generous wall
clock stands behind it, and a process that neither works nor waits for a processor has no excuse.
"""

from __future__ import annotations

import os
import time

WALL_FACTOR = 10
"""A process may take this many times its CPU limit by the wall clock."""

_NEXT_LOOK = 0.25  # seconds until another look at a process that seems to do nothing
_LEAST_WAIT = 0.01  # seconds between looks at one that works
_WORKING = "RD"  # states of proc(5): running or waiting for a processor; waiting for the disk
_NO_PROGRESS = 0.001  # CPU seconds between two looks that are not worth being called work


class DecodingClock:
    """Started when a process gets an image. `pid` must not be reaped while the clock is used."""

    def __init__(self, pid: int, cpu_seconds: float) -> None:
        self._pid = pid
        self._limit = cpu_seconds
        self._begun = time.monotonic()
        self._begun_cpu = self._seen_cpu = cpu_time(pid)
        self._was_idle = False
        self.next_look = self._begun + cpu_seconds
        """When `expired` may have something to say, by time.monotonic()."""

    def expired(self) -> bool:
        """Whether the process has had its time. Sets next_look where it has not."""
        now = time.monotonic()
        wall = now - self._begun
        if wall < self._limit:
            # It has one thread that works: there is no more CPU time than wall time.
            return False
        cpu = cpu_time(self._pid)
        used = cpu - self._begun_cpu
        if used >= self._limit or wall >= WALL_FACTOR * self._limit:
            return True
        progress = cpu - self._seen_cpu > _NO_PROGRESS
        idle = not progress and not _is_working(self._pid)
        if idle and self._was_idle:
            return True
        self._was_idle, self._seen_cpu = idle, cpu
        # One that works cannot have used up what is left any sooner.
        self.next_look = now + (_NEXT_LOOK if idle else max(_LEAST_WAIT, self._limit - used))
        return False


def cpu_time(pid: int) -> float:
    """CPU seconds that all threads of a process have used; 0.0 where it is gone.

    The number of a process's CPU clock is that of clock_getcpuclockid(3) on Linux: the complement
    of the pid shifted by 3, and 2 for the scheduler's clock (include/linux/posix-timers_types.h).
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def _is_working(pid: int) -> bool:
    """Whether a thread of the process runs, waits for a processor or for the disk.

    True where the system does not say.
    """
    tasks = f"/proc/{pid}/task"
    try:
        return any(_state(f"{tasks}/{thread}/stat") in _WORKING for thread in os.listdir(tasks))
    except (OSError, IndexError):
        return True


def _state(stat_file: str) -> str:
    with open(stat_file, "rb") as file:
        # The name before the state may hold anything, also brackets.
        return file.read().rpartition(b")")[2].split()[0].decode()
