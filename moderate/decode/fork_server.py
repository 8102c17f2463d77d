"""The fork server as the run sees it: started, asked for decoders, heard, ended."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from moderate.decode.process import environment
from moderate.decode.resize import PixelSpec
from moderate.decode.ring import above_standard
from moderate.decode.worker import MAX_PACKET
from moderate.native import ROOT
from moderate.text import one_line
from moderate.types import Limits

_END_TIMEOUT = 2.0  # seconds for the server to end its decoders and itself


@dataclass(frozen=True, slots=True)
class Forked:
    """A decoder was forked; `number` is the one that it was asked for under."""

    number: int
    pid: int


@dataclass(frozen=True, slots=True)
class NotForked:
    """A decoder could not be forked."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A decoder ended: its exit code, or the negative number of the signal that killed it."""

    number: int
    code: int


@dataclass(frozen=True, slots=True)
class ServerGone:
    """The server ended, and its decoders with it."""

    reason: str


Event = Forked | NotForked | Ended | ServerGone


class ForkServer:
    """Used by one thread, with whose end the server ends too.

    Raises OSError where the system has no process, memory or descriptor left for it.
    """

    def __init__(
        self,
        specs: tuple[PixelSpec, ...],
        limits: Limits,
        *,
        niceness: int,
        require_sandbox: bool,
    ) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs = socket.socket(fileno=above_standard(theirs.detach()))
        ours.setblocking(False)
        self._control = ours
        try:
            self.process = subprocess.Popen(
                # -P: a folder of uploads may hold a PIL.py; it must not be imported.
                [sys.executable, "-P", "-m", "moderate.decode.worker", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # what a library prints has no place among our rows
                stderr=subprocess.DEVNULL,
                cwd=ROOT,
                env=environment(),
                start_new_session=True,  # a Ctrl-C at the terminal is the run's to handle
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        start = {
            "specs": [asdict(spec) for spec in specs],
            "limits": asdict(limits),
            "niceness": niceness,
            "require_sandbox": require_sandbox,
        }
        with contextlib.suppress(OSError):  # it died at once: `events` says so
            self._control.send(json.dumps(start).encode())

    def fileno(self) -> int:
        """For selectors: readable when there are events."""
        return self._control.fileno()

    def fork(self, number: int, descriptors: Sequence[int]) -> None:
        """Ask for a decoder on these descriptors, which stay the caller's to close."""
        with contextlib.suppress(OSError):  # `events` says that the server is gone
            message = json.dumps({"fork": number}).encode()
            socket.send_fds(self._control, [message], list(descriptors))

    def kill(self, number: int) -> None:
        """Kill a decoder. The server does it, because only its parent knows whose pid it is."""
        with contextlib.suppress(OSError):
            self._control.send(json.dumps({"kill": number}).encode())

    def events(self) -> list[Event]:
        """What has happened since the last call; ServerGone comes last and once."""
        events: list[Event] = []
        while True:
            try:
                packet = self._control.recv(MAX_PACKET)
            except BlockingIOError:
                return events
            except OSError:
                packet = b""
            if not packet:
                events.append(ServerGone("the process that starts decoders has ended"))
                return events
            event = json.loads(packet)
            if "forked" in event:
                events.append(Forked(event["forked"], event["pid"]))
            elif "not_forked" in event:
                events.append(NotForked(event["not_forked"], event["reason"]))
            elif "ended" in event:
                events.append(Ended(event["ended"], event["code"]))
            else:
                events.append(ServerGone(one_line(str(event.get("failed")))))
                return events

    def close(self) -> None:
        """End the server and all its decoders, and wait until they are gone."""
        self._control.close()
        try:
            self.process.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
