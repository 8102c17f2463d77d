"""The sandboxed child process: how every process that sees untrusted bytes is started and ends.

Images, videos and Parquet files are read by children of this program. This module has what they
share. The parent starts the child with `start`, talks to it in packets over `packet_channel`, and
words its end with `exit_reason`. The child restricts itself with `enter_sandbox` before it reads
the first untrusted byte, and says so in its first packet, which is one of:

- `ready`: the names of the protections that are active. The child waits for work.
- `refused`: the user requires a complete sandbox, which this system does not give. No other child
  would fare better, so the run ends with this reason.
- `failed`: the child could not get ready, for a reason that another child may not meet.

Packets are JSON, never pickles. The parent believes nothing in them that it has not checked.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from moderate.decode.ring import above_standard
from moderate.decode.sandbox import harden, missing
from moderate.errors import RunError
from moderate.native import ROOT, child_environment
from moderate.text import one_line

MAX_PACKET = 64 * 1024
"""Bytes; the longest packet that either side sends or accepts."""

_MAX_REASON = 1000  # characters of a failure that a child reports
_EXIT_TIMEOUT = 1.0  # seconds between the end of a child's channel and its exit
_INHERITED = ("PATH", "PYTHON", "LD_", "LANG", "LC_", "VIRTUAL_ENV", "HOME", "TMPDIR")


class WrongAnswerError(Exception):
    """The child sent what no honest child sends; the message is for the image's row."""


class ChannelClosedError(Exception):
    """The child closed its end of the channel, which is the first sign of its end."""


# In the parent


def start(
    module: str, descriptors: Sequence[int], variables: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Run `module` in a child that inherits `descriptors` and gets their numbers as arguments.

    `variables` are added to its environment. Raises OSError where the system has no process,
    memory or descriptor left.
    """
    return subprocess.Popen(
        # -P: a folder of uploads may hold a PIL.py, which must not be imported.
        [sys.executable, "-P", "-m", module, *map(str, descriptors)],
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # what a library prints must not end up among the rows
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env={**_environment(), **(variables or {})},
        start_new_session=True,  # a Ctrl-C at the terminal is the parent's to handle
    )


def packet_channel() -> tuple[socket.socket, socket.socket]:
    """The parent's end of a new channel of packets, which never blocks, and the child's end."""
    parent_end, child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent_end.setblocking(False)
    return parent_end, socket.socket(fileno=above_standard(child_end.detach()))


def receive(channel: socket.socket, name: str) -> dict[str, Any]:
    """The next packet of the child that is called `name` in messages.

    Raises ChannelClosedError where there is none, WrongAnswerError where it is not a JSON object.
    """
    try:
        packet = channel.recv(MAX_PACKET)
    except OSError:
        packet = b""
    if not packet:
        raise ChannelClosedError
    try:
        message = json.loads(packet)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise WrongAnswerError(f"the {name} gave a wrong answer")
    return message


def active_sandbox(message: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The protections that a child's first packet names as active.

    Raises RunError where the child refuses to run, WrongAnswerError where it could not get ready.
    """
    if "refused" in message:
        raise RunError(one_line(str(message["refused"])))
    if "failed" in message:
        raise WrongAnswerError(one_line(str(message["failed"])))
    if "ready" not in message:
        raise WrongAnswerError(f"the {name} gave a wrong answer")
    return tuple(str(protection) for protection in message["ready"])


def how_it_ended(process: subprocess.Popen[bytes], name: str) -> str:
    """Why a child is gone; where it is still there, that it gave a wrong answer."""
    try:
        code = process.wait(_EXIT_TIMEOUT)
    except subprocess.TimeoutExpired:
        return f"the {name} gave a wrong answer"
    return exit_reason(code, name)


def exit_reason(code: int, name: str) -> str:
    """An exit code in words; a negative one is the number of the signal that killed the child."""
    if code < 0:
        signal_names = {number.value: number.name for number in signal.Signals}
        return f"the {name} was killed by {signal_names.get(-code, f'signal {-code}')}"
    return f"the {name} ended with exit code {code}"


def _environment() -> dict[str, str]:
    """The child's environment: without keys and tokens, which are no business of its."""
    own = child_environment()
    return {
        **{name: value for name, value in own.items() if name.startswith(_INHERITED)},
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
        # Big blocks that are kept for the next image need not be cleared by the kernel again.
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
    }


# In the child


def enter_sandbox(channel: socket.socket, memory_bytes: int, *, require_sandbox: bool) -> bool:
    """Restrict this process for good and tell the parent; False where it must not go on.

    See `harden` for when to call it and for `memory_bytes`.
    """
    sandbox = harden(memory_bytes)
    if require_sandbox and (lacking := missing(sandbox)):
        reason = f"--require-sandbox: this system lacks {', '.join(lacking)}; see 'moderate doctor'"
        send(channel, {"refused": reason})
        return False
    send(channel, {"ready": sandbox})
    return True


def send(channel: socket.socket, message: Mapping[str, Any]) -> None:
    """Send a packet. Raises OSError where the other side is gone."""
    channel.send(json.dumps(message).encode())


def send_failure(channel: socket.socket, error: Exception) -> None:
    """Tell the parent that this process cannot get ready, or cannot go on."""
    send(channel, {"failed": f"{type(error).__name__}: {error}"[:_MAX_REASON]})
