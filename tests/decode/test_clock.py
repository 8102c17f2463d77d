"""The clock of an image counts CPU time, and sees who neither works nor waits for a processor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from moderate.decode.clock import WALL_FACTOR, DecodingClock, cpu_time

SPIN = "while True: pass"
SLEEP = "import time; time.sleep(1000)"
# The main thread waits for one that works, as libraries with threads of their own do.
THREAD = (
    "import threading; t = threading.Thread(target=lambda: exec('while True: pass')); t.start()"
)


@contextmanager
def process(code: str, processor: int | None = None) -> Iterator[int]:
    child = subprocess.Popen([sys.executable, "-c", code])
    try:
        if processor is not None:
            os.sched_setaffinity(child.pid, {processor})
        time.sleep(0.5)  # its start is over
        yield child.pid
    finally:
        child.kill()
        child.wait()


def run_out(clock: DecodingClock, patience: float) -> float:
    """Seconds until the clock has expired, looked at as it wants to be looked at."""
    begun = time.monotonic()
    while not clock.expired():
        assert time.monotonic() - begun < patience, "the clock never expires"
        time.sleep(max(0.0, clock.next_look - time.monotonic()))
    return time.monotonic() - begun


def test_a_process_that_works_has_its_cpu_time() -> None:
    with process(SPIN) as pid:
        before = cpu_time(pid)
        took = run_out(DecodingClock(pid, 0.5), 60)
        # On a machine that is busy enough, the wall clock behind it comes first.
        assert cpu_time(pid) - before >= 0.5 or took >= WALL_FACTOR * 0.5


def test_one_that_waits_for_a_processor_is_not_at_fault() -> None:
    processor = min(os.sched_getaffinity(0))
    with process(SPIN, processor) as pid, process(SPIN, processor), process(SPIN, processor):
        os.setpriority(os.PRIO_PROCESS, pid, 5)
        before = cpu_time(pid)
        took = run_out(DecodingClock(pid, 0.4), 60)
        used = cpu_time(pid) - before
        # It had a third of a processor at most, and yet all its time, or the generous wall clock.
        assert used >= 0.4 or took >= WALL_FACTOR * 0.4


@pytest.mark.parametrize("stopped", [False, True])
def test_one_that_does_nothing_is_out_of_time(stopped: bool) -> None:
    with process(SPIN if stopped else SLEEP) as pid:
        if stopped:
            os.kill(pid, signal.SIGSTOP)
        before = cpu_time(pid)
        took = run_out(DecodingClock(pid, 1.0), 60)
        assert cpu_time(pid) - before < 0.5
        assert took < WALL_FACTOR, "the wall clock behind it was not needed"


def test_a_thread_that_works_counts_for_its_process() -> None:
    with process(THREAD) as pid:
        before = cpu_time(pid)
        run_out(DecodingClock(pid, 0.5), 60)
        assert cpu_time(pid) - before >= 0.5


def test_a_process_that_is_gone_is_not_waited_for() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert cpu_time(child.pid) == 0.0
    run_out(DecodingClock(child.pid, 0.1), 60)
