"""The fork server as the run sees it: started, asked for decoders, listened to, ended."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from moderate.decode.parts import DecodeOptions
from moderate.decode.process import MAX_PACKET, packet_channel, send, start
from moderate.decode.resize import PixelSpec
from moderate.text import one_line
from moderate.types import Limits

_END_TIMEOUT = 2.0  # seconds for the server to end its decoders and itself


@dataclass(frozen=True, slots=True)
class Forked:
    """A decoder was forked; `number` is the one that it was requested under."""

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
    """The process that forks decoders; see `worker` for what it does.

    Used by one thread. The kernel ends the server when the thread that started it ends.
    """

    def __init__(
        self,
        specs: tuple[PixelSpec, ...],
        limits: Limits,
        options: DecodeOptions,
        *,
        niceness: int,
        require_sandbox: bool,
    ) -> None:
        """Raises OSError where the system has no process, memory or descriptor left for it."""
        self.has_ffmpeg = False
        """Whether `load_ffmpeg` was called."""
        self._control, server_end = packet_channel()
        with server_end:
            try:
                self.process = start("moderate.decode.worker", [server_end.fileno()])
            except OSError:
                self._control.close()
                raise
        settings = {
            "specs": [asdict(spec) for spec in specs],
            "limits": asdict(limits),
            "options": asdict(options),
            "niceness": niceness,
            "require_sandbox": require_sandbox,
        }
        with contextlib.suppress(OSError):  # it died at once, which `events` reports
            send(self._control, settings)

    def fileno(self) -> int:
        """For selectors: readable when there are events."""
        return self._control.fileno()

    def fork(self, number: int, descriptors: Sequence[int]) -> None:
        """Ask for a decoder on these descriptors, which the caller still has to close."""
        with contextlib.suppress(OSError):  # the server is gone, which `events` reports
            message = json.dumps({"fork": number}).encode()
            socket.send_fds(self._control, [message], list(descriptors))

    def load_ffmpeg(self) -> None:
        """Have the decoders that are forked from now on decode HEIC faster, with FFmpeg."""
        self.has_ffmpeg = True
        with contextlib.suppress(OSError):
            send(self._control, {"load_ffmpeg": True})

    def kill(self, number: int) -> None:
        """Kill a decoder. The server does it, because only the parent knows whose pid it is."""
        with contextlib.suppress(OSError):
            send(self._control, {"kill": number})

    def events(self) -> list[Event]:
        """What has happened since the last call. ServerGone comes last and once."""
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
            # The server sees no image, so its packets can be trusted.
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
