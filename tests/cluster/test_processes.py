"""What a Ray that was started for a run leaves behind is ended with it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys

import pytest

from moderate.cluster.processes import children, ended_at_last
from tests.support.patience import PATIENCE

PARENT = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"])
sys.stdin.read()
"""


def test_a_process_that_was_left_behind_by_its_parent_is_ended_and_no_other() -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    parent = subprocess.Popen([sys.executable, "-c", PARENT], **pipes)  # type: ignore[call-overload]
    assert parent.stdout.readline() == b"up\n"
    assert {parent.pid, other.pid} <= children(os.getpid())
    (orphan,) = children(parent.pid)
    descriptor = os.pidfd_open(orphan)
    try:
        with pytest.raises(KeyboardInterrupt), ended_at_last({parent.pid}):
            parent.kill()  # and not what it started
            raise KeyboardInterrupt
        assert select.select([descriptor], [], [], PATIENCE)[0], "it goes on"
        assert other.poll() is None
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        os.close(descriptor)
        parent.communicate()
        other.communicate(b"\n")
