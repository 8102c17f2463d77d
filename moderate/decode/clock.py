"""The clock of one image, which runs outside the process that decodes it.

It counts the process's CPU time, so that no honest image fails on a busy machine. A generous limit
of wall time ends a process that never uses up its CPU time, and a process that neither works nor
waits for a processor is ended after two looks at it.
"""

from __future__ import annotations

import os
import time

WALL_FACTOR = 10
"""A process may take this many times its CPU limit in wall time."""

_IDLE_WAIT = 0.25  # seconds until the next look at a process that seems to do nothing
_MIN_WAIT = 0.01  # seconds between looks at one that works
_WORKING = "RD"  # states of proc(5): running or waiting for a processor; waiting for the disk
_NO_PROGRESS = 0.001  # CPU seconds between two looks that do not count as work


class DecodingClock:
    """Runs from its construction on. `pid` must not be reaped while the clock is used."""

    def __init__(self, pid: int, cpu_seconds: float) -> None:
        self._pid = pid
        self._limit = cpu_seconds
        self._begun = time.monotonic()
        self._begun_cpu = self._seen_cpu = cpu_time(pid)
        self._was_idle = False
        self.next_look = self._begun + cpu_seconds
        """When to call `expired` next, by time.monotonic(). Before that it is False."""

    def expired(self) -> bool:
        """Whether the process has used up its time. Sets next_look where it has not."""
        now = time.monotonic()
        wall = now - self._begun
        if wall < self._limit:
            # Only one of its threads works, so it has used less CPU time than wall time.
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
        # A process that works cannot use up the rest of its time any sooner.
        self.next_look = now + (_IDLE_WAIT if idle else max(_MIN_WAIT, self._limit - used))
        return False


def cpu_time(pid: int) -> float:
    """CPU seconds that all threads of a process have used; 0.0 where it is gone.

    The number of a process's CPU clock is computed as clock_getcpuclockid(3) does on Linux: the
    complement of the pid, shifted by 3, with 2 for the scheduler's clock
    (include/linux/posix-timers_types.h).
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def _is_working(pid: int) -> bool:
    """Whether a thread of the process runs, or waits for a processor or for the disk.

    True where that is not known.
    """
    tasks = f"/proc/{pid}/task"
    try:
        return any(_state(f"{tasks}/{thread}/stat") in _WORKING for thread in os.listdir(tasks))
    except (OSError, IndexError):
        return True


def _state(stat_file: str) -> str:
    with open(stat_file, "rb") as file:
        # The name before the state may hold anything, even brackets.
        return file.read().rpartition(b")")[2].split()[0].decode()
