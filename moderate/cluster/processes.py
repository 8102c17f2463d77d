"""The processes of a Ray that was started here: none may outlive the run.

Ray ends its own after a grace of a second. Where that was too short, what those had started goes on
for a minute or more.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import defaultdict
from collections.abc import Collection, Iterator


def children(process: int) -> set[int]:
    """The processes that a process has started, and that have not ended."""
    return set(_by_parent()[process])


@contextlib.contextmanager
def ended_at_last(processes: Collection[int]) -> Iterator[None]:
    """Kill these processes and all that descend from them when the block ends, however it does."""
    by_parent = _by_parent()
    family = list(processes)
    for process in family:
        family += by_parent[process]
    with contextlib.ExitStack() as stack:
        for process in family:
            # By a descriptor, since its number may be that of another process by then.
            with contextlib.suppress(OSError):
                descriptor = os.pidfd_open(process)
                stack.callback(_kill, descriptor)
        yield


def _kill(descriptor: int) -> None:
    try:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    finally:
        os.close(descriptor)


def _by_parent() -> defaultdict[int, list[int]]:
    found = defaultdict(list)
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
                if fields[0] != b"Z":
                    found[int(fields[1])].append(int(name))
    return found
